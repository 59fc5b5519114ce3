"""What the studies of the loop share: options with their defaults, and rows of CSV with where they come from."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results import provenance


def parser(doc: str | None, **defaults: object) -> argparse.ArgumentParser:
    """An option of the type of its default for each name, and --csv."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        made.add_argument(f"--{name}", type=type(default), default=default, help="%(default)s")
    made.add_argument("--csv", type=Path, metavar="FILE", help="rows are added to it")
    return made


def options(doc: str | None, **defaults: object) -> tuple[dict[str, Any], Path | None]:
    """What the command line says of these, and the file of --csv."""
    chosen = vars(parser(doc, **defaults).parse_args())
    return chosen, chosen.pop("csv")


def report(line: str, file: Path | None, table: Sequence[Mapping[str, object]], options: Mapping[str, object]) -> None:
    """Prints each row as `line` has it, and records all."""
    for row in table:
        print(line.format(**row))
    record(file, table, options)


def record(file: Path | None, table: Sequence[Mapping[str, object]], options: Mapping[str, object]) -> None:
    """Adds rows to a CSV file, if there is one: with the options of the study, and where it ran."""
    if file is None:
        return
    origin = provenance(str(options.get("device", "cpu")))
    is_new = not file.exists()
    with file.open("a", newline="") as out:
        writer = csv.DictWriter(out, list(dict(table[0]) | dict(options) | origin), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(dict(row) | dict(options) | origin for row in table)
