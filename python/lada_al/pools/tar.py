"""WebDataset shards: tar files, uncompressed, each image a member. An id is the shard's path and the member's name.

The shards' headers are read once, into a listing of where each member begins; nothing is ever unpacked to a disk, so
members' names are only names. Members that are no images (.cls, .json, .txt) are not part of the pool.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from lada_al.errors import UsageError
from lada_al.pools.decode import SUFFIXES, Limits, UnreadableError
from lada_al.pools.files import data_files
from lada_al.pools.source import Item, Listing, Names, Source, as_text

SCHEMA = pa.schema([("shard", pa.int32()), ("member", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])


class TarPool(Source):
    def __init__(self, path: Path, listing: Path | None, limits: Limits) -> None:
        self.limits = limits
        self.root = path if path.is_dir() else path.parent
        self.shards = [file.relative_to(self.root).as_posix() for file in data_files(path, ".tar")]
        names = Names()
        self._shard_ids = [names.id(shard) for shard in self.shards]
        self.sizes = [(self.root / shard).stat().st_size for shard in self.shards]
        self.listing = Listing(self._batches(), SCHEMA, listing)
        if not self.listing.rows:
            raise UsageError(f"pool: the tar files in {path} hold no images ({' '.join(sorted(SUFFIXES))})")

    def __len__(self) -> int:
        return self.listing.rows

    def read(self, start: int, stop: int) -> Iterator[Item]:
        file: BinaryIO | None = None
        opened = -1
        try:
            for row in self.listing.slice(start, stop):
                if row["shard"] != opened:
                    if file is not None:
                        file.close()
                    file, opened = (self.root / self.shards[row["shard"]]).open("rb"), row["shard"]
                assert file is not None
                yield Item(self._id(row["shard"], row["member"]), self._bytes(file, row["offset"], row["size"]))
        finally:
            if file is not None:
                file.close()

    def ids(self) -> Iterator[str]:
        for start in range(0, len(self), Listing.ROWS):
            yield from (self._id(r["shard"], r["member"]) for r in self.listing.slice(start, start + Listing.ROWS))

    def location(self, place: int) -> str:
        (row,) = self.listing.slice(place, place + 1)
        return f"{as_text(str(self.root))}/{self._id(row['shard'], row['member'])}"

    def fingerprint(self) -> str:
        return f"{self.listing.fingerprint()} {self.sizes}"

    def _id(self, shard: int, member: str) -> str:
        return f"{self._shard_ids[shard]}#{member}"

    def _bytes(self, file: BinaryIO, offset: int, size: int) -> bytes | UnreadableError:
        if size > self.limits.bytes:
            return UnreadableError(f"{size} bytes, more than {self.limits.bytes}")
        file.seek(offset)
        stored = file.read(size)
        return stored if len(stored) == size else UnreadableError("the tar file ends within it")

    def _batches(self) -> Iterator[pa.RecordBatch]:
        rows: list[dict[str, int | str]] = []
        for number, shard in enumerate(self.shards):
            names = Names()
            for member in _images(self.root / shard):
                name = names.id(member.name)
                rows.append({"shard": number, "member": name, "offset": member.offset_data, "size": member.size})
                if len(rows) == Listing.ROWS:
                    yield pa.RecordBatch.from_pylist(rows, SCHEMA)
                    rows = []
        yield pa.RecordBatch.from_pylist(rows, SCHEMA)


def _images(path: Path) -> Iterator[tarfile.TarInfo]:
    """The image members of a shard, each name once: of a name that comes again, the first counts.

    Raises:
        UsageError: it is no tar file, or nobody knows what follows because it is damaged or cut short.
    """
    seen: set[str] = set()
    size = path.stat().st_size
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while archive.offset <= size and (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
                if member.isreg() and Path(member.name).suffix.lower() in SUFFIXES and member.name not in seen:
                    seen.add(member.name)
                    yield member
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise UsageError(f"pool: {path} is damaged or cut short at byte {min(archive.offset, size)}")
    except (tarfile.TarError, OSError) as error:
        raise UsageError(f"pool: {path} is not a readable, uncompressed tar file: {error}") from error
