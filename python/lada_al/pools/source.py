"""What every pool offers, whatever it is stored in; and the list of items of those that have to be listed first."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from lada_al.errors import UsageError
from lada_al.files import write_atomically
from lada_al.pools.decode import Limits, UnreadableError

Id = str | int
NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # controls, ends of lines, bytes that are none
ESCAPED = re.compile(rf"\\|{NO_TEXT.pattern}")


class Item(NamedTuple):
    """An id, and the image as it is stored: bytes of a file, an array, an image; or UnreadableError with the reason."""

    id: Id
    stored: Any


class Source(ABC):
    """A pool. Objects are small, and may be sent to other processes: files are opened where they are read."""

    limits: Limits = Limits()
    id_type: pa.DataType = pa.string()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, start: int, stop: int) -> Iterator[Item]:
        """Items `start` to `stop` in order; never fewer."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Equal as long as every position holds the item it held before, as far as that can be told quickly."""

    def ids(self) -> Iterator[Id]:
        """The id of each position."""
        return (item.id for item in self.read(0, len(self)))

    def location(self, place: int) -> str:
        """Where a person finds the item of a position; nothing, where it lies in no file."""
        del place
        return ""

    def file(self, place: int) -> bytes | None:
        """The path below the pool's folder of an item that is a file by itself."""
        del place
        return None


class Listing:
    """Rows of a table, in memory or in an Arrow file that is mapped and takes no memory, however long."""

    ROWS = 1 << 16

    def __init__(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path | None) -> None:
        """Lists `batches` into `path`, unless it is listed there already; then they are not looked at."""
        self.path = path
        self._table: pa.Table | None = None
        if path is None:
            self._table = pa.Table.from_batches(list(batches), schema)
        elif not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: _write(file, batches, schema))
        self.rows = self.table.num_rows

    @property
    def table(self) -> pa.Table:
        if self._table is None:
            assert self.path is not None
            try:
                self._table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
            except (OSError, pa.ArrowException) as error:
                text = f"{self.path} is damaged; without it, the pool is listed anew: {error}"
                raise UsageError(text) from error
        return self._table

    def slice(self, start: int, stop: int) -> list[dict[str, Any]]:
        return self.table.slice(start, stop - start).to_pylist()

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for batch in self.table.to_batches(max_chunksize=self.ROWS):
            for column in batch.columns:
                digest.update("\0".join(map(str, column.to_pylist())).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": self._table if self.path is None else None}


def as_text(name: str) -> str:
    """A file's name as one line of text: what is none in it, and bytes that are no UTF-8, as in a Python string.

    Backslashes are doubled where anything is written so; any other name stays as it is.
    """
    return ESCAPED.sub(_escaped, name) if NO_TEXT.search(name) else name


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    if 0xDC80 <= number <= 0xDCFF:  # a byte as Python holds it
        return f"\\x{number - 0xDC00:02x}"
    return f"\\u{number:04x}" if number >= 0x80 else found[0].encode("unicode_escape").decode()


class Names:
    """The names of a pool's files, each with an id of its own."""

    def __init__(self) -> None:
        self._with_backslash: dict[str, str] = {}

    def id(self, name: str) -> str:
        """`as_text(name)`.

        Raises:
            UsageError: another name is the same text: one spells out what the other holds.
        """
        text = as_text(name)
        if "\\" in text and self._with_backslash.setdefault(text, name) != name:
            raise UsageError(f"pool: two files are both written {text}; rename one of them")
        return text


def read_below(folder: Path, name: str, limits: Limits) -> bytes | UnreadableError:
    """The file at a path below `folder`, which has no links in it; or why it cannot be had."""
    try:
        path = Path(os.path.realpath(folder / name))
        if not path.is_relative_to(folder):
            return UnreadableError("its path leads outside of the pool's folder")
        return read_file(path, limits)
    except OSError as error:
        return UnreadableError(error.strerror or type(error).__name__)
    except ValueError as error:  # a character that no path holds
        return UnreadableError(f"its path cannot be used: {error}")


def read_file(path: Path, limits: Limits) -> bytes | UnreadableError:
    """A regular file; or why it cannot be had: others, such as pipes, may never end.

    Raises:
        OSError: as the system says.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        return UnreadableError("it is no regular file")
    if about.st_size > limits.bytes:
        return UnreadableError(f"{about.st_size} bytes, more than {limits.bytes}")
    return path.read_bytes()


def _write(file: Any, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    with pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
