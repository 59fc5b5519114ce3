"""The commands of people who label: `lada init`, `lada query`, `lada ingest`, `lada label`."""

from __future__ import annotations

import csv
import getpass
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lada_al.errors import UsageError
from lada_al.label.store import JOURNAL, MAX_WHO, Store, is_name

if TYPE_CHECKING:
    from lada_al.label import project as projects
    from lada_al.label.query import Batch

app = typer.Typer()
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
COUNT = 20
COUNT_HELP = f"Images to ask for, an even number where the method buys pairs; default {COUNT}, or all of --from."
CLASSES_HELP = "Class names separated by commas; in quotes where one is part of a name: 'cat,\"dog, small\"'."
SHOWN = 20  # lines of each kind that are printed

Project = Annotated[Path, typer.Option(help="Folder of the labelling project.", file_okay=False)]
HERE = Path()


@app.command()
def init(
    pool: Annotated[Path, typer.Option(help="Images: a folder, Parquet, tar, .npy or .npz.", show_default=False)],
    classes: Annotated[str, typer.Option(help=CLASSES_HELP, show_default=False)],
    project: Project = HERE,
    method: Annotated[str, typer.Option(help="See `lada methods`.")] = "lada-ent-mix",
    model: Annotated[str, typer.Option(help="small or resnet18.")] = "small",
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 1,
    size: Annotated[int | None, typer.Option(help="Side to which images are scaled for the network.")] = None,
    white: Annotated[int, typer.Option(help="White in grey images of 16 bits; 4095 if 12 are used.")] = 65535,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, NAME=VALUE.")] = None,
) -> None:
    """Begin a labelling project: a pool of images and the classes that people will give them."""
    from lada_al.label.begin import DARK, brightest, create
    from lada_al.label.project import PROJECT
    from lada_al.run.config import parse_settings

    names = _names(classes)
    options = {"method": method, "model": model, "seed": seed, "settings": parse_settings(settings or [])}
    begun = create(project, pool, names, size, white, **options)
    images = begun.images()
    height, width = begun.size
    images_of = f"{_count(len(images.ids()), 'image')}, {len(names)} classes, seen as {height} x {width}"
    console.print(f"{project / PROJECT}: {images_of}")
    most = brightest(images)
    if most < DARK:
        console.print(
            f"these images are nearly black: the first have no pixel above {most} of 255. If they are of 12 bits "
            f"in files of 16, remove {PROJECT} and begin again with --white 4095"
        )


@app.command()
def query(
    out: Annotated[Path, typer.Option(help="CSV file to write, with an HTML page beside it.", show_default=False)],
    project: Project = HERE,
    count: Annotated[int | None, typer.Option(help=COUNT_HELP, min=1)] = None,
    listed: Annotated[
        Path | None, typer.Option("--from", help="Ask for the images that this CSV lists, as top.csv of `lada score`.")
    ] = None,
    again: Annotated[int | None, typer.Option(help="Write this earlier batch again, and choose nothing.")] = None,
    label_studio: Annotated[Path | None, typer.Option(help="Write Label Studio tasks too, to this file.")] = None,
    image_prefix: Annotated[
        str | None, typer.Option(help="Address before paths in tasks; default: images inside.")
    ] = None,
) -> None:
    """Choose the images whose labels help most, and write them as a batch for people."""
    from lada_al.label import project as projects
    from lada_al.label import query as queries
    from lada_al.run.progress import PhaseProgress
    from lada_al.timing import NoMeter

    if again is not None and not (count is None and listed is None):
        option = "--count" if listed is None else "--from"
        raise UsageError(f"{option}: --again writes a batch as it was asked for; give one of them")
    if image_prefix is not None and label_studio is None:
        raise UsageError("--image-prefix is for tasks of --label-studio, which is not given")
    if not out.name:
        raise UsageError(f"--out: expected the name of a file, got '{out}'")
    _check_new_files([path for path in (out, _page_of(out), label_studio) if path is not None])
    begun = projects.read(project)
    if image_prefix is not None and begun.kind != "folder":
        raise UsageError(f"--image-prefix: the images of {begun.pool} are no files, so they have no addresses")
    wanted = count or COUNT
    if again is not None:
        batch = queries.again(project, again)
    elif listed is not None:
        batch = queries.make_listed(project, listed, count)
    else:
        with PhaseProgress(console) if console.is_terminal else nullcontext(NoMeter()) as meter:
            batch = queries.make(project, wanted, meter)
    _write(batch, begun, out, label_studio, image_prefix)
    _print_rest(project, batch)
    if again is None and listed is None and len(batch.items) < wanted:
        console.print(f"fewer than the {wanted:,} images that were asked for: the pool is nearly used up")
    images = _count(len(batch.items), "image")
    console.print(f"batch {batch.query.id}: {images} in {out}, to be looked at in {_page_of(out)}")


@app.command()
def ingest(
    labels: Annotated[Path, typer.Argument(help="CSV with id and label, or Label Studio's JSON.", show_default=False)],
    project: Project = HERE,
    who: Annotated[
        str | None, typer.Option(help="Who gave the labels where the file names nobody; default: you.")
    ] = None,
) -> None:
    """Take labels back. What cannot be taken is refused line by line, and the exit code is then 1."""
    from lada_al.label import ingest as ingestion
    from lada_al.label import project as projects

    report = ingestion.ingest(project, labels, _person(who))
    skips = f" and {_count(report.skips, 'skip')}" if report.skips else ""
    empty = f"{_count(report.empty, 'line')} without one"
    console.print(f"{_count(report.labels, 'label')}{skips} taken, {report.repeated:,} known already, {empty}")
    for title, lines in (
        ("corrected", report.corrected),
        ("outvoted", report.outvoted),
        ("in dispute, and without a label until somebody decides (lada label --review)", report.disputed),
        ("refused", report.refused),
    ):
        _print_lines(title, lines)
    begun = projects.read(project)
    with Store(project / JOURNAL) as store:
        console.print(f"labels now: {ingestion.count_labels(store.labels().values(), begun.classes)}")
    if report.refused:
        raise typer.Exit(1)


@app.command()
def label(
    project: Project = HERE,
    who: Annotated[str | None, typer.Option(help="Who labels; default: you.")] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: any that is free.", min=0, max=65535)] = 0,
    review: Annotated[bool, typer.Option("--review", help="Show what was skipped or is in dispute.")] = False,
) -> None:
    """Label the queried images in the browser. Each label is saved as it is given; stop with Ctrl-C."""
    from lada_al.label import server

    server.serve(project, _person(who), port, review, lambda url: console.print(f"open {url}"))


def _page_of(out: Path) -> Path:
    """The page that shows the batch of this CSV file."""
    return out.with_suffix(".html")


def _write(batch: Batch, project: projects.Project, out: Path, label_studio: Path | None, prefix: str | None) -> None:
    """Writes the files of a batch that is in the journal.

    Raises:
        OSError: one cannot be written; it says how to go on.
    """
    from lada_al.label import label_studio as studio
    from lada_al.label import query as queries

    query, items, images = batch.query, batch.items, project.images()
    try:
        queries.write_csv(out, items, images)
        queries.write_html(_page_of(out), query, items, images)
        if label_studio is not None:
            without_task = studio.write_tasks(label_studio, query, items, images, prefix)
            if without_task:
                console.print(f"{_count(without_task, 'image')} left out of {label_studio}: unreadable")
            console.print(f"labelling interface for Label Studio:\n{studio.interface(project.classes)}", end="")
    except OSError as error:
        raise OSError(f"{error}; batch {query.id} is entered: `lada query --again {query.id}` writes it") from error


def _print_rest(project: Path, batch: Batch) -> None:
    """Says what a batch had to do without, and what of earlier batches is open."""
    from lada_al.label.query import UNREADABLE

    if batch.unreadable:
        console.print(f"{_count(batch.unreadable, 'image')} could not be read: see {project / UNREADABLE}")
    if batch.gone:
        console.print(f"{_count(batch.gone, 'label')} not used for the ranking: of images no longer in the pool")
    if batch.known:
        console.print(f"{_count(batch.known, 'image')} of the list left out: labelled or asked for already")
    with Store(project / JOURNAL) as store:
        waiting = sum(item.query != batch.query.id for item in store.pending())
    if waiting:
        images = _count(waiting, "image")
        console.print(f"{images} of earlier batches without an answer yet; --again NUMBER writes a batch again")


def _check_new_files(paths: list[Path]) -> None:
    """Refuses files of a batch that are there already, or that could not be written."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"--out and --label-studio: {' and '.join(map(str, paths))} must be different files")
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} exists and may hold labels; choose another name")
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise UsageError(f"{path.parent} cannot be written to")


def _person(who: str | None) -> str:
    """The name given, or that of the user."""
    try:
        name = getpass.getuser() if who is None else who
    except (KeyError, OSError):
        name = ""
    if not is_name(name):
        raise UsageError(f"--who: expected a name of 1 to {MAX_WHO} characters, got '{name}'")
    return name


def _names(classes: str) -> list[str]:
    """The names in a list as CSV writes it."""
    try:
        (row,) = csv.reader([classes], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:  # the latter where a quoted line goes on
        reason = str(error) if isinstance(error, csv.Error) else "it is no one line"
        raise UsageError(f"--classes: expected names separated by commas, got '{classes}': {reason}") from error
    return [name.strip() for name in row]


def _count(number: int, what: str) -> str:
    """1 label, 2 labels."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _print_lines(title: str, lines: list[str]) -> None:
    if lines:
        console.print(f"{title}: {len(lines)}")
    for line in lines[:SHOWN]:
        console.print("  " + "".join(c if c.isprintable() else "�" for c in line))
    if len(lines) > SHOWN:
        console.print(f"  and {len(lines) - SHOWN} more")
