"""Image files in a folder and below it, with or without folders for classes. An id is the path below the folder.

Files come in the order of the hashes of their paths: the same on every machine, and mixed over the folders, so that
neighbours are not all of one class. Hidden files and other kinds of files are not part of the pool; a link that leads
outside of the folder is an item that cannot be read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from lada_al.errors import UsageError
from lada_al.pools.decode import SUFFIXES, Limits, UnreadableError
from lada_al.pools.source import Item, Listing, Source

SCHEMA = pa.schema([("path", pa.string())])


class FolderPool(Source):
    def __init__(self, folder: Path, listing: Path | None, limits: Limits) -> None:
        self.folder, self.limits = folder.resolve(), limits
        self.listing = Listing(_batches(self.folder), SCHEMA, listing)
        if not self.listing.rows:
            raise UsageError(f"pool: {folder} holds no image files ({' '.join(sorted(SUFFIXES))})")

    def __len__(self) -> int:
        return self.listing.rows

    def read(self, start: int, stop: int) -> Iterator[Item]:
        for row in self.listing.slice(start, stop):
            yield Item(row["path"], self._bytes(row["path"]))

    def ids(self) -> Iterator[str]:
        for start in range(0, len(self), Listing.ROWS):
            yield from (row["path"] for row in self.listing.slice(start, start + Listing.ROWS))

    def fingerprint(self) -> str:
        return self.listing.fingerprint()

    def _bytes(self, name: str) -> bytes | UnreadableError:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder):
            return UnreadableError("it is a link that leads outside of the pool's folder")
        try:
            size = path.stat().st_size
            if size > self.limits.bytes:
                return UnreadableError(f"{size} bytes, more than {self.limits.bytes}")
            return path.read_bytes()
        except OSError as error:
            return UnreadableError(error.strerror or type(error).__name__)


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """All paths by their hashes. Held at a time: the paths' bytes, and 16 bytes more for each."""
    ends, hashes, text = [], [], bytearray()
    for path in _image_files(folder, ""):
        name = path.encode()
        text += name
        ends.append(len(text))
        hashes.append(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big"))
    starts = [0, *ends]
    order = np.argsort(np.array(hashes, np.uint64), kind="stable")
    for first in range(0, len(order), Listing.ROWS):
        names = [text[starts[i] : ends[i]].decode() for i in order[first : first + Listing.ROWS].tolist()]
        yield pa.record_batch([pa.array(names, pa.string())], schema=SCHEMA)


def _image_files(folder: Path, prefix: str) -> Iterator[str]:
    """Paths below the folder, sorted. Names that are no text in UTF-8 are not part of the pool."""
    with os.scandir(folder) as entries:
        listed = sorted((e for e in entries if not e.name.startswith(".") and _is_text(e.name)), key=lambda e: e.name)
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            yield from _image_files(Path(entry.path), f"{prefix}{entry.name}/")
        elif Path(entry.name).suffix.lower() in SUFFIXES and not entry.is_dir():
            yield prefix + entry.name


def _is_text(name: str) -> bool:
    return name.isprintable() and not any("\ud800" <= c <= "\udfff" for c in name)
