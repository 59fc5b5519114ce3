"""report.html: one self-contained page over the runs of a folder, and report.csv with its numbers beside it."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from lada_al.data import NAMES
from lada_al.events import Bought
from lada_al.report import figures, tables
from lada_al.report.read import Run, by_method, find_runs
from lada_al.run.experiment import ACQUIRED
from lada_al.run.files import write_atomically

PAGE, NUMBERS = "report.html", "report.csv"
ROUNDS_SHOWN = 12


@dataclass(frozen=True)
class Picture:
    """A bought image with what is known of it."""

    data_uri: str
    id: int
    label: str
    entropy: float | None


@dataclass(frozen=True)
class Unit:
    """A pair or a single image, with what its virtual instances promised."""

    pictures: list[Picture]
    virtual_entropy: float | None
    tau: float | None


@dataclass(frozen=True)
class Purchase:
    round: int
    units: list[Unit]


def write(folder: Path) -> Path:
    """Reads all runs in or below `folder` and writes the page and the numbers into it; returns the page's path.

    Raises:
        UsageError: there is no run that has trained yet.
    """
    runs = find_runs(folder)
    html, numbers = render(runs), tables.as_csv(runs)
    write_atomically(folder / NUMBERS, lambda file: file.write(numbers.encode()))
    write_atomically(folder / PAGE, lambda file: file.write(html.encode()))
    return folder / PAGE


def render(runs: list[Run]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lada_al.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, number=_number)
    figure_texts = {
        "curves": figures.learning_curves(runs),
        "seconds": figures.seconds_per_phase(runs),
        "entropy": figures.real_and_virtual_entropy(runs),
        "tau": figures.concentrations(runs),
    }
    return environment.get_template("page.html.j2").render(
        dataset=", ".join(sorted({run.config.dataset for run in runs}, key=NAMES.index)),
        rows=tables.rows(runs),
        headline=", ".join(sorted({run.config.headline for run in runs})),
        finished=sum(run.is_finished for run in runs),
        total=len(runs),
        acquired={name: purchases(group[0]) for name, group in by_method(runs).items()},
        settings=_shared_settings(runs),
        **figure_texts,
    )


def purchases(run: Run) -> list[Purchase]:
    """The bought images of evenly chosen rounds, ROUNDS_SHOWN at the most."""
    events = [event for event in run.bought if event.round > 0]
    if len(events) > ROUNDS_SHOWN:
        events = [events[round(i)] for i in np.linspace(0, len(events) - 1, ROUNDS_SHOWN)]
    return [Purchase(event.round, _units(run, event)) for event in events]


def _units(run: Run, event: Bought) -> list[Unit]:
    pictures = _pictures(run, event)
    method = run.config.chosen
    arity = method.augmentation.arity if method.augmentation is not None else 1
    units = []
    for i in range(0, len(pictures), arity):
        unit = i // arity
        tau = event.tau[unit] if event.tau and not isinstance(event.tau[unit], list) else None
        virtual_entropy = event.virtual_entropy[unit] if event.virtual_entropy else None
        units.append(Unit(pictures[i : i + arity], virtual_entropy, tau))
    return units


def _pictures(run: Run, event: Bought) -> list[Picture]:
    path = run.folder / ACQUIRED / f"{event.round:04d}.png"
    if not path.exists():
        return []
    strip = Image.open(path)
    width = strip.width // len(event.ids)
    return [
        Picture(
            data_uri=_data_uri(strip.crop((i * width, 0, (i + 1) * width, strip.height))),
            id=id_,
            label=run.classes[label],
            entropy=event.entropy[i] if event.entropy else None,
        )
        for i, (id_, label) in enumerate(zip(event.ids, event.labels, strict=True))
    ]


def _data_uri(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _shared_settings(runs: list[Run]) -> dict[str, str]:
    """Settings by name; where runs differ, all values."""
    dumps = [run.config.model_dump() for run in runs]
    values = {name: sorted({str(dump[name]) for dump in dumps}) for name in dumps[0]}
    return {name: ", ".join(texts) for name, texts in values.items()}


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"
