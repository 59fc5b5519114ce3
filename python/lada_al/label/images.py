"""The pool of a labelling project: images by id, from a folder of image files or from Parquet files.

An id is text that names one image for ever: a file's path below the folder, or a file and a row. Ids are looked up in
what the pool holds and are never made into paths, so nothing that people or files say can reach outside of it.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from PIL import Image

from lada_al.errors import UsageError
from lada_al.pools.decode import SUFFIXES, Limits, UnreadableError, open_image
from lada_al.pools.files import data_files
from lada_al.pools.folder import image_files
from lada_al.pools.source import as_text, read_below

LIMITS = Limits()


class Images(Protocol):
    """What ranking and labelling need to know of a pool."""

    def ids(self) -> list[str]:
        """Every id, in an order that does not change."""
        ...

    def image(self, id: str) -> Image.Image:
        """The image, in mode L or RGB and the right way up.

        Raises:
            KeyError: the pool has no such id.
            UnreadableError: it cannot be decoded.
        """
        ...

    def location(self, id: str) -> str:
        """Where a person finds it."""
        ...


class FolderImages:
    """Image files in a folder and below it. Hidden files, and links that lead outside, are not part of it."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"--pool: there is no folder {folder}")
        self.folder = folder.resolve()
        files = image_files(self.folder)
        self._names = {as_text(name): name for name, entry in files if _stays_inside(entry, self.folder)}
        if not self._names:
            raise UsageError(f"--pool: {folder} holds no image files ({' '.join(sorted(SUFFIXES))})")

    def ids(self) -> list[str]:
        return list(self._names)

    def image(self, id: str) -> Image.Image:
        stored = read_below(self.folder, self._names[id], LIMITS)
        if isinstance(stored, UnreadableError):
            raise stored
        return decode(stored)

    def location(self, id: str) -> str:
        return as_text(str(self.folder / self._names[id]))


class ParquetImages:
    """A Parquet file, or a folder of them, with a column `image` in the Hugging Face layout or of plain bytes."""

    def __init__(self, path: Path) -> None:
        from lada_al.pools.parquet import open_images, rows_of_groups

        if not path.exists():
            raise UsageError(f"--pool: there is no {path}")
        files = data_files(path, ".parquet")
        root = path if path.is_dir() else path.parent
        self._files = {file.relative_to(root).as_posix(): file for file in files}
        # By file, where each of its row groups begins, and where the last ends.
        self._starts = {
            name: [0, *accumulate(rows_of_groups(open_images(file, "--pool")))] for name, file in self._files.items()
        }
        if not any(starts[-1] for starts in self._starts.values()):
            raise UsageError(f"--pool: {path} has no rows")
        self._held: tuple[tuple[str, int], list[bytes | None]] | None = None

    def ids(self) -> list[str]:
        return [f"{name}#{row}" for name, starts in self._starts.items() for row in range(starts[-1])]

    def image(self, id: str) -> Image.Image:
        name, row = self._place(id)
        group = bisect.bisect_right(self._starts[name], row) - 1
        held = self._held  # one read, because several threads may ask
        if held is None or held[0] != (name, group):
            held = self._held = ((name, group), _image_bytes(self._files[name], group))
        data = held[1][row - self._starts[name][group]]
        if data is None:
            raise UnreadableError("there are no bytes")
        return decode(data)

    def location(self, id: str) -> str:
        name, row = self._place(id)
        return f"{self._files[name]}#{row}"

    def _place(self, id: str) -> tuple[str, int]:
        name, _, digits = id.rpartition("#")
        row = int(digits) if digits.isdecimal() and digits.isascii() else -1
        if name not in self._starts or str(row) != digits or not 0 <= row < self._starts[name][-1]:
            raise KeyError(id)
        return name, row


# By the kind of a pool, what opens it.
KINDS: dict[str, Callable[[Path], Images]] = {"folder": FolderImages, "parquet": ParquetImages}


def decode(stored: bytes) -> Image.Image:
    """The image in the bytes of a file, in mode L or RGB and the right way up.

    Raises:
        UnreadableError: it is no image, is cut short, or exceeds the limits.
    """
    image = open_image(stored, LIMITS)
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def _stays_inside(entry: os.DirEntry[str], root: Path) -> bool:
    """Whether this is a file, or a link to a file in or below `root`."""
    if not entry.is_symlink():
        return entry.is_file()
    return os.path.isfile(entry.path) and Path(os.path.realpath(entry.path)).is_relative_to(root)


def _image_bytes(file: Path, group: int) -> list[bytes | None]:
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(file).read_row_group(group, columns=["image"])["image"].to_pylist()
    return [row["bytes"] if isinstance(row, dict) else row for row in rows]
