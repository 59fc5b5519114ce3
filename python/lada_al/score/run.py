"""A scoring in its folder: score.json, scores/part-NNNNNN.parquet, top.csv, unreadable.csv.

A shard's file appears when it is whole, under its name at once. After a kill, shards that are there are read and not
scored again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lada_al.errors import UsageError
from lada_al.files import csv_text, read_json, safe, write_atomically, write_text
from lada_al.ranks import Ranks
from lada_al.score.top import Top

COLUMNS = ["id", "score", "entropy", "partner", "tau"]
ABOUT, SCORES, TOP, UNREADABLE, LISTING = "score.json", "scores", "top.csv", "unreadable.csv", "listing.arrow"


Show = Callable[[int], None]
"""Is told of items as they are scored."""


class Scorer(Protocol):
    """What scores a pool: tables as of `methods.table` for ranges of positions, in their order."""

    def __len__(self) -> int: ...

    def about(self) -> dict[str, object]: ...

    def shards(self, ranges: list[tuple[int, int]], show: Show | None = None) -> Iterator[pa.Table]: ...


@dataclass(frozen=True)
class Summary:
    """What a rank, or all of them, found."""

    items: int = 0
    resumed: int = 0
    """Items of shards that were done before."""
    unreadable: int = 0
    without_score: int = 0
    """Read, but the network's logits make no score: NaN."""

    def __add__(self, other: Summary) -> Summary:
        return Summary(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def check_folder(out: Path, resume: bool) -> None:
    """Refuses a folder before anything is written into it, and forgets the list of a pool that no scoring began with.

    Raises:
        UsageError: the folder holds something else, or a scoring and `resume` was not asked for.
    """
    if (out / ABOUT).exists():
        if not resume:
            raise UsageError(f"--out: {out} holds a scoring; add --resume to go on with it")
        return
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: {out} is no folder")
    if out.is_dir() and any(not entry.name.startswith((".", LISTING)) for entry in out.iterdir()):
        raise UsageError(f"--out: {out} is not empty and holds no {ABOUT}")
    (out / LISTING).unlink(missing_ok=True)


def begin(out: Path, about: dict[str, Any]) -> None:
    """Writes what this scoring is about; or compares, where it was begun before.

    Raises:
        UsageError: the folder holds another scoring.
    """
    path = out / ABOUT
    if not path.exists():
        (out / SCORES).mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(about, indent=2) + "\n")
        return
    before, now = read_json(path), json.loads(json.dumps(about))
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if different:
        raise UsageError(f"--resume: {out} was begun with another {', '.join(different)}")


class Shards:
    """A pool of `count` items in parts, and the file of each."""

    def __init__(self, out: Path, count: int, size: int) -> None:
        self.out, self.size = out, size
        self.bounds = [(start, min(start + size, count)) for start in range(0, count, size)]

    def path(self, position: int) -> Path:
        """The file of the shard in which a position is."""
        return self.out / SCORES / f"part-{position // self.size:06d}.parquet"

    def write(self, start: int, table: pa.Table) -> None:
        def write(file: BinaryIO) -> None:
            pq.write_table(table, file, compression="zstd", use_dictionary=["error"])

        write_atomically(self.path(start), write)

    def read(self, start: int, columns: list[str] | None = None) -> pa.Table:
        """
        Raises:
            UsageError: its file is damaged.
        """
        path = self.path(start)
        try:
            return pq.read_table(path, columns=columns)
        except (OSError, pa.ArrowException) as error:
            text = f"{path} is damaged; without it, --resume scores these images again: {error}"
            raise UsageError(text) from error


class Tally:
    """What is known of some shards: their best `k`, how many items there are of each kind, and what is unreadable."""

    def __init__(self, k: int) -> None:
        self.top, self.summary = Top(k), Summary()
        self.errors: list[tuple[int, Any, str]] = []

    def add(self, start: int, table: pa.Table, resumed: bool) -> None:
        scores = table["score"].to_numpy(zero_copy_only=False)
        self.top.add(scores, np.arange(start, start + len(scores)))
        unread = table.filter(pc.is_valid(table["error"])).select(["id", "error"]).to_pylist()
        self.errors += [(start, row["id"], row["error"]) for row in unread]
        without_score = int(np.isnan(scores).sum()) - len(unread)
        self.summary += Summary(len(table), len(table) if resumed else 0, len(unread), without_score)

    def join(self, other: Tally) -> Tally:
        self.top.add(other.top.scores, other.top.positions)
        self.summary += other.summary
        self.errors += other.errors
        return self

    def publish(self, shards: Shards) -> Summary:
        """Writes top.csv and unreadable.csv."""
        write_csv(shards.out / TOP, COLUMNS, _rows(self.top, shards))
        if self.errors:
            rows = [[id_, reason] for _, id_, reason in sorted(self.errors)]
            write_csv(shards.out / UNREADABLE, ["id", "reason"], rows)
        return self.summary


def score(scorer: Scorer, shards: Shards, k: int, ranks: Ranks, show: Show | None = None) -> Summary | None:
    """Scores the shards that are not done, and on rank 0 writes the top `k` of all of them and what is unreadable.

    `show(items)` is called for each shard that was done before, and for each batch.

    Returns:
        The sum over all ranks, on rank 0; elsewhere None.
    """
    tally = Tally(k)
    mine = shards.bounds[ranks.rank :: ranks.count]
    todo = [bounds for bounds in mine if not shards.path(bounds[0]).exists()]
    for start, stop in sorted(set(mine) - set(todo)):
        tally.add(start, shards.read(start), resumed=True)
        if show is not None:
            show(stop - start)
    for (start, _), table in zip(todo, scorer.shards(todo, show), strict=True):
        shards.write(start, table)
        tally.add(start, table, resumed=False)
    gathered = ranks.gather(tally)
    return functools.reduce(Tally.join, gathered).publish(shards) if gathered else None


def _rows(top: Top, shards: Shards) -> list[list[Any]]:
    """COLUMNS of the best, in their order, looked up in the shards that hold them."""
    rows: dict[int, list[Any]] = {}
    starts = top.positions // shards.size * shards.size
    for start in np.unique(starts).tolist():
        positions = top.positions[starts == start]
        found = shards.read(start, COLUMNS).take(positions - start).to_pylist()
        rows.update(zip(positions.tolist(), (list(row.values()) for row in found), strict=True))
    return [rows[position] for position in top.positions.tolist()]


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    cells = (["" if cell is None else safe(str(cell)) for cell in row] for row in rows)
    write_text(path, csv_text([header, *cells]))
