"""Figures of the report, each from runs alone, fit for a paper: labelled axes, intervals, quiet colours.

Each function returns a matplotlib figure, or None where the runs hold nothing to show; `svg`, `png` and `pdf` write it
down.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from scipy import stats

from lada_al.report.read import Run, by_method

# Okabe and Ito's colours, told apart also by colour-blind readers.
COLOURS = ["#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C7A00"]
INSIDE = 4  # names for which there is room below rising curves
LINES = ["-", "--", "-.", ":"]
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "lada",
    "pdf.fonttype": 42,
}
styled = mpl.rc_context(STYLE)  # decorates what draws
MOST_LINES = 5  # of runs of a method; of more, nothing could be told apart
PHASES = ["prepare", "features", "match", "policy", "score", "train", "evaluate"]
BESIDE = [  # places of a text by its point, in points, and how it is aligned there
    *((x, y, "left" if x > 0 else "right", "bottom" if y > 0 else "top") for x in (4, -4) for y in (3, -3)),
    (0, 6, "center", "bottom"), (0, -6, "center", "top"), (7, 0, "left", "center"), (-7, 0, "right", "center"),
]  # fmt: skip
PHASE_COLOURS = ["#009E73", "#56B4E9", "#0072B2", "#D55E00", "#E69F00", "#BBBBBB", "#666666"]


def learning_curves(runs: list[Run], methods: list[str] | None = None) -> Figure | None:
    """Test accuracy against labels: mean over seeds with a 95% t interval; of all methods, or of these."""
    shown = [run for run in runs if methods is None or run.config.method in methods]
    if not shown:
        return None
    groups = coloured(runs, methods)

    def draw(axes: Axes) -> None:
        for i, (name, group, colour) in enumerate(groups):
            labels, values = _aligned([(run.labelled, run.accuracies) for run in group])
            _line(axes, labels, values * 100, name, colour, style=LINES[i // len(COLOURS) % len(LINES)])
            if len(groups) <= len(COLOURS):  # more intervals than that hide one another
                axes.fill_between(labels, *interval(values * 100), color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="labelled images", ylabel="test accuracy [%]")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        means = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
        margin = 0.15 * np.ptp(means) + 1  # wide intervals of few seeds may leave the frame
        axes.set_ylim(means.min() - margin, min(means.max() + margin, 100))
        _legend(axes)

    return _figure(draw, 9.6 if len(groups) > INSIDE else 7.2, 6.0 if len(groups) > len(COLOURS) else 4.2)


def seconds_per_phase(runs: list[Run]) -> Figure:
    """Mean seconds of a round, by phase."""
    groups = by_method(runs)

    def draw(axes: Axes) -> None:
        left = np.zeros(len(groups))
        for phase, colour in zip(PHASES, PHASE_COLOURS, strict=True):
            widths = np.array([np.mean([run.seconds().get(phase, 0.0) for run in group]) for group in groups.values()])
            if widths.any():
                axes.barh(range(len(groups)), widths, left=left, color=colour, label=phase, height=0.6)
            left = left + widths
        axes.set_yticks(range(len(groups)), list(groups))
        axes.invert_yaxis()
        axes.set_xlabel("seconds a round")
        axes.grid(axis="y", visible=False)
        if left.any():
            _legend_above(axes)

    return _figure(draw, 7.2, 1.1 + 0.32 * len(groups))


def real_and_virtual_entropy(runs: list[Run]) -> Figure | None:
    """Predictive entropy of what was bought, and of the virtual instances looked ahead to: by round, and of many
    methods the means over all rounds."""
    looking_ahead = [run for run in runs if any(event.virtual_entropy for event in run.bought)]
    if not looking_ahead:
        return None
    return _entropy_by_round(runs, looking_ahead) if len(by_method(runs)) <= len(COLOURS) else _entropy_in_all(runs)


def _entropy_by_round(runs: list[Run], looking_ahead: list[Run]) -> Figure:
    """Solid for real, dotted for virtual instances."""

    def draw(axes: Axes) -> None:
        for name, group, colour in coloured(runs):
            real = [_per_round(run, lambda event: event.entropy) for run in group]
            _line(axes, *_aligned(real), name, colour)
            virtual = [_per_round(run, lambda event: event.virtual_entropy) for run in group if run in looking_ahead]
            if virtual:
                _line(axes, *_aligned(virtual), f"{name}, virtual", colour, style=":")
        axes.set(xlabel="round", ylabel="mean entropy [bits]")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, outside=True)

    return _figure(draw, 9.2, 3.6)


def _entropy_in_all(runs: list[Run]) -> Figure:
    """A line a method, with a dot for its real and a ring for its virtual instances."""
    groups = by_method(runs)

    def mean(group: list[Run], values: Callable[..., list[float] | None]) -> float:
        every = [value for run in group for value in _per_round(run, values)[1]]
        return float(np.mean(every)) if every else float("nan")

    def draw(axes: Axes) -> None:
        real = [mean(group, lambda event: event.entropy) for group in groups.values()]
        virtual = [mean(group, lambda event: event.virtual_entropy) for group in groups.values()]
        rows = range(len(groups))
        axes.hlines(rows, real, virtual, color="#BBBBBB", linewidth=1.5)
        axes.plot(real, rows, "o", color=COLOURS[1], label="bought")
        axes.plot(virtual, rows, "o", color=COLOURS[5], markerfacecolor="white", label="virtual")
        axes.set_yticks(rows, list(groups))
        axes.invert_yaxis()
        axes.set_xlabel("mean entropy [bits]")
        _legend_above(axes)

    return _figure(draw, 7.2, 1.1 + 0.2 * len(groups))


def concentrations(runs: list[Run]) -> Figure | None:
    """tau of the learned Mixup policies over all candidate pairs: mean, and from least to greatest; a line a run, or
    of many runs of a method one of all."""
    learned = [run for run in runs if run.config.chosen.learn and _is_concentration(run)]
    if not learned:
        return None

    def draw(axes: Axes) -> None:
        for name, group, colour in coloured(runs):
            mine = [run for run in group if run in learned]
            for part in [[run] for run in mine] if len(mine) <= MOST_LINES else [mine]:
                rounds, mean, least, greatest = _tau_by_round(part)
                label = name if part[0] is mine[0] else None
                axes.plot(rounds, mean, color=colour, label=label, marker="o", markersize=2.5, linewidth=1)
                axes.fill_between(rounds, least, greatest, color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="round", ylabel="tau of the candidate pairs")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, outside=True)

    return _figure(draw, 8.4, 3.0)


def _tau_by_round(runs: list[Run]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Rounds, and tau of the candidate pairs in each: mean over the runs, least and greatest of all."""
    found: dict[int, list[dict[str, float]]] = {}
    for event in (event for run in runs for event in run.bought if "tau mean" in event.candidates):
        found.setdefault(event.round, []).append(event.candidates)
    rounds = sorted(found)
    mean = [float(np.mean([tau["tau mean"] for tau in found[round]])) for round in rounds]
    least = [min(tau["tau least"] for tau in found[round]) for round in rounds]
    return rounds, mean, least, [max(tau["tau greatest"] for tau in found[round]) for round in rounds]


def _is_concentration(run: Run) -> bool:
    taus = next((event.tau for event in run.bought if event.tau), None)
    return taus is not None and not isinstance(taus[0], list)


def coloured(runs: list[Run], methods: Sequence[str] | None = None) -> list[tuple[str, list[Run], str]]:
    """Name, runs and colour of each method, or of these, which keep the colours that they have among all, if there is
    one for each."""
    if methods is not None and len(by_method(runs)) > len(COLOURS):
        runs = [run for run in runs if run.config.method in methods]
    groups = by_method(runs)
    every = [(name, group, COLOURS[i % len(COLOURS)]) for i, (name, group) in enumerate(groups.items())]
    return [entry for entry in every if methods is None or entry[0] in methods]


def _per_round(run: Run, values: Callable[..., list[float] | None]) -> tuple[list[int], list[float]]:
    events = [event for event in run.bought if values(event)]
    return [event.round for event in events], [float(np.mean(values(event) or [])) for event in events]


def _aligned(curves: Sequence[tuple[list[int], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """x, (n,), and y, (curves, n), where a curve that is not there yet is NaN."""
    xs = sorted({x for curve_xs, _ in curves for x in curve_xs})
    ys = np.full((len(curves), len(xs)), np.nan)
    for row, (curve_xs, curve_ys) in enumerate(curves):
        ys[row, [xs.index(x) for x in curve_xs]] = curve_ys
    return np.array(xs), ys


def _line(axes: Axes, xs: np.ndarray, ys: np.ndarray, label: str, colour: str, style: str = "-") -> None:
    """The mean over the rows of `ys`."""
    if len(xs):
        axes.plot(xs, np.nanmean(ys, 0), style, color=colour, label=label, marker="o", markersize=2.5)


def interval(ys: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of the mean over rows, column by column; NaN where there are not two values."""
    count = (~np.isnan(ys)).sum(0)
    enough = count > 1
    low, high = np.full(ys.shape[1], np.nan), np.full(ys.shape[1], np.nan)
    columns = ys[:, enough]
    mean = np.nanmean(columns, 0) if columns.size else np.empty(0)
    half = stats.t.ppf((1 + level) / 2, count[enough] - 1) * stats.sem(columns, axis=0, nan_policy="omit")
    low[enough], high[enough] = mean - half, mean + half
    return low, high


def _legend(axes: Axes, *, outside: bool = False) -> None:
    """Inside where there is room, beside the axes where there are many lines."""
    if outside or len(axes.get_legend_handles_labels()[0]) > INSIDE:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axes.legend(loc="lower right")


def _legend_above(axes: Axes) -> None:
    """One row, over the whole figure: axes beside long names are narrow."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(handles, labels, ncols=len(labels), loc="outside upper center")


@styled
def _figure(draw: Callable[[Axes], None], width: float, height: float) -> Figure:
    figure, (axes,) = panels(1, width, height)
    draw(axes)
    return figure


def panels(count: int, width: float, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes side by side, in that many rows; for a function that is `styled`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(rows, count // rows)).flat)


def name_points(axes: Axes, points: np.ndarray, texts: Sequence[str], others: np.ndarray) -> None:
    """A text beside each of (n, 2) points, at the first of eight places where it covers least: no other text, and none
    of the points and of the (m, 2) others. The figure is to be settled."""
    marks = axes.transData.transform(np.concatenate([points, others]))
    taken = [Bbox(mark + np.array([[-5], [5]])) for mark in marks]
    for point, text in zip(points, texts, strict=True):
        label = axes.annotate(text, point, (0, 0), textcoords="offset points", fontsize=7)

        def covers(place: tuple[float, float, str, str], label: Annotation = label) -> int:
            x, y, ha, va = place
            label.set(position=(x, y), ha=ha, va=va)
            box = label.get_window_extent()
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1) and axes.bbox.containsy(box.y1)
            return box.count_overlaps(taken) + (not inside)

        covers(min(BESIDE, key=covers))
        taken.append(label.get_window_extent())


def settle(figure: Figure) -> None:
    """Lays the figure out, once: a second pass of the constrained layout would move it a little."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def svg(figure: Figure) -> str:
    """The figure as one SVG element, the same for the same figure."""
    text = io.StringIO()
    with mpl.rc_context(STYLE):
        settle(figure)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def png(figure: Figure) -> bytes:
    return _file(figure, "png", dpi=160, metadata={"Software": None})


def pdf(figure: Figure) -> bytes:
    """For a paper: lines stay lines, and fonts are TrueType, since publishers refuse Type 3."""
    return _file(figure, "pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})


def _file(figure: Figure, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    with mpl.rc_context(STYLE):
        settle(figure)
        figure.savefig(data, format=kind, **options)
    return data.getvalue()
