"""CSV files as people and spreadsheets write them: any of three delimiters, lines before the header, odd capitals."""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from lada_al.errors import UsageError
from lada_al.files import plain

MAX_BYTES = 256_000_000
DELIMITERS = ",;\t"


def content(file: Path) -> str:
    """The text of a file.

    Raises:
        UsageError: it cannot be read, is too large or not UTF-8.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError(f"{file} has {file.stat().st_size} bytes, more than {MAX_BYTES}")
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8, as which a spreadsheet can save it: {error}") from error


def rows(file: Path, needed: Sequence[str], known: Sequence[str]) -> Iterator[tuple[int, list[str], list[str]]]:
    """Of each line below the header that is not empty: its number, the names of the columns, and its cells.

    There must be the columns `needed`, and none of those that are `known` twice.

    Raises:
        UsageError: the file as a whole cannot be used.
    """
    lines = io.StringIO(content(file), newline="")
    before, header = _find_header(lines)
    reader = csv.reader(chain([header], lines), delimiter=max(DELIMITERS, key=header.count), strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if not set(needed) <= set(names):
            wanted = f"the columns {' and '.join(needed)}" if len(needed) > 1 else f"a column {needed[0]}"
            raise UsageError(f"{file}: expected a header with {wanted}, got {header.strip()!r}")
        for name in known:
            if names.count(name) > 1:
                raise UsageError(f"{file}: expected one column {name}, got {names.count(name)}")
        for row in filter(None, reader):
            yield before + reader.line_num, names, row
    except csv.Error as error:
        raise UsageError(f"{file}, line {before + reader.line_num}: {error}") from error


def known_id(cell: str, known: Container[str]) -> str:
    """The id that a cell holds, without the quote that keeps spreadsheets from running it, if that is an id."""
    return plain(cell) if plain(cell) in known else cell


def _find_header(lines: Iterable[str]) -> tuple[int, str]:
    """How many lines stand before the header, and the header: the first line that is neither empty nor Excel's sep=."""
    for before, line in enumerate(lines):
        text = line.strip(string.whitespace + DELIMITERS + '"')
        if text and not text.lower().startswith("sep="):
            return before, line
    return 0, ""
