"""Parquet, a file or a folder of them: a column `image` of bytes, or in the Hugging Face layout (bytes, or a path).

An id is what a column `id` says, which must be unique, or else the file's path and the row. A path in the data is
looked up below the pool's folder, and nowhere else.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lada_al.errors import UsageError
from lada_al.pools.decode import Limits, UnreadableError
from lada_al.pools.files import data_files
from lada_al.pools.source import Id, Item, Source, as_text, read_below

ROWS_AT_A_TIME = 64
BYTES = (pa.binary(), pa.large_binary())
TEXT = (pa.string(), pa.large_string())


class ParquetPool(Source):
    def __init__(self, path: Path, limits: Limits, own_ids: bool = True) -> None:
        self.limits = limits
        folder = path if path.is_dir() else path.parent
        self.root = folder.resolve()
        self.files = [file.relative_to(folder).as_posix() for file in data_files(path, ".parquet")]
        opened = [open_images(self.root / name) for name in self.files]
        self.starts = [0, *accumulate(file.metadata.num_rows for file in opened)]
        if not self.starts[-1]:
            raise UsageError(f"pool: {path} has no rows")
        kinds = {str(file.schema_arrow.field("id").type) if _has_id(file) else "" for file in opened}
        if own_ids and len(kinds) > 1:
            raise UsageError(f"pool: the column id differs between the files in {path}: {', '.join(sorted(kinds))}")
        self.has_id = own_ids and kinds != {""}
        if self.has_id:
            self.id_type = _checked_ids(opened, path)
        self._reader: _Reader | None = None

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, start: int, stop: int) -> Iterator[Item]:
        while start < stop:
            number = bisect.bisect_right(self.starts, start) - 1
            end = min(stop, self.starts[number + 1])
            first, last = start - self.starts[number], end - self.starts[number]
            for row, values in enumerate(self._rows(number, first, last), start=first):
                yield Item(values["id"] if self.has_id else self._id(number, row), self._bytes(values["image"]))
            start = end

    def ids(self) -> Iterator[Id]:
        for number, name in enumerate(self.files):
            if self.has_id:
                yield from pq.read_table(self.root / name, columns=["id"])["id"].to_pylist()
            else:
                yield from (self._id(number, row) for row in range(self.starts[number + 1] - self.starts[number]))

    def location(self, place: int) -> str:
        number = bisect.bisect_right(self.starts, place) - 1
        return as_text(str(self.root / self._id(number, place - self.starts[number])))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.files, self.starts)).encode())
        for name in self.files:
            digest.update(str((self.root / name).stat().st_size).encode())
        return digest.hexdigest()

    def _id(self, number: int, row: int) -> str:
        return f"{self.files[number]}#{row}"

    def _rows(self, number: int, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Rows of one file. Ranges that are asked for in ascending order read no row group twice, and none that no row
        of theirs is in."""
        if self._reader is None or self._reader.number != number:
            self._reader = _Reader(self.root / self.files[number], number, ["id", "image"][not self.has_id :])
        return self._reader.take(start, stop)

    def _bytes(self, image: Any) -> Any:
        if isinstance(image, dict):
            image = image.get("path") if image.get("bytes") is None else image["bytes"]
        if image is None:
            return UnreadableError("there are no bytes")
        return image if isinstance(image, bytes) else read_below(self.root, image, self.limits)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}


class _Reader:
    """Reads a file a few rows at a time, on from where it is as long as that is in the same row group."""

    def __init__(self, path: Path, number: int, columns: list[str]) -> None:
        self.number, self._columns = number, columns
        self._file = pq.ParquetFile(path, memory_map=True)
        self._begins = [0, *accumulate(rows_of_groups(self._file))]
        self._group, self._at, self._held = -1, 0, pa.RecordBatch.from_pylist([])
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def take(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        while start < stop:
            group = bisect.bisect_right(self._begins, start) - 1
            if group != self._group or start < self._at:
                self._begin(group)
            while self._at + len(self._held) <= start:
                self._at += len(self._held)
                self._held = next(self._batches)
            part = self._held.slice(start - self._at, stop - start)
            yield from part.to_pylist()
            start += len(part)

    def _begin(self, group: int) -> None:
        self._batches = self._file.iter_batches(ROWS_AT_A_TIME, [group], self._columns, use_threads=False)
        self._group, self._at, self._held = group, self._begins[group], self._held.slice(0, 0)


def open_images(path: Path) -> pq.ParquetFile:
    """A Parquet file that has an image column.

    Raises:
        UsageError: it is not one.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError, UnicodeError) as error:  # the last, where its name is no UTF-8
        raise UsageError(f"pool: {path} is not a readable Parquet file: {error}") from error
    kinds = {field.name: field.type for field in file.schema_arrow}
    kind = kinds.get("image")
    if kind not in BYTES and not _is_file(kind):
        found = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        wanted = "bytes or of struct<bytes: binary, path: string>"
        raise UsageError(f"pool: {path}: expected a column image of {wanted}, got {found}")
    return file


def _is_file(kind: pa.DataType | None) -> bool:
    """Whether a column holds files as Hugging Face does: their bytes, or else a path."""
    if kind is None or not pa.types.is_struct(kind):
        return False
    parts = {part.name: part.type for part in kind}
    return parts.get("bytes") in (*BYTES, pa.null()) and parts.get("path", pa.null()) in (*TEXT, pa.null())


def rows_of_groups(file: pq.ParquetFile) -> list[int]:
    return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def _has_id(file: pq.ParquetFile) -> bool:
    return "id" in file.schema_arrow.names


def _checked_ids(files: list[pq.ParquetFile], path: Path) -> pa.DataType:
    """The type of the column `id`: text or whole numbers, none missing, each once."""
    ids = pa.concat_tables([file.read(columns=["id"]) for file in files])["id"]
    if ids.type not in TEXT and not pa.types.is_integer(ids.type):
        raise UsageError(f"pool: {path}: ids must be text or whole numbers, got {ids.type}")
    try:
        ids = ids.cast(pa.string() if ids.type in TEXT else pa.int64())
    except pa.ArrowInvalid as error:
        raise UsageError(f"pool: {path}: ids must be text or whole numbers of 64 bits: {error}") from error
    if ids.null_count:
        raise UsageError(f"pool: {path}: {ids.null_count} ids are null")
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = ids.value_counts()
        most = counts[pc.index(counts.field("counts"), pc.max(counts.field("counts"))).as_py()].as_py()
        raise UsageError(f"pool: {path}: ids must be unique; {most['values']!r} comes {most['counts']} times")
    return ids.type
