"""Figures 1 and 4 to 8 of the paper, drawn from our own runs, and what the paper lacks of tau, lambda and penalties.

The functions return None where the runs they are about were not made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from lada_al.events import Bought
from lada_al.methods import FIGURE_5
from lada_al.report import statistics, toy
from lada_al.report.figures import COLOURS, coloured, learning_curves, name_points, panels, settle, styled
from lada_al.report.read import Run, by_method

AUGMENTED = ["bgadl", "cal", "ent+manifold-mixup", "ent+adamixup"]
OF_FIGURE_7 = ["lada-ent-mix", "lada-ent-mix-fixed", "ent+manifold-mixup"]
OF_FIGURE_6 = ["entropy", "lada-ent-mix"]
OF_FIGURE_8 = ["ent+adamixup", "lada-ent-mix"]
EARLY, LATE = 0.07, 0.76  # the paper shows rounds 7 and 76 of 100


@styled
def figure_1() -> Figure:
    """Points bought (stars) and mixed (crosses) in a plane, over the classifier's entropy."""
    scene = toy.make()
    figure, axes = panels(2, 9.6, 4.6)
    for axis, way in zip(axes, scene.ways, strict=True):
        axis.contourf(scene.grid, scene.grid, scene.entropy, levels=12, cmap="Greys", alpha=0.6)
        _points(axis, scene.pool, s=4, color="#999999", linewidths=0)
        _points(axis, scene.labelled, s=14, c=scene.labels, cmap="tab10", linewidths=0)
        for i, colour in enumerate(COLOURS[1 : len(way.bought) + 1]):
            _points(axis, way.virtual[i], s=16, marker="x", color=colour, linewidths=0.8)
            _points(axis, way.bought[i], s=70, marker="*", color=colour, edgecolors="black", linewidths=0.5)
        axis.set_title(
            f"{way.name}\nmean entropy: bought {way.bought_entropy.mean():.2f}, "
            f"virtual {way.virtual_entropy.mean():.2f} bits",
            fontsize=9,
        )
        axis.set(xticks=[], yticks=[], xlim=(-4.5, 4.5), ylim=(-4.5, 4.5))
    settle(figure)
    for axis, way in zip(axes, scene.ways, strict=True):
        entropies = [f"{entropy:.2f}" for entropy in way.bought_entropy.flat]
        name_points(axis, way.bought.reshape(-1, 2), entropies, way.virtual.reshape(-1, 2))
    return figure


def figure_4(runs: list[Run]) -> Figure | None:
    """Accuracy of the look-ahead methods and of those that augment otherwise."""
    shown = [run.config.method for run in runs if run.config.method.startswith("lada-")]
    learned = [name for name in shown if not name.endswith("-fixed")]
    return learning_curves(runs, [*AUGMENTED, *learned]) if learned else None


def figure_5(runs: list[Run], part: str) -> Figure | None:
    """Ablation of the Mixup-based (a) or STN-based (b) methods."""
    names = FIGURE_5[part]
    present = {run.config.method for run in runs}
    return learning_curves(runs, names) if len(present & set(names)) > 1 else None


@styled
def figure_6(runs: list[Run]) -> Figure | None:
    """t-SNE of what was bought (stars) and made of it (crosses) in an early and a late round, with entropies.

    Positions are by the finished classifier; entropies in black are those of the images when they were chosen, in blue
    the largest and the mean of the pairs' virtual entropies, each a mean over N draws.
    """
    chosen = _first_finished(runs, OF_FIGURE_6)
    if not chosen:
        return None
    figure, axes = panels(2 * len(chosen), 8.8, 4.2 * len(chosen), rows=len(chosen))
    named = []
    for i, run in enumerate(chosen):
        real, virtual, arrays = _embedded(run)
        for j, (when, part) in enumerate((("early", EARLY), ("late", LATE))):
            axis, number = axes[2 * i + j], max(1, round(part * run.config.rounds))
            event = next(event for event in run.bought if event.round == number)
            axis.set_title(f"{run.config.method}, {when} (round {number})", fontsize=9)
            named.append((axis, *_stars_of_round(axis, real, virtual, arrays, event)))
    settle(figure)
    for axis, stars, entropies, crosses in named:
        name_points(axis, stars, entropies, crosses)
    return figure


def _stars_of_round(
    axis: Axes, real: np.ndarray, virtual: np.ndarray, arrays: dict[str, np.ndarray], event: Bought
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Returns where the stars are, their entropies, and where the crosses are."""
    _points(axis, real, s=6, color="#cccccc", linewidths=0)
    now = real[arrays["round"] == event.round]
    _points(axis, now, s=60, marker="*", color="#D55E00", edgecolors="black", linewidths=0.4)
    crosses = virtual[arrays["virtual_round"] == event.round] if len(virtual) else virtual
    _points(axis, crosses, s=28, marker="x", color="#0072B2")
    if event.virtual_entropy:
        text = f"virtual: {max(event.virtual_entropy):.2f} (*{np.mean(event.virtual_entropy):.2f})"
        axis.text(0.02, 0.98, text, transform=axis.transAxes, va="top", fontsize=8, color="#0072B2")
    axis.set(xticks=[], yticks=[])
    return now, [f"{entropy:.2f}" for entropy in event.entropy or []], crosses


@styled
def figure_7a(runs: list[Run]) -> Figure | None:
    """Entropy of the virtual instances of each round: learned tau, fixed tau, pipeline."""
    groups = _virtual(runs)
    if not groups:
        return None
    figure, (axis,) = panels(1, 6.4, 3.6)
    for name, group, colour in groups:
        rounds = sorted({event.round for run in group for event in run.bought if event.virtual_entropy})
        means = [
            np.mean(
                [np.mean(e.virtual_entropy) for run in group for e in run.bought if e.round == r and e.virtual_entropy]
            )
            for r in rounds
        ]
        axis.plot(rounds, means, color=colour, label=name, marker="o", markersize=2.5)
    axis.set(xlabel="round", ylabel="mean entropy of virtual instances [bits]")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    return figure


@styled
def figure_7b(runs: list[Run]) -> Figure | None:
    """Distribution over all rounds of a bought pair's virtual entropy, the mean over its N draws."""
    groups = _virtual(runs)
    if not groups:
        return None
    figure, (axis,) = panels(1, 6.4, 3.6)
    values = [
        np.concatenate([e.virtual_entropy for run in group for e in run.bought if e.virtual_entropy])
        for _, group, _ in groups
    ]
    edges = np.linspace(0, max(v.max() for v in values) + 1e-9, 21)
    for (name, _, colour), entropies in zip(groups, values, strict=True):
        heights, _ = np.histogram(entropies, edges, density=True)
        axis.plot((edges[1:] + edges[:-1]) / 2, heights, color=colour, label=name, marker="o", markersize=2.5)
    axis.set(xlabel="mean entropy over N draws of a pair [bits]", ylabel="density of pairs")
    axis.legend()
    return figure


@styled
def figure_8(runs: list[Run]) -> Figure | None:
    """t-SNE of all that was bought (stars) and made of it (crosses), by class."""
    chosen = [run for run in _first_finished(runs, OF_FIGURE_8) if "virtual" in (run.latent() or {})]
    if not chosen:
        return None
    figure, axes = panels(len(chosen), 5.2 * len(chosen), 4.8)
    for axis, run in zip(axes, chosen, strict=True):
        real, virtual, arrays = _embedded(run)
        colour = mpl.colormaps["tab10" if len(run.classes) <= 10 else "nipy_spectral"].resampled(len(run.classes))
        _points(axis, virtual, s=16, marker="x", color=colour(arrays["virtual_label"]), linewidths=0.8)
        _points(axis, real, s=26, marker="*", color=colour(arrays["label"]), linewidths=0)
        axis.set_title(run.config.method, fontsize=9)
        axis.set(xticks=[], yticks=[])
    return figure


@styled
def penalty_matrix(runs: list[Run]) -> Figure | None:
    """Part of the budgets at which the method of the row beats that of the column; column sums below."""
    names, matrix = statistics.penalties(runs)
    if len(names) < 2 or not np.nan_to_num(matrix).any():
        return None
    size = 2.6 + 0.27 * len(names)
    figure, (axis,) = panels(1, size + 0.8, size)
    tested = (~np.isnan(matrix)).sum(0) - 1  # the diagonal is no test
    shown = np.vstack([matrix, np.where(tested > 0, np.nansum(matrix, axis=0) / np.maximum(tested, 1), np.nan)])
    axis.imshow(shown, cmap="Blues", vmin=0, vmax=1)
    axis.axhline(len(names) - 0.5, color="black", linewidth=0.8)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names) + 1), [*names, "mean of column"], fontsize=7)
    axis.grid(visible=False)
    for i, j in np.ndindex(*shown.shape):
        if np.isnan(shown[i, j]):
            axis.text(j, i, "–", ha="center", va="center", fontsize=6, color="#999999")
        elif shown[i, j] > 0:
            colour = "white" if shown[i, j] > 0.6 else "black"
            axis.text(j, i, f"{shown[i, j]:.1f}", ha="center", va="center", fontsize=6, color=colour)
    return figure


def bought_concentrations(runs: list[Run]) -> Figure | None:
    """tau of the pairs that each round bought, a box a round."""
    return _by_round(runs, _boxes, "round", "tau of bought pairs")


def mixing_weights(runs: list[Run]) -> Figure | None:
    """Density of lambda ~ Beta(tau, tau) over the pairs bought in the first, middle and last round."""

    def draw(axis: Axes, taus: dict[int, np.ndarray], colour: str) -> None:
        del colour
        x = np.linspace(0.002, 0.998, 400)
        rounds = sorted(taus)
        picked = dict.fromkeys([rounds[0], rounds[len(rounds) // 2], rounds[-1]])
        for shade, number in zip(COLOURS[1:], picked, strict=False):
            density = np.mean([stats.beta.pdf(x, tau, tau) for tau in taus[number]], axis=0)
            axis.plot(x, density, color=shade, label=f"round {number}")
        axis.set_ylim(0, 4)
        axis.legend(fontsize=7)

    return _by_round(runs, draw, "lambda", "density")


@styled
def _by_round(
    runs: list[Run], draw: Callable[[Axes, dict[int, np.ndarray], str], None], xlabel: str, ylabel: str
) -> Figure | None:
    """One panel for each method whose tau is a learned concentration."""
    found = {}
    for name, group in by_method(runs).items():
        taus: dict[int, list[float]] = {}
        for event in (event for run in group for event in run.bought if run.config.chosen.learn and event.tau):
            if not isinstance(event.tau[0], list):  # type: ignore[index]
                taus.setdefault(event.round, []).extend(event.tau or [])
        if taus:
            found[name] = {number: np.array(values) for number, values in taus.items()}
    if not found:
        return None
    figure, axes = panels(len(found), 4.0 * len(found), 3.2)
    for axis, (name, _, colour) in zip(axes, coloured(runs, list(found)), strict=True):
        draw(axis, found[name], colour)
        axis.set_title(name, fontsize=9)
        axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def _boxes(axis: Axes, taus: dict[int, np.ndarray], colour: str) -> None:
    rounds = sorted(taus)
    step = max(1, len(rounds) // 20)
    shown = rounds[::step]
    axis.boxplot(
        [taus[number] for number in shown],
        positions=shown,
        widths=0.6 * step,
        flierprops={"markersize": 2},
        medianprops={"color": colour},
        manage_ticks=False,
    )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _points(axis: Axes, places: np.ndarray, **style: Any) -> None:
    """A mark at each of (n, 2) places."""
    axis.scatter(places[:, 0], places[:, 1], **style)


def _virtual(runs: list[Run]) -> list[tuple[str, list[Run], str]]:
    """Name, runs and colour of those methods of Figure 7 that have bought pairs."""
    groups = coloured(runs, OF_FIGURE_7)
    return [entry for entry in groups if any(event.virtual_entropy for run in entry[1] for event in run.bought)]


def _first_finished(runs: list[Run], names: Sequence[str]) -> list[Run]:
    """The first seed of each method whose run came to its end."""
    return [
        next(iter(group))
        for name in names
        if (group := [r for r in runs if r.config.method == name and r.is_finished and r.config.rounds and r.latent()])
    ]


def _embedded(run: Run) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """t-SNE positions of real and virtual instances, and what latent.npz holds of them."""
    from sklearn.manifold import TSNE

    arrays = run.latent()
    assert arrays is not None
    real = arrays["real"]
    features = np.concatenate([real, arrays["virtual"]]) if "virtual" in arrays else real
    perplexity = min(30.0, (len(features) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    return places[: len(real)], places[len(real) :], arrays
