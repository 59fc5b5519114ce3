"""The command `lada`: one function a command, each a few lines over the package. Exit codes: 0 done, 1 failed, 2 bad
arguments or files, which are told in one line before anything is written."""

from __future__ import annotations

import importlib.metadata
import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from lada_al.errors import UsageError, one_line
from lada_al.label import commands as labelling
from lada_al.score import commands as scoring

# torch and matplotlib take seconds to import; commands import what they need, so that --help and typos answer at once.

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
console = Console(highlight=False, markup=False, emoji=False)

# Options that are not given are None: the defaults are those of Config, or of the run that is resumed. Those that are
# named as fields of Config reach it by `_given`.
Out = Annotated[Path, typer.Option(help="Folder of the results.", show_default=False)]
Dataset = Annotated[
    str | None,
    typer.Option(help="mnist5k (default, built in), fashion, svhn, cifar10, cifar100, or own, from --data."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the data set: NAME/train.parquet or torchvision's files; of own, train/CLASS/FILE and "
        "test/CLASS/FILE, train.parquet and test.parquet, or a .npz file."
    ),
]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision fetch the data set into --data.")]
Model = Annotated[str | None, typer.Option(help="small (default) or resnet18.")]
Rounds = Annotated[int | None, typer.Option(help="Rounds of buying after the initial set; default 10.")]
Query = Annotated[int | None, typer.Option(help="Labels bought a round; default 10, for cifar100 100.")]
Initial = Annotated[int | None, typer.Option(help="Labels to begin with; default 20, for cifar100 1000.")]
Preset = Annotated[str | None, typer.Option(help="clean (default), paper or official; see docs/methods.md.")]
Pairs = Annotated[str | None, typer.Option(help="Look ahead to a random matching (default) or to all pairs.")]
Selection = Annotated[str | None, typer.Option(help="Look-ahead buys greedy (default) or diverse batches.")]
Plain = Annotated[bool | None, typer.Option("--plain", help="Take no shortcuts, and no curves; for finding errors.")]
Device = Annotated[str | None, typer.Option(help="auto (default), cpu, cuda or cuda:N.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any other setting, NAME=VALUE; repeatable.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run or runs in --out, or begin them.")]


def _print_version(asked: bool) -> None:
    if asked:
        print(importlib.metadata.version("lada-ext"))
        raise typer.Exit


@app.callback()
def lada(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Look-ahead data acquisition: experiments in active learning, and the labelling and scoring of your own images."""


@app.command()
def run(
    context: typer.Context,
    out: Out,
    method: Annotated[str | None, typer.Option(help="See `lada methods`; default lada-ent-mix.")] = None,
    dataset: Dataset = None,
    data: Data = None,
    download: Download = False,
    model: Model = None,
    rounds: Rounds = None,
    query: Query = None,
    initial: Initial = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all randomness; default 1.")] = None,
    preset: Preset = None,
    pairs: Pairs = None,
    selection: Selection = None,
    plain: Plain = None,
    device: Device = None,
    settings: Settings = None,
    resume: Resume = False,
) -> None:
    """Run one active-learning experiment, from its initial labels to a report. Under torchrun, processes share it."""
    from lada_al.events import Trained
    from lada_al.ranks import ranks
    from lada_al.report import page
    from lada_al.run import experiment
    from lada_al.run.config import Config
    from lada_al.run.progress import RunProgress

    given = _given(context)

    def begin() -> Config:
        config = Config(**{**experiment.settings_begun(out, resume), **given})
        experiment.check(config, out, resume=resume, download=download)
        return config

    with ranks() as our:
        config = our.on_first(begin)
        if not our.is_first:
            for _ in experiment.run_experiment(config, out, resume=resume):
                pass
            return
        growing = page.GrowingPage(out)
        with RunProgress(console, config.rounds) as progress:
            for event in experiment.run_experiment(config, out, resume=resume, meter=progress):
                progress.show(event)
                if isinstance(event, Trained):
                    growing.show(event.round + 1)
        console.print(f"report: {page.write(out)}", soft_wrap=True)


@app.command()
def compare(
    context: typer.Context,
    out: Out,
    methods: Annotated[
        str | None, typer.Option(help="Names separated by commas, table1, table2, table3, figure5 or all.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="How many (5: seeds 1 to 5), or which (1,2 or 6-25); default 3.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="paper, table3 or mini; see docs/methods.md.")] = None,
    dataset: Dataset = None,
    data: Data = None,
    download: Download = False,
    model: Model = None,
    rounds: Rounds = None,
    query: Query = None,
    initial: Initial = None,
    preset: Preset = None,
    pairs: Pairs = None,
    selection: Selection = None,
    plain: Plain = None,
    device: Device = None,
    settings: Settings = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time; 0: one a CPU core, or one if there is a GPU.")] = 0,
    stack_seeds: Annotated[
        bool, typer.Option("--stack-seeds", help="Train the seeds of a method at once, in one process.")
    ] = False,
    resume: Resume = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how long it would take, and stop.")] = False,
) -> None:
    """Run methods x seeds and report them side by side."""
    from lada_al.ranks import refuse_torchrun
    from lada_al.report import page
    from lada_al.run import compare as comparison
    from lada_al.run import estimate, study
    from lada_al.run.progress import CompareProgress, PhaseProgress

    refuse_torchrun("lada compare")
    given = _given(context)
    whole, now = study.asked_for(out, resume=resume, methods=methods, seeds=seeds, protocol=protocol, given=given)
    workers = jobs if jobs > 0 else comparison.default_workers(now.settings)
    every = comparison.make_jobs(now.methods, now.seeds, now.settings, out, workers=workers, resume=resume)
    comparison.check(every, whole, out, resume=resume, download=download)
    todo = [job for job in every if not job.is_finished]
    groups = comparison.groups(todo, stack_seeds)
    with PhaseProgress(console) as progress:
        seconds = estimate.seconds_left(todo, progress)
    time_left = estimate.in_words(seconds / min(workers, max(1, len(groups))))
    at_a_time = f"the seeds of {workers} methods" if stack_seeds else f"{workers}"
    console.print(f"{len(todo)} of {len(every)} runs to do, {at_a_time} at a time: about {time_left}")
    if dry_run:
        return
    whole.write(out)
    growing = page.GrowingPage(out)
    with CompareProgress(console, todo) as rounds_of_all:
        for ended in comparison.carry_out(groups, workers):
            growing.show(rounds_of_all.show(ended))
    console.print(_table_of(out))
    console.print(f"report: {page.write(out, whole=True)}", soft_wrap=True)


@app.command()
def methods(
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON list.")] = False,
    params: Annotated[bool, typer.Option("--params", help="Sizes of the networks that each method adds.")] = False,
) -> None:
    """List every method: acquisition functions, pipelines, look-ahead."""
    from lada_al.methods import all_methods

    if params:
        console.print(_table_of_sizes())
        return
    if as_json:
        rows = [
            {
                "name": m.name,
                "acquisition": m.acquisition.name,
                "augmentation": m.augmentation.name if m.augmentation else None,
                "look_ahead": m.look_ahead,
                "learn": m.learn,
                "summary": m.summary,
            }
            for m in all_methods().values()
        ]
        print(json.dumps(rows, indent=2))
        return
    table = _table_of_methods("what it does")
    for m in all_methods().values():
        table.add_row(m.name, m.summary)
    console.print(table)


@app.command()
def settings() -> None:
    """List every setting of a run: what --set takes, and the options of the same names."""
    from lada_al.run.config import Config

    table = Table("setting", "default", "what it is", box=None)
    for name, field in Config.model_fields.items():
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
        table.add_row(name, default, field.description or "")
    console.print(table)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run's folder, or one above several.")]) -> None:
    """Write report.html, and all tables and figures as LaTeX, CSV, PDF and PNG, over all runs in or below a folder."""
    from lada_al.report import page

    console.print(f"report: {page.write(folder, whole=True)}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what was built and what runs here, and check every op against its definition."""
    from lada_al import doctor as checks
    from lada_al.self_test import self_test

    for name, value in checks.facts().items():
        console.print(f"{name:<20} {value}", soft_wrap=True)
    table = Table("op", "device", "largest error", "", box=None)
    results = self_test()
    for result in results:
        table.add_row(result.op, result.device, f"{result.error:.1e}", "ok" if result.ok else "WRONG")
    console.print(table)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


app.add_typer(labelling.app)
app.add_typer(scoring.app)


def main() -> None:
    """Entry point of `lada` and of `python -m lada_al`."""
    try:
        app(prog_name="lada")
    except (UsageError, ValidationError, OSError) as error:
        text = one_line(error) if isinstance(error, ValidationError) else str(error)
        print(f"lada: {text}", file=sys.stderr)
        sys.exit(1 if isinstance(error, OSError) else 2)


def _given(context: typer.Context) -> dict[str, Any]:
    """The settings among the options of a command that were given, and --set over them."""
    from lada_al.run.config import Config, parse_settings

    options = context.params
    values = {name: options[name] for name in Config.model_fields if options.get(name) is not None}
    if "data" in values:
        values["data"] = str(values["data"])
    return {**values, **parse_settings(options["settings"] or [])}


def _table_of_methods(*columns: str) -> Table:
    return Table(Column("method", no_wrap=True), *columns, box=None, pad_edge=False, collapse_padding=True)


def _table_of_sizes() -> Table:
    """The column Param. of Table 1: for ResNet-18 and images of 1 x 28 x 28."""
    from lada_al import sizes
    from lada_al.methods import GROUPS, method, rows

    table = Table("method", "parameters", "networks (in brackets: not counted in the paper)", box=None)
    for name in dict.fromkeys(name for group in GROUPS for name in rows(group)):
        networks = sizes.of_table_1(method(name))
        texts = [f"{n.name} {n.parameters:,}" if n.in_table else f"[{n.name} {n.parameters:,}]" for n in networks]
        total = sizes.in_table(networks)
        table.add_row(name, f"{total:,}" if total else "-", ", ".join(texts))
    return table


def _percent(mean: float, deviation: float) -> str:
    """Without the deviation where one seed has none."""
    return f"{100 * mean:.2f}" + ("" if math.isnan(deviation) else f" ± {100 * deviation:.2f}")


def _table_of(out: Path) -> Table:
    from lada_al.report import read, tables

    table = _table_of_methods("seeds", "labels", "accuracy [%]", "AUBC [%]", "s a round", "x random")
    for row in tables.rows(read.find_runs(out)):
        table.add_row(
            row.method,
            str(row.seeds),
            str(row.labels),
            _percent(row.accuracy, row.accuracy_deviation),
            _percent(row.aubc, row.aubc_deviation),
            f"{row.seconds:.2f}",
            f"{row.ratio_to_random:.2f}",
        )
    return table
