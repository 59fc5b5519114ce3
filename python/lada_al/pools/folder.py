"""Image files in a folder and below it, with or without folders for classes. An id is the path below the folder, in
which what is no text (a line break, bytes that are no UTF-8) is written as in a Python string, and backslashes with it.

Files come in the order of the hashes of their paths: the same on every machine, and mixed over the folders, so that
neighbours are not all of one class. Hidden files, other kinds of files and links to folders are not part of the pool; a
link to a file outside of the folder is an item that cannot be read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from lada_al.errors import UsageError
from lada_al.pools.decode import SUFFIXES, Limits
from lada_al.pools.files import files_below
from lada_al.pools.source import Item, Listing, Names, Source, as_text, read_below

SCHEMA = pa.schema([("path", pa.binary())])


class FolderPool(Source):
    def __init__(self, folder: Path, listing: Path | None, limits: Limits) -> None:
        self.folder, self.limits = folder.resolve(), limits
        self.listing = Listing(_batches(self.folder), SCHEMA, listing)
        if not self.listing.rows:
            raise UsageError(
                f"pool: {folder} holds no image files ({' '.join(sorted(SUFFIXES))}); hidden ones and links to folders "
                "are passed over"
            )

    def __len__(self) -> int:
        return self.listing.rows

    def read(self, start: int, stop: int) -> Iterator[Item]:
        for path in self._paths(start, stop):
            yield Item(as_text(path), read_below(self.folder, path, self.limits))

    def ids(self) -> Iterator[str]:
        for start in range(0, len(self), Listing.ROWS):
            yield from map(as_text, self._paths(start, start + Listing.ROWS))

    def location(self, place: int) -> str:
        return as_text(str(self.folder / next(self._paths(place, place + 1))))

    def file(self, place: int) -> bytes | None:
        return os.fsencode(next(self._paths(place, place + 1)))

    def fingerprint(self) -> str:
        return self.listing.fingerprint()

    def _paths(self, start: int, stop: int) -> Iterator[str]:
        return (os.fsdecode(row["path"]) for row in self.listing.slice(start, stop))


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """All paths by their hashes. Held at a time: the paths' bytes, and 16 bytes more for each.

    Raises:
        UsageError: two paths are the same text.
    """
    ends, hashes, text, ids = [], [], bytearray(), Names()
    for path in files_below(folder, SUFFIXES):
        ids.id(path)
        name = os.fsencode(path)
        text += name
        ends.append(len(text))
        hashes.append(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big"))
    starts = [0, *ends]
    order = np.argsort(np.array(hashes, np.uint64), kind="stable")
    for first in range(0, len(order), Listing.ROWS):
        names = [bytes(text[starts[i] : ends[i]]) for i in order[first : first + Listing.ROWS].tolist()]
        yield pa.record_batch([pa.array(names, pa.binary())], schema=SCHEMA)
