"""What can be said of one method against another: paired tests with correction, penalties, labels saved.

Runs are paired by their seed: equal seeds share the initial set, the initial weights and nearly all
candidates of each round.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lada_al.methods import SEMI_SUPERVISED, method, plain
from lada_al.report.read import Run, by_method

LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """One method against another over the seeds and budgets both have: mean difference of AUBC, its interval, and the
    tests. Seeds at which they bought different numbers of labels do not count."""

    method: str
    other: str
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    """Of the paired t test, two-sided; NaN with fewer than two seeds."""
    p_corrected: float
    """By Holm over all comparisons of the family."""


@dataclass(frozen=True)
class Saving:
    """Labels at which a method first reaches the reference's last accuracy, by linear interpolation of mean curves."""

    method: str
    labels: float
    """NaN where it never does."""
    saved: float
    """The part of the reference's labels that is saved; negative is a loss."""


def comparisons(runs: list[Run]) -> list[Comparison]:
    """Each method against `random`, and each look-ahead against its acquisition alone, against its fixed policy, and
    against the pipeline of the same augmentation."""
    groups = {name: {run.config.seed: run for run in group} for name, group in by_method(runs).items()}
    pairs = [(name, other) for name in groups for other in _rivals(name) if other in groups]
    raw = [_compare(name, other, groups[name], groups[other]) for name, other in pairs]
    corrected = holm([comparison.p for comparison in raw])
    return [
        Comparison(**{**comparison.__dict__, "p_corrected": p}) for comparison, p in zip(raw, corrected, strict=True)
    ]


def _rivals(name: str) -> list[str]:
    """What the paper compares a method with."""
    if name.startswith(SEMI_SUPERVISED):
        return ["random", *(SEMI_SUPERVISED + rival for rival in _rivals(name.removeprefix(SEMI_SUPERVISED)))]
    rivals = [] if name == "random" else ["random"]
    chosen = method(name)
    if chosen.look_ahead:
        assert chosen.augmentation is not None
        rivals.append(plain(chosen.acquisition).name)
        if chosen.learn:
            rivals.append(f"{name}-fixed")
        rivals.append(f"{chosen.acquisition.short}+{chosen.augmentation.pipeline}")
    return rivals


def _compare(name: str, other: str, a: dict[int, Run], b: dict[int, Run]) -> Comparison:
    seeds = sorted(a.keys() & b.keys())
    rounds = min((min(len(a[s].trained), len(b[s].trained)) for s in seeds), default=0)
    seeds = [s for s in seeds if a[s].labelled[:rounds] == b[s].labelled[:rounds]]
    differences = np.array([a[s].aubc_of(rounds) - b[s].aubc_of(rounds) for s in seeds])
    mean = float(differences.mean()) if seeds else math.nan
    low = high = p = math.nan
    if len(seeds) > 1:
        error = float(stats.sem(differences))
        half = float(stats.t.ppf(0.975, len(seeds) - 1)) * error
        low, high = mean - half, mean + half
        p = float(2 * stats.t.sf(abs(mean) / error, len(seeds) - 1)) if error > 0 else float(mean == 0)
    return Comparison(name, other, len(seeds), mean, low, high, p, math.nan)


def holm(ps: list[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and does not count."""
    order = sorted((p, i) for i, p in enumerate(ps) if not math.isnan(p))
    corrected, largest = [math.nan] * len(ps), 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[i] = largest
    return corrected


def penalties(runs: list[Run]) -> tuple[list[str], np.ndarray]:
    """The pairwise penalty matrix of Ash et al. 2020: entry (i, j) is the part of the budgets at which i beats j.

    i beats j at a budget if a paired two-sided t test over their common seeds says so at 0.05, uncorrected. Low column
    sums are good: few methods beat that one.
    """
    groups = {name: {run.config.seed: run for run in group} for name, group in by_method(runs).items()}
    names = list(groups)
    matrix = np.zeros((len(names), len(names)))
    for (i, a), (j, b) in itertools.permutations(enumerate(groups.values()), 2):
        seeds = sorted(a.keys() & b.keys())
        rounds = min((min(len(a[s].trained), len(b[s].trained)) for s in seeds), default=0)
        if len(seeds) < 2 or rounds < 2:
            continue
        differences = np.array(
            [np.subtract(a[s].accuracies[1:rounds], b[s].accuracies[1:rounds]) for s in seeds]
        )  # (seeds, budgets); the initial round is the same for all
        mean, error = differences.mean(0), stats.sem(differences, axis=0)
        bound = stats.t.ppf(1 - LEVEL / 2, len(seeds) - 1) * error
        matrix[i, j] = float((mean > bound).mean())
    return names, matrix


def savings(runs: list[Run]) -> list[Saving]:
    """Labels that each method needs for the accuracy of random choice at its last round."""
    groups = by_method(runs)
    if "random" not in groups:
        return []
    labels, accuracies = _mean_curve(groups["random"])
    goal, budget = accuracies[-1], labels[-1]
    found = []
    for name, group in groups.items():
        needed = _first_reach(*_mean_curve(group), goal)
        found.append(Saving(name, needed, 1 - needed / budget))
    return found


def _mean_curve(group: list[Run]) -> tuple[np.ndarray, np.ndarray]:
    shortest = min(len(run.trained) for run in group)
    labels = np.array(group[0].labelled[:shortest], float)
    return labels, np.mean([run.accuracies[:shortest] for run in group], axis=0)


def _first_reach(labels: np.ndarray, accuracies: np.ndarray, goal: float) -> float:
    for i in range(len(labels)):
        if accuracies[i] >= goal:
            if i == 0:
                return float(labels[0])
            part = (goal - accuracies[i - 1]) / (accuracies[i] - accuracies[i - 1])
            return float(labels[i - 1] + part * (labels[i] - labels[i - 1]))
    return math.nan
