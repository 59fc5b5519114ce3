"""Scores from cached logits: .npy of (M, C), which is mapped, or .npz or Parquet of `logits` and perhaps `ids`."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lada_al.errors import UsageError
from lada_al.pools.arrays import checked_ids, load_arrays
from lada_al.pools.parquet import TEXT
from lada_al.score import methods
from lada_al.score.run import Show


class CachedLogits:
    """Rows of an array; without ids, an id is the row."""

    def __init__(self, path: Path, method: str) -> None:
        self.path, self.method = path, method
        arrays = load(path)
        self.logits = matrix(arrays, "logits", path)
        self.ids = ids_of(arrays, len(self.logits), path)

    def __len__(self) -> int:
        return len(self.logits)

    def about(self) -> dict[str, object]:
        ends = np.concatenate([self.logits[:1], self.logits[-1:]]).tobytes()
        size = self.path.stat().st_size
        return {"embeddings": str(self.path.resolve()), "fingerprint": f"{size} {zlib.crc32(ends)}"}

    def shards(self, ranges: list[tuple[int, int]], show: Show | None = None) -> Iterator[pa.Table]:
        for start, stop in ranges:
            ids = np.arange(start, stop) if self.ids is None else self.ids[start:stop]
            logits = torch.from_numpy(np.array(self.logits[start:stop]))
            table = methods.table(self.method, start, pa.array(ids), logits)
            if show is not None:
                show(stop - start)
            yield table


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; the one of a .npy file is logits.

    Raises:
        UsageError: there is no such file, or it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".parquet") or not path.exists():
        raise UsageError(f"--embeddings takes a .npy, .npz or .parquet file that exists, got {path}")
    return _columns(path) if suffix == ".parquet" else load_arrays(path, "logits")


def _columns(path: Path) -> dict[str, np.ndarray]:
    """Columns of a Parquet file, lists of equal length as (M, D); a column `id` is called ids as elsewhere."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} is not a readable Parquet file: {error}") from error
    arrays = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            values = column.flatten().to_numpy(zero_copy_only=False)
            if len(column) == 0 or column.null_count or len(values) % len(column) or _is_ragged(column):
                raise UsageError(f"--embeddings: column {name} of {path} must hold lists of equal length")
            arrays[name] = values.reshape(len(column), -1)
        elif name in ("id", "ids"):
            arrays["ids"] = _ids(column, path)
        else:
            arrays[name] = column.to_numpy(zero_copy_only=False)
    return arrays


def _ids(column: pa.Array, path: Path) -> np.ndarray:
    """A column of ids as an array, text as NumPy's own."""
    if column.null_count:
        raise UsageError(f"--embeddings: {path}: {column.null_count} ids are null")
    values = column.to_numpy(zero_copy_only=False)
    return values.astype(str) if column.type in TEXT else values


def _is_ragged(column: pa.Array) -> bool:
    return pa.types.is_list(column.type) and len(np.unique(np.diff(column.offsets.to_numpy()))) > 1


def matrix(arrays: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    """The floating array of this name, (M, D), of a type that torch takes.

    Raises:
        UsageError: it is not there, or is something else.
    """
    array = arrays.get(name)
    if array is None or array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        found = {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
        shape = "(M, C)" if name == "logits" else "(M, D)"
        raise UsageError(f"--embeddings: expected floating {name} of shape {shape}, got {found} in {path}")
    if name == "logits" and array.shape[1] < 2:
        raise UsageError(
            f"--embeddings: expected logits of at least 2 classes, got shape {array.shape} in {path}; "
            "of one output z, for a sigmoid, store [0, z]"
        )
    return _native(array if array.dtype.itemsize <= 8 else array.astype(np.float64))


def ids_of(arrays: dict[str, np.ndarray], count: int, path: Path) -> np.ndarray | None:
    """The ids, if there are any: text or whole numbers, each once."""
    ids = arrays.get("ids")
    return None if ids is None else _native(checked_ids(ids, count, f"--embeddings: {path}"))


def _native(array: np.ndarray) -> np.ndarray:
    """The array in the byte order of this machine."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)
