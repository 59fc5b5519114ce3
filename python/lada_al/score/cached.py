"""Scores from cached logits: .npy of (M, C), which is mapped, or .npz of `logits` and perhaps `ids`."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lada_al.errors import UsageError
from lada_al.pools.arrays import load_arrays
from lada_al.score import methods


class CachedLogits:
    """Rows of an array; without ids, an id is the row."""

    def __init__(self, path: Path, method: str) -> None:
        if path.suffix not in (".npy", ".npz") or not path.exists():
            raise UsageError(f"--embeddings takes a .npy or .npz file that exists, got {path}")
        self.path, self.method = path, method
        arrays = load_arrays(path)
        logits = arrays.get("logits", arrays.get("images"))  # a .npy file's array has no name of its own
        if logits is None or logits.ndim != 2 or logits.dtype.kind != "f" or not logits.size:
            found = {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
            raise UsageError(f"--embeddings: expected floating logits of shape (M, C), got {found} in {path}")
        self.logits, self.ids = logits, arrays.get("ids")
        if self.ids is not None and (self.ids.shape != self.logits.shape[:1] or self.ids.dtype.kind not in "iuU"):
            raise UsageError(f"--embeddings: expected {len(self.logits)} ids of text or whole numbers in {path}")

    def __len__(self) -> int:
        return len(self.logits)

    def about(self) -> dict[str, object]:
        ends = np.concatenate([self.logits[:1], self.logits[-1:]]).tobytes()
        size = self.path.stat().st_size
        return {"embeddings": str(self.path.resolve()), "fingerprint": f"{size} {zlib.crc32(ends)}"}

    def shards(self, ranges: list[tuple[int, int]]) -> Iterator[pa.Table]:
        for start, stop in ranges:
            ids = np.arange(start, stop) if self.ids is None else self.ids[start:stop]
            logits = torch.from_numpy(np.array(self.logits[start:stop]))
            error = pa.nulls(stop - start, pa.string())
            yield pa.table({"id": pa.array(ids), **methods.columns(self.method, logits), "error": error})
