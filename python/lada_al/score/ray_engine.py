"""`lada score --engine ray`: the shards of a pool, scored by actors of a Ray cluster that each hold the network.

Ray Data deals the shards out, holds back while the actors are busy, and repeats what a lost actor had not finished.
The file of a shard appears whole, so a shard that is scored twice changes nothing. The best of all shards are found by
a tree of tasks over their files; none of the scores pass through this process. Pool and results lie where every
machine of the cluster sees them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from lada_al.errors import UsageError
from lada_al.score.run import Scorer, Shards, Summary, Tally

BRANCHES = 16
"""Shards, or tallies, that one task of the tree joins."""

MakeScorer = Callable[[], Scorer]


def check() -> None:
    """Refuses, before anything is written, if Ray is not installed."""
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise UsageError("--engine ray needs Ray: pip install 'lada-ext[ray]'") from error


def score(make: MakeScorer, shards: Shards, k: int, actors: int, show: Callable[[int], None] | None = None) -> Summary:
    """Scores the shards that are not done, by `actors` at a time, and writes the top `k` and what is unreadable.

    Args:
        make: makes the scorer; called once in each actor.
        shards: what is to be scored, and where to.
        k: how many items to list.
        actors: how many processes hold the network, each with one CPU, and one GPU where the cluster has any.
        show: called with the number of items after each shard.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it would tell its makers of this cluster
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    todo = [bounds for bounds in shards.bounds if not shards.path(bounds[0]).exists()]
    done = {start for start, _ in shards.bounds} - {start for start, _ in todo}
    if show is not None:
        for start, stop in shards.bounds:
            if start in done:
                show(stop - start)
    if todo:
        _score_todo(make, shards, todo, actors, show)
    return _tallied(shards, k, done).publish(shards)


def _score_todo(
    make: MakeScorer, shards: Shards, todo: list[tuple[int, int]], actors: int, show: Callable[[int], None] | None
) -> None:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    actor: Any = _Actor
    items = [{"start": start, "stop": stop} for start, stop in todo]
    scored = ray.data.from_items(items, override_num_blocks=len(items)).map(
        actor,
        fn_constructor_args=(make, shards),
        concurrency=min(actors, len(items)),
        num_gpus=1 if ray.cluster_resources().get("GPU") else None,
    )
    for row in scored.iter_rows():
        if show is not None:
            show(row["stop"] - row["start"])


class _Actor:
    """A process of the cluster that scores shards."""

    def __init__(self, make: MakeScorer, shards: Shards) -> None:
        self.scorer, self.shards = make(), shards

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        (table,) = self.scorer.shards([(row["start"], row["stop"])])
        self.shards.write(row["start"], table)
        return row


def _tallied(shards: Shards, k: int, done: set[int]) -> Tally:
    """The tally of all shards, by a tree of tasks."""
    import ray

    @ray.remote(max_retries=-1)
    def of_shards(starts: list[int]) -> Tally:
        tally = Tally(k)
        for start in starts:
            tally.add(start, shards.read(start), resumed=start in done)
        return tally

    @ray.remote(max_retries=-1)
    def joined(*tallies: Tally) -> Tally:
        whole = Tally(k)
        for tally in tallies:
            whole.join(tally)
        return whole

    starts = [start for start, _ in shards.bounds]
    level = [of_shards.remote(part) for part in _parts(starts)]
    while len(level) > 1:
        level = [joined.remote(*part) for part in _parts(level)]
    tally: Tally = ray.get(level[0])
    return tally


def _parts(values: list[Any]) -> list[list[Any]]:
    return [values[i : i + BRANCHES] for i in range(0, len(values), BRANCHES)]
