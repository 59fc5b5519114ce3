"""Images in one array: in memory, .npy, or .npz with `images` and perhaps `ids`. Without ids, an id is the row.

(M, H, W), (M, H, W, 1 or 3) or (M, 1 or 3, H, W), uint8. A .npy file is mapped, a .npz file is read
whole. Pickled objects are never loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lada_al.errors import UsageError
from lada_al.pools.source import Id, Item, Source


class ArrayInMemory(Source):
    """The images of an array. Without ids, an id is the row."""

    def __init__(self, images: np.ndarray, ids: np.ndarray | None = None, where: str = "pool") -> None:
        self._images: np.ndarray | None = checked_images(images, where)
        self._ids = None if ids is None else checked_ids(ids, len(images), where).tolist()
        self.id_type = pa.string() if self._ids is not None and isinstance(self._ids[0], str) else pa.int64()
        self._length = len(images)

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Iterator[Item]:
        assert self._images is not None
        for row in range(start, stop):
            yield Item(row if self._ids is None else self._ids[row], self._images[row])

    def ids(self) -> Iterator[Id]:
        yield from range(len(self)) if self._ids is None else self._ids

    def fingerprint(self) -> str:
        assert self._images is not None
        return str(self._images.shape)


class ArrayPool(ArrayInMemory):
    """Those of a file, which another process maps anew."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        arrays = load_arrays(path)
        name = "images" if "images" in arrays or len(arrays) != 1 else next(iter(arrays))
        if name not in arrays:
            raise UsageError(f"pool: {path} must hold an array images, got {', '.join(arrays)}")
        super().__init__(arrays[name], arrays.get("ids"), f"pool: {path}")

    def read(self, start: int, stop: int) -> Iterator[Item]:
        if self._images is None:
            self._images = load_arrays(self.path)["images"]
        yield from super().read(start, stop)

    def location(self, place: int) -> str:
        return f"{self.path}#{place}"

    def fingerprint(self) -> str:
        return f"{self.path.stat().st_size} {self._length}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None if isinstance(self._images, np.memmap) else self._images}


def checked_images(images: np.ndarray, where: str) -> np.ndarray:
    is_color = images.ndim == 4 and (images.shape[3] in (1, 3) or images.shape[1] in (1, 3))
    if images.dtype != np.uint8 or not (images.ndim == 3 or is_color) or not len(images):
        raise UsageError(
            f"{where}: expected uint8 images (M, H, W), (M, H, W, C) or (M, C, H, W) of 1 or 3 channels, "
            f"got {images.dtype} of shape {images.shape}"
        )
    return images


def load_arrays(path: Path, name: str = "images") -> dict[str, np.ndarray]:
    """The one array of a .npy file, mapped, under `name`; or those of a .npz file, read whole.

    Raises:
        UsageError: it cannot be read, or holds objects, which would be code.
    """
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {name: loaded}
        with loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    except Exception as error:  # whatever NumPy, zipfile and zlib make of a damaged file
        raise UsageError(f"{path} is not a readable array file: {error}") from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise UsageError(f"{path} is not a readable array file: {key} in it is no array")
    return arrays


def checked_ids(ids: np.ndarray, count: int, what: str) -> np.ndarray:
    """Ids of an array of `count` items, which an error calls `what`: text or whole numbers, each once.

    Raises:
        UsageError: they are not.
    """
    if ids.shape != (count,) or ids.dtype.kind not in "iuU":
        raise UsageError(f"{what}: ids must be {count} texts or whole numbers, got {ids.dtype} of shape {ids.shape}")
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < count:
        most = counts.argmax()
        raise UsageError(f"{what}: ids must be unique; {values[most].item()!r} comes {counts[most]} times")
    return ids
