"""Files that are either the old or the new version, never half of one; what is said of one that is damaged; CSV whose
cells a spreadsheet does not run; and images that are part of a page."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lada_al.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes text that begins so for a formula
QUOTE = "'"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls write(file) on a file beside `path`, waits until it is on disk, and puts it in the place of `path`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Puts a file of this text, in UTF-8, in the place of `path`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Puts a file of these bytes in the place of `path`."""
    write_atomically(path, lambda file: file.write(data))


def read_json(path: Path) -> dict[str, Any]:
    """What a file of ours holds: values by name.

    Raises:
        UsageError: it holds something else.
    """
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} is damaged: expected a JSON object, got {type(values).__name__}")
    return values


def csv_text(lines: Iterable[Iterable[object]]) -> str:
    """The lines, a header first, as a CSV file; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def png_uri(image: Image.Image) -> str:
    """The image as PNG in a URI, so that a page needs no file beside it."""
    data = io.BytesIO()
    image.save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def safe(cell: str) -> str:
    """A cell as it goes out: what a spreadsheet would take for a formula has a quote before it.

    What begins with such a quote itself gets one more, so that no two cells become one.
    """
    return QUOTE + cell if cell.lstrip(QUOTE).startswith(FORMULA) else cell


def plain(cell: str) -> str:
    """A cell as it was before `safe`."""
    return cell.removeprefix(QUOTE) if cell.lstrip(QUOTE).startswith(FORMULA) else cell
