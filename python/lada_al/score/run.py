"""A scoring in its folder: score.json, scores/part-NNNNNN.parquet, top.csv, unreadable.csv.

A shard's file appears when it is whole, under its name at once. After a kill, shards that are there are read and not
scored again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lada_al.errors import UsageError
from lada_al.label.query import safe
from lada_al.run.files import write_atomically
from lada_al.score.ranks import Ranks
from lada_al.score.top import Top

COLUMNS = ["id", "score", "entropy", "partner", "tau"]
ABOUT, SCORES, TOP, UNREADABLE, LISTING = "score.json", "scores", "top.csv", "unreadable.csv", "listing.arrow"


class Scorer(Protocol):
    """What scores a pool: tables as of `methods.table` for ranges of positions, in their order."""

    def __len__(self) -> int: ...

    def about(self) -> dict[str, object]: ...

    def shards(self, ranges: list[tuple[int, int]]) -> Iterator[pa.Table]: ...


@dataclass(frozen=True)
class Summary:
    """What a rank, or all of them, found."""

    items: int = 0
    resumed: int = 0
    """Items of shards that were done before."""
    unreadable: int = 0
    without_score: int = 0
    """Read, but the network's logits make no score: NaN."""


def begin(out: Path, about: dict[str, Any], resume: bool) -> None:
    """Writes what this scoring is about; or compares, where it was begun before.

    Raises:
        UsageError: the folder holds another scoring, or this one and `resume` was not asked for.
    """
    path = out / ABOUT
    if not path.exists():
        if out.is_dir() and any(not entry.name.startswith((".", LISTING)) for entry in out.iterdir()):
            raise UsageError(f"--out: {out} is not empty and holds no {ABOUT}")
        (out / SCORES).mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(json.dumps(about, indent=2).encode() + b"\n"))
        return
    if not resume:
        raise UsageError(f"--out: {out} holds a scoring; add --resume to go on with it")
    before, now = json.loads(path.read_text()), json.loads(json.dumps(about))
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if different:
        raise UsageError(f"--resume: {out} was begun with another {', '.join(different)}")


def score(
    scorer: Scorer, out: Path, shard: int, k: int, ranks: Ranks, show: Callable[[int], None] | None = None
) -> Summary | None:
    """Scores the shards that are not done, and on rank 0 writes the top `k` of all of them and what is unreadable.

    `show(items)` is called after each shard.

    Returns:
        The sum over all ranks, on rank 0; elsewhere None.
    """
    cut = [(start, min(start + shard, len(scorer))) for start in range(0, len(scorer), shard)]
    paths = {bounds: out / SCORES / f"part-{number:06d}.parquet" for number, bounds in enumerate(cut)}
    mine = cut[ranks.rank :: ranks.count]
    todo = [bounds for bounds in mine if not paths[bounds].exists()]
    top, sums = Top(k), np.zeros(4, np.int64)
    errors: list[tuple[int, Any, str]] = []

    def enter(bounds: tuple[int, int], table: pa.Table, resumed: int) -> None:
        scores = table["score"].to_numpy(zero_copy_only=False)
        top.add(scores, np.arange(*bounds))
        unread = table.filter(pc.is_valid(table["error"])).select(["id", "error"]).to_pylist()
        errors.extend((bounds[0], row["id"], row["error"]) for row in unread)
        sums[:] += [len(table), resumed, len(unread), int(np.isnan(scores).sum()) - len(unread)]
        if show is not None:
            show(len(table))

    for bounds in set(mine) - set(todo):
        table = pq.read_table(paths[bounds])
        enter(bounds, table, len(table))
    for bounds, table in zip(todo, scorer.shards(todo), strict=True):
        _write(paths[bounds], table)
        enter(bounds, table, 0)
    gathered = ranks.gather((_rows(top, paths, shard), sums, errors))
    if ranks.rank > 0:
        return None
    best = sorted((row for rows, _, _ in gathered for row in rows), key=lambda row: (-row[2], row[0]))[:k]
    write_csv(out / TOP, COLUMNS, [list(row[1:]) for row in best])
    unreadable = sorted(error for _, _, some in gathered for error in some)
    if unreadable:
        write_csv(out / UNREADABLE, ["id", "reason"], [[id_, reason] for _, id_, reason in unreadable])
    return Summary(*(int(value) for value in sum(part for _, part, _ in gathered)))


def _rows(top: Top, paths: dict[tuple[int, int], Path], shard: int) -> list[tuple[Any, ...]]:
    """Positions and COLUMNS of the best, looked up in the shards that hold them."""
    rows = []
    by_start = {start: path for (start, _), path in paths.items()}
    for start in np.unique(top.positions // shard * shard).tolist():
        positions = top.positions[top.positions // shard * shard == start]
        found = pq.read_table(by_start[start], columns=COLUMNS).take(positions - start)
        rows += [(p, *row.values()) for p, row in zip(positions.tolist(), found.to_pylist(), strict=True)]
    return rows


def _write(path: Path, table: pa.Table) -> None:
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd", use_dictionary=["error"]))


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if cell is None else safe(str(cell)) for cell in row] for row in rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
