"""The command `lada score`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from lada_al.errors import UsageError

if TYPE_CHECKING:
    from lada_al.ranks import Ranks
    from lada_al.score.run import Scorer, Show, Summary

app = typer.Typer()
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


@app.command()
def score(
    out: Annotated[Path, typer.Option(help="Folder of the results.", show_default=False)],
    pool: Annotated[Path | None, typer.Option(help="Folder of images, Parquet, tar shards, .npy or .npz.")] = None,
    model: Annotated[str | None, typer.Option(help="pkg.module:factory, timm:NAME or torchvision:NAME.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights: .safetensors, or a state_dict of torch.")] = None,
    white: Annotated[int, typer.Option(help="White in grey images of 16 bits; 4095 if 12 are used.")] = 65535,
    embeddings: Annotated[Path | None, typer.Option(help="Cached logits, or features: .npy, .npz or Parquet.")] = None,
    method: Annotated[
        str, typer.Option(help="entropy, var-ratio, margin, lada-{ent,var}-mix-fixed; of features: coreset, badge.")
    ] = "entropy",
    top: Annotated[int, typer.Option(help="Items in top.csv.", min=1)] = 1000,
    batch: Annotated[int, typer.Option(help="Images at a time; results do not depend on it.", min=1)] = 128,
    workers: Annotated[int, typer.Option(help="Processes that decode; results do not depend on it.", min=0)] = 2,
    shard: Annotated[int, typer.Option(help="Items in a file of scores, in whole steps of 32.", min=1)] = 65536,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: Annotated[str, typer.Option(help="local, or ray: a Ray cluster (lada-ext[ray]).")] = "local",
    actors: Annotated[int, typer.Option(help="Processes of the cluster that hold the network.", min=1)] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the scoring in --out.")] = False,
) -> None:
    """Score a pool of any size and list the items to label first. Under torchrun, each process scores its share."""
    from lada_al.device import find_device
    from lada_al.ranks import ranks
    from lada_al.score import methods, ray_engine, run

    if embeddings is not None and not (pool or model) and _selected(embeddings, method, top, out, device):
        return
    methods.check(method)
    if (embeddings is None) == (pool is None or model is None) or (embeddings is not None and (pool or model)):
        raise UsageError("give --pool and --model, or --embeddings alone")
    if engine not in ("local", "ray"):
        raise UsageError(f"--engine must be local or ray, got '{engine}'")
    if engine == "ray":
        ray_engine.check()
    size = -(-shard // methods.STEP) * methods.STEP
    place = {} if pool is None else {"pool": str(pool.resolve())}
    about = {**methods.about(method), "shard": size, **place}
    make = functools.partial(
        _scorer, pool, white, model, checkpoint, embeddings, method, out.resolve(), device, batch, workers
    )
    with ranks() as our:
        if engine == "ray" and our.count > 1:
            raise UsageError("--engine ray starts its processes itself; run it without torchrun")
        find_device(device)
        scorer = _begun(make, out, about, resume, our)
        shards = run.Shards(out.resolve(), len(scorer), size)
        with _progress(len(scorer) // our.count, our) as show:
            if engine == "ray":
                summary: Summary | None = ray_engine.score(make, shards, top, actors, show)
            else:
                summary = run.score(scorer, shards, top, our, show)
    if summary is not None:
        _tell(summary, out, top)


def _begun(make: Callable[[], Scorer], out: Path, about: dict[str, Any], resume: bool, our: Ranks) -> Scorer:
    """The scorer, once the folder is known to hold this scoring; the first process lists the pool and writes."""
    from lada_al.score import run

    if not our.is_first:
        our.wait()
        return make()
    run.check_folder(out, resume)
    scorer = make()
    run.begin(out, {**about, **scorer.about()})
    our.wait()
    return scorer


@contextmanager
def _progress(total: int, our: Ranks) -> Iterator[Show]:
    """Shows on the terminal how many of `total` items are scored, as the first process is told."""
    columns = (BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not our.is_first) as progress:
        yield functools.partial(progress.advance, progress.add_task("scored", total=total))


def _tell(summary: Summary, out: Path, top: int) -> None:
    """Prints what came of a scoring.

    Raises:
        Exit: with 1, if nothing has a score.
    """
    from lada_al.score import run

    scored = summary.items - summary.unreadable - summary.without_score
    before = f", {summary.resumed:,} of them scored before" if summary.resumed else ""
    console.print(f"{out / run.TOP}: the top {min(top, scored):,} of {summary.items:,} items{before}")
    if summary.unreadable:
        console.print(f"{summary.unreadable:,} cannot be read; {out / run.UNREADABLE} lists them")
    if summary.without_score:
        console.print(f"{summary.without_score:,} without a score: their logits are NaN")
    if not scored:
        print(f"lada: none of the {summary.items:,} items has a score", file=sys.stderr)
        raise typer.Exit(1)


def _selected(embeddings: Path, method: str, top: int, out: Path, device: str) -> bool:
    """Carries out a selection; False if the method is none."""
    from lada_al.device import find_device
    from lada_al.score import run
    from lada_al.score.selection import SELECTIONS, select

    if method not in SELECTIONS:
        return False
    picked = select(embeddings, method, top, out, find_device(device))
    console.print(f"{out / run.TOP}: {picked:,} items, in the order of the picks")
    return True


def _scorer(
    pool: Path | None,
    white: int,
    model: str | None,
    checkpoint: Path | None,
    embeddings: Path | None,
    method: str,
    out: Path,
    device: str,
    batch: int,
    workers: int,
) -> Scorer:
    from lada_al.device import find_device
    from lada_al.load_model import load_model
    from lada_al.pools import Limits, open_pool
    from lada_al.score import run
    from lada_al.score.cached import CachedLogits
    from lada_al.score.images import ImageScores

    if embeddings is not None:
        return CachedLogits(embeddings, method)
    assert pool is not None
    assert model is not None
    loaded = load_model(model, checkpoint)
    opened = open_pool(pool, out / run.LISTING, Limits(white=white))
    return ImageScores(opened, loaded, method, find_device(device), batch, workers)


class _Speed(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} items/s")
