"""The commands of people who label: `lada init`, `lada query`, `lada ingest`, `lada label`."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lada_al.errors import UsageError
from lada_al.label.store import JOURNAL, MAX_WHO, Store, is_name

if TYPE_CHECKING:
    from lada_al.label.query import Batch

app = typer.Typer()
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
COUNT = 20
COUNT_HELP = f"Images to ask for, an even number where the method buys pairs; default {COUNT}, or all of --from."
SHOWN = 20  # lines of each kind that are printed

Project = Annotated[Path, typer.Option(help="Folder of the labelling project.", file_okay=False)]
HERE = Path()


@app.command()
def init(
    pool: Annotated[Path, typer.Option(help="Images: a folder, Parquet, tar, .npy or .npz.", show_default=False)],
    classes: Annotated[str, typer.Option(help="Class names separated by commas.", show_default=False)],
    project: Project = HERE,
    method: Annotated[str, typer.Option(help="See `lada methods`.")] = "lada-ent-mix",
    model: Annotated[str, typer.Option(help="small or resnet18.")] = "small",
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 1,
    size: Annotated[int | None, typer.Option(help="Side to which images are scaled for the network.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, NAME=VALUE.")] = None,
) -> None:
    """Begin a labelling project: a pool of images and the classes that people will give them."""
    from lada_al.label import project as projects
    from lada_al.run.config import parse_settings

    names = [name.strip() for name in classes.split(",")]
    options = {"method": method, "model": model, "seed": seed, "settings": parse_settings(settings or [])}
    begun = projects.create(project, pool, names, size, **options)
    count = len(begun.images().ids())
    height, width = begun.size
    console.print(f"{project / projects.PROJECT}: {count} images, {len(names)} classes, seen as {height} x {width}")


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
    from lada_al.label import label_studio as studio
    from lada_al.label import project as projects
    from lada_al.label import query as queries

    if again is not None and not (count is None and listed is None):
        option = "--count" if listed is None else "--from"
        raise UsageError(f"{option}: --again writes a batch as it was asked for; give one of them")
    if image_prefix is not None and label_studio is None:
        raise UsageError("--image-prefix is for tasks of --label-studio, which is not given")
    if not out.name:
        raise UsageError(f"--out: expected the name of a file, got '{out}'")
    html = out.with_suffix(".html")
    _check_new_files([path for path in (out, html, label_studio) if path is not None])
    begun = projects.read(project)
    if image_prefix is not None and begun.kind != "folder":
        raise UsageError(f"--image-prefix: the images of {begun.pool} are no files, so they have no addresses")
    if again is not None:
        batch = queries.again(project, again)
    elif listed is not None:
        batch = queries.make_listed(project, listed, count)
    else:
        batch = queries.make(project, count or COUNT)
    number, items, images = batch.query.id, batch.items, begun.images()
    try:
        queries.write_csv(out, items, images)
        queries.write_html(html, batch.query, items, images)
        if label_studio is not None:
            without_task = studio.write_tasks(label_studio, batch.query, items, images, image_prefix)
            if without_task:
                console.print(f"{without_task} images cannot be read and are not in {label_studio}")
            console.print(f"labelling interface for Label Studio:\n{studio.interface(begun.classes)}", end="")
    except OSError as error:
        raise OSError(f"{error}; batch {number} is entered: `lada query --again {number}` writes it") from error
    _print_rest(project, batch)
    console.print(f"batch {number}: {len(items)} images in {out}, to be looked at in {html}")


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
    taken = f"{report.labels} labels" + (f" and {report.skips} skips" if report.skips else "")
    console.print(f"{taken} taken, {report.repeated} known already, {report.empty} lines without one")
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


def _print_rest(project: Path, batch: Batch) -> None:
    """Says what a batch had to do without, and what of earlier batches is open."""
    from lada_al.label.query import UNREADABLE

    if batch.unreadable:
        console.print(f"{batch.unreadable} images could not be read; they are listed in {project / UNREADABLE}")
    if batch.gone:
        console.print(f"{batch.gone} labelled images are no longer in the pool; the ranking did without their labels")
    if batch.known:
        console.print(f"{batch.known} images of the list are labelled or asked for already and left out")
    with Store(project / JOURNAL) as store:
        waiting = sum(item.query != batch.query.id for item in store.pending())
    if waiting:
        console.print(f"{waiting} images of earlier batches have no answer yet; --again NUMBER writes a batch again")


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


def _print_lines(title: str, lines: list[str]) -> None:
    if lines:
        console.print(f"{title}: {len(lines)}")
    for line in lines[:SHOWN]:
        console.print("  " + "".join(c if c.isprintable() else "�" for c in line))
    if len(lines) > SHOWN:
        console.print(f"  and {len(lines) - SHOWN} more")
