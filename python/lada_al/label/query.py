"""`lada query`: ranks the pool or takes a list, enters the batch in the journal, and writes it for people to label.

The journal comes first: a batch that is in it is asked for, and its files can be written again from it at any time.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import jinja2
from PIL import Image

from lada_al.errors import UsageError
from lada_al.files import csv_text, png_uri, safe, write_text
from lada_al.label import project as projects
from lada_al.label.images import Images
from lada_al.label.listed import read as read_list
from lada_al.label.store import JOURNAL, Query, QueryItem, Store
from lada_al.pools.decode import UnreadableError
from lada_al.pools.source import as_text
from lada_al.timing import Meter, NoMeter

UNREADABLE = "unreadable.csv"
COLUMNS = ["id", "path", "score", "why", "predicted", "entropy", "label"]
THUMBNAIL = 160
SHOWN = 1000  # images on a page, which a browser has to hold


@dataclass(frozen=True)
class Batch:
    """A batch that is in the journal, and what its ranking had to do without."""

    query: Query
    items: list[QueryItem]
    unreadable: int = 0
    """Images that could not be read; unreadable.csv lists them."""
    gone: int = 0
    """Images that have a label and are not in the pool."""
    known: int = 0
    """Images of a list that were asked for or labelled before."""


def make(folder: Path, count: int, meter: Meter | None = None) -> Batch:
    """Ranks the pool of a project and enters the next batch, of `count` items or of what is left.

    Raises:
        UsageError: the project cannot be used, or everything was asked already.
    """
    from lada_al.label.rank import Ranker

    project = projects.read(folder)
    images = project.images()
    with Store(folder / JOURNAL) as store:
        queries = store.queries()
        labels_seen = store.last_label()
        known = set(images.ids())
        labels = store.labels()
        labelled = {id_: label for id_, label in labels.items() if id_ in known and label in project.classes}
        last = store.items(queries[-1].id) if queries else []
        rank = Ranker(project, len(queries), store.asked(), last, meter or NoMeter())
        ranked = rank(images, labelled, count)
        _write_unreadable(folder / UNREADABLE, rank.unreadable)
        if not ranked:
            raise UsageError(f"all {len(known)} images of the pool are labelled, asked for or unreadable")
        query = store.add_query(project.method, project.seed, len(queries), labels_seen, ranked)
        return Batch(query, store.items(query.id), len(rank.unreadable), len(labels.keys() - known))


def make_listed(folder: Path, file: Path, count: int | None) -> Batch:
    """Enters the next batch: the first `count` of what a CSV file lists, without what is labelled or asked for.

    Raises:
        UsageError: the project or the file cannot be used, or everything in it was asked already.
    """
    project = projects.read(folder)
    with Store(folder / JOURNAL) as store:
        number, labels_seen = len(store.queries()), store.last_label()
        before = store.asked() | store.labels().keys()
        listed = read_list(file, before.union(project.images().ids()))
        new = [ranked for ranked in listed if ranked.id not in before]
        if not new:
            raise UsageError(f"--from: all {len(listed)} images that {file} lists are labelled or asked for")
        method = f"the list {as_text(file.name)}"
        query = store.add_query(method, project.seed, number, labels_seen, new[:count])
        return Batch(query, store.items(query.id), known=len(listed) - len(new))


def again(folder: Path, number: int) -> Batch:
    """An earlier batch, for its files to be written again."""
    with Store(folder / JOURNAL) as store:
        for query in store.queries():
            if query.id == number:
                return Batch(query, store.items(query.id))
    raise UsageError(f"--again: there is no batch {number} in {folder / JOURNAL}")


def write_csv(path: Path, items: list[QueryItem], images: Images) -> None:
    """One line an item, with an empty column for its label."""
    rows = []
    for item in items:
        id_, score, why, predicted, entropy, _ = item.ranked
        try:
            location = images.location(id_)
        except KeyError:
            location, why = "", f"no longer in the pool; {why}"
        row = [id_, location, _number(score), why, predicted or "", _number(entropy), ""]
        rows.append([safe(cell) for cell in row])
    write_text(path, csv_text([COLUMNS, *rows]))


def write_html(path: Path, query: Query, items: list[QueryItem], images: Images) -> None:
    """A page that shows the batch, or the best of it: one file, with thumbnails inside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lada_al.label", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    shown = [(item.ranked, _thumbnail(images, item.ranked.id)) for item in items[:SHOWN]]
    html = environment.get_template("batch.html.j2").render(query=query, items=shown, count=len(items))
    write_text(path, html)


def data_uri(image: Image.Image, longest: int) -> str:
    """The image as PNG in a URI, no side longer than `longest`."""
    image.thumbnail((longest, longest))
    return png_uri(image)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _thumbnail(images: Images, id_: str) -> str | None:
    try:
        return data_uri(images.image(id_), THUMBNAIL)
    except (UnreadableError, KeyError):
        return None


def _write_unreadable(path: Path, reasons: dict[str, str]) -> None:
    if not reasons:
        return
    rows = {(safe(id_), reason) for id_, reason in reasons.items()}
    if path.exists():
        _, *known = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        rows |= {(id_, reason) for id_, reason in known}
    write_text(path, csv_text([("id", "reason"), *sorted(rows)]))
