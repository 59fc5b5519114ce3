"""report.html: one self-contained page over the runs of a folder, and its numbers and figures as files beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from lada_al.events import Bought
from lada_al.files import png_uri, write_bytes, write_text
from lada_al.report import figures, paper_figures, statistics, tables, toy
from lada_al.report.read import Run, by_dataset, by_method, find_runs, unlike_settings
from lada_al.run.folder import ACQUIRED

PAGE, NUMBERS, FILES = "report.html", "report.csv", "report"
ROUNDS_SHOWN = 12
SECONDS_BETWEEN_PAGES = 10.0


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


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption; `name` is that of its files."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Section:
    """What the page shows of one data set."""

    dataset: str
    unlike: list[str]
    """Settings that differ between methods."""
    rows: list[tables.Row]
    drawings: list[Drawing]
    comparisons: list[statistics.Comparison]
    savings: list[statistics.Saving]
    acquired: dict[str, list[Purchase]]
    shows_tau: bool


def write(folder: Path | str, *, whole: bool = False) -> Path:
    """Reads all runs in or below `folder` and writes the page and the numbers into it; returns the page's path.

    With `whole`, the page has the paper's tables and figures and the tests too, and all of it lies in the folder
    `report` as LaTeX, CSV, PDF and PNG. That takes longer (t-SNE), so it is not done while runs are still going.

    Raises:
        UsageError: there is no run that has trained yet.
    """
    folder = Path(folder)
    runs = find_runs(folder)
    sections = [_section(name, of_set, whole) for name, of_set in by_dataset(runs).items()]
    html, numbers = render(runs, sections, whole), tables.as_csv(runs)
    if whole:
        _write_files(folder / FILES, runs, sections)
    write_text(folder / NUMBERS, numbers)
    write_text(folder / PAGE, html)
    return folder / PAGE


class GrowingPage:
    """The page over runs that are going on, written again from time to time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._written, self._rounds = folder, -math.inf, 0

    def show(self, rounds: int) -> None:
        """Writes it if there are more `rounds` now than it holds, and it was not written just now."""
        if rounds > self._rounds and time.monotonic() - self._written > SECONDS_BETWEEN_PAGES:
            write(self._folder)
            self._written, self._rounds = time.monotonic(), rounds


def _write_files(folder: Path, runs: list[Run], sections: list[Section]) -> None:
    folder.mkdir(exist_ok=True)
    _write_figure(folder / "figure-1", paper_figures.figure_1())
    for section in sections:
        for drawing in section.drawings:
            _write_figure(folder / f"{drawing.name}-{section.dataset}", drawing.figure)
    for table in tables.paper_tables(runs):
        stem = table.title.lower().replace(" ", "-")
        write_text(folder / f"{stem}.tex", tables.as_latex(table))
        write_text(folder / f"{stem}.csv", tables.paper_csv(table))
    for name, make in (
        ("methods", tables.methods_csv),
        ("comparisons", tables.comparisons_csv),
        ("penalties", tables.penalties_csv),
        ("labels-saved", tables.savings_csv),
    ):
        write_text(folder / f"{name}.csv", make(runs))


def _write_figure(stem: Path, figure: Figure) -> None:
    write_bytes(Path(f"{stem}.png"), figures.png(figure))
    write_bytes(Path(f"{stem}.pdf"), figures.pdf(figure))


def render(runs: list[Run], sections: list[Section], whole: bool) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lada_al.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, number=_number, svg=figures.svg, count=tables.short_count)
    return environment.get_template("page.html.j2").render(
        dataset=", ".join(section.dataset for section in sections),
        sections=sections,
        paper=tables.paper_tables(runs) if whole else [],
        figure_1=paper_figures.figure_1() if whole else None,
        toy_tau=toy.LARGEST_TAU,
        largest_tau=_largest_tau(runs),
        headline=", ".join(sorted({run.config.headline for run in runs})),
        finished=sum(run.is_finished for run in runs),
        total=len(runs),
        settings=_shared_settings(runs),
    )


def _section(dataset: str, runs: list[Run], whole: bool) -> Section:
    drawings = [
        Drawing(name, title, caption, figure)
        for name, title, caption, make in (_PLAIN + _WHOLE if whole else _PLAIN)
        if (figure := make(runs)) is not None
    ]
    acquired = {name: purchases(group[0]) for name, group in by_method(runs).items()}
    return Section(
        dataset=dataset,
        unlike=unlike_settings(runs),
        rows=tables.rows(runs),
        drawings=drawings,
        comparisons=statistics.comparisons(runs) if whole else [],
        savings=statistics.savings(runs) if whole else [],
        acquired=acquired,
        shows_tau=any(unit.tau is not None for of in acquired.values() for bought in of for unit in bought.units),
    )


_Drawn = tuple[str, str, str, Callable[[list[Run]], Figure | None]]
_PLAIN: list[_Drawn] = [
    (
        "curves",
        "Accuracy against labels",
        "Test accuracy after each round: mean over seeds, with a 95% Student t interval of the mean where there are at "
        "least two, and at most eight methods. The frame is that of the means; wide intervals leave it.",
        figures.learning_curves,
    ),
    ("seconds", "Where the time goes", "Mean seconds of a round, by phase.", figures.seconds_per_phase),
    (
        "entropy",
        "Real and virtual instances",
        "Predictive entropy, before training, of the images that were bought and of the virtual instances that their "
        "augmentation would make of them; of more than eight methods, the means over all rounds.",
        figures.real_and_virtual_entropy,
    ),
    (
        "tau",
        "Learned mixing policy",
        "tau of Beta(tau, tau) that the policy network gives to the candidate pairs of each round: mean, and the range "
        "from least to greatest; one line a seed, or of more than five seeds one of all.",
        figures.concentrations,
    ),
]
_SHADED = "Shaded: the interval of the mean, as above; in the paper, the standard deviation over seeds."
_WHOLE: list[_Drawn] = [
    (
        "tau-bought",
        "tau by round",
        "tau of the pairs that were bought, all seeds.",
        paper_figures.bought_concentrations,
    ),
    ("lambda", "lambda by round", "Density of lambda over the bought pairs, all seeds.", paper_figures.mixing_weights),
    ("figure-4", "Figure 4", f"Look-ahead, and methods that augment otherwise. {_SHADED}", paper_figures.figure_4),
    ("figure-5a", "Figure 5a", f"Ablation of Mixup. {_SHADED}", lambda runs: paper_figures.figure_5(runs, "Mixup")),
    ("figure-5b", "Figure 5b", f"Ablation of the STN. {_SHADED}", lambda runs: paper_figures.figure_5(runs, "STN")),
    (
        "figure-6",
        "Figure 6",
        "t-SNE of what was bought (stars) and of virtual instances (crosses), first seed. Black: entropies when "
        "chosen; blue: of the means over the N draws (setting samples) of a pair, the largest and (*) the mean.",
        paper_figures.figure_6,
    ),
    (
        "figure-7a",
        "Figure 7a",
        "Entropy of virtual instances by round: mean over the pairs bought, all seeds, and their N draws (samples).",
        paper_figures.figure_7a,
    ),
    (
        "figure-7b",
        "Figure 7b",
        "Mean entropy over the N draws (setting samples) of a bought pair: distribution over all pairs, rounds, seeds. "
        "Single virtual instances spread wider.",
        paper_figures.figure_7b,
    ),
    (
        "figure-8",
        "Figure 8",
        "t-SNE of all bought (stars) and all virtual instances (crosses), first seed; a colour for each class.",
        paper_figures.figure_8,
    ),
    (
        "penalties",
        "Pairwise penalties",
        "Part of the budgets at which the method of the row beats that of the column by a paired t test at 0.05, "
        "uncorrected; a low mean of a column is good. – where there is no test: too few seeds, or other settings.",
        paper_figures.penalty_matrix,
    ),
]


def purchases(run: Run) -> list[Purchase]:
    """The bought images of evenly chosen rounds, ROUNDS_SHOWN at the most."""
    events = [event for event in run.bought if event.round > 0]
    if len(events) > ROUNDS_SHOWN:
        events = [events[round(i)] for i in np.linspace(0, len(events) - 1, ROUNDS_SHOWN)]
    return [Purchase(event.round, _units(run, event)) for event in events]


def _units(run: Run, event: Bought) -> list[Unit]:
    pictures = _pictures(run, event)
    method = run.config.chosen
    arity, kind = method.arity, method.augmentation
    by_beta = kind is not None and kind.mixes_by_beta
    units = []
    for i in range(0, len(pictures), arity):
        unit = i // arity
        tau = event.tau[unit] if event.tau and by_beta else None
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
            data_uri=png_uri(strip.crop((i * width, 0, (i + 1) * width, strip.height))),
            id=id_,
            label=run.classes[label],
            entropy=event.entropy[i] if event.entropy else None,
        )
        for i, (id_, label) in enumerate(zip(event.ids, event.labels, strict=True))
    ]


def _shared_settings(runs: list[Run]) -> dict[str, str]:
    """Settings by name; where runs differ, all values."""
    dumps = [run.config.model_dump() for run in runs]
    values = {name: sorted({str(dump[name]) for dump in dumps}) for name in dumps[0]}
    return {name: ", ".join(texts) for name, texts in values.items()}


def _largest_tau(runs: list[Run]) -> str:
    """Of runs that learn a concentration; empty if there are none."""
    largest = {
        run.config.largest_tau
        for run in runs
        if run.config.chosen.learn and run.config.chosen.augmentation and run.config.chosen.augmentation.mixes_by_beta
    }
    return " or ".join(f"{tau:g}" for tau in sorted(largest))


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"
