"""A batch that somebody else has ranked: the images that a CSV file lists, `lada score`'s top.csv say, in its order."""

from __future__ import annotations

import math
from collections.abc import Container
from pathlib import Path

from lada_al.errors import UsageError
from lada_al.files import plain
from lada_al.label import sheet
from lada_al.label.store import Ranked
from lada_al.pools.source import as_text

COLUMNS = ["id", "score", "entropy"]


def read(file: Path, known: Container[str]) -> list[Ranked]:
    """What a file lists in its column id, each image once, with score and entropy where there are such columns.

    Raises:
        UsageError: it lists nothing, or an image that is not `known`, or a score is no number.
    """
    listed: dict[str, Ranked] = {}
    unknown: list[str] = []
    for line, names, row in sheet.rows(file, ["id"], COLUMNS):
        cells = dict(zip(names, row, strict=False))
        id_ = sheet.known_id(cells.get("id", ""), known)
        if id_ not in known:
            unknown.append(f"line {line}: the pool has no image '{id_}'")
            continue
        score, entropy = (_number(file, line, name, cells.get(name, "")) for name in ("score", "entropy"))
        why = f"place {len(listed) + 1} in {as_text(file.name)}"
        listed.setdefault(id_, Ranked(id_, score, why, None, entropy))
    if unknown:
        more = f", nor those of {len(unknown) - 1} other lines" if len(unknown) > 1 else ""
        raise UsageError(f"--from: {file}, {unknown[0]}{more}")
    if not listed:
        raise UsageError(f"--from: {file} lists no images")
    return list(listed.values())


def _number(file: Path, line: int, name: str, cell: str) -> float | None:
    """The number in a cell, None where it is empty."""
    if not cell.strip():
        return None
    try:
        value = float(plain(cell))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--from: {file}, line {line}: {name} must be a finite number, got '{cell}'")
    return value
