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
from lada_al.report.read import Run, alike, by_method, furthest_runs

LEVEL = 0.05
ROUNDING = 1e-12  # differences of accuracies that vary by less than this do not vary


@dataclass(frozen=True)
class Comparison:
    """One method against another: mean difference of AUBC, its interval, and the tests, up to the furthest budget that
    both runs of a seed have, over the seeds that have it. Seeds at which they bought different numbers of labels do
    not count."""

    method: str
    other: str
    seeds: int
    labels: int
    """Of that budget; 0 if they have no seed in common."""
    difference: float
    low: float
    high: float
    p: float
    """Of the paired t test, two-sided; NaN, as is the interval, with fewer than two seeds, or where the differences
    have no spread."""
    p_corrected: float
    """By Holm over all comparisons of the family."""


@dataclass(frozen=True)
class Saving:
    """Labels at which a method first reaches the highest accuracy of `random`, by linear interpolation of the mean
    curves of the seeds that have come furthest."""

    method: str
    labels: float
    """NaN where it does not."""
    saved: float
    """The part saved of the labels at which `random` gets there itself; negative is a loss."""
    last: int
    """Labels of the method's last budget."""
    unfinished: bool
    """They are fewer than `random` has: what it has not reached, it may reach yet."""


def comparisons(runs: list[Run]) -> list[Comparison]:
    """Each method against `random`, and each look-ahead against its acquisition alone, against its fixed policy, and
    against the pipeline of the same augmentation. Methods that are not `alike` are not compared."""
    groups = {name: {run.config.seed: run for run in group} for name, group in by_method(runs).items()}
    pairs = [(a, b) for a in groups for b in _rivals(a) if b in groups and _comparable(groups[a], groups[b])]
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
    budgets, pairs = _paired(a, b)
    differences = np.array([one.aubc_of(len(budgets)) - two.aubc_of(len(budgets)) for one, two in pairs])
    mean = float(differences.mean()) if pairs else math.nan
    error, freedom = float(_error(differences)), len(pairs) - 1
    half = float(stats.t.ppf(0.975, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    labels = budgets[-1] if budgets else 0
    return Comparison(name, other, len(pairs), labels, mean, mean - half, mean + half, p, math.nan)


def _comparable(a: dict[int, Run], b: dict[int, Run]) -> bool:
    return alike(next(iter(a.values())), next(iter(b.values())))


def _paired(a: dict[int, Run], b: dict[int, Run]) -> tuple[list[int], list[tuple[Run, Run]]]:
    """Labels of each budget up to the furthest that both runs of a seed have, and the pairs of runs that have them."""
    common = {}
    for seed in sorted(a.keys() & b.keys()):
        rounds = min(len(a[seed].trained), len(b[seed].trained))
        if a[seed].labelled[:rounds] == b[seed].labelled[:rounds]:
            common[seed] = a[seed].labelled[:rounds]
    budgets = max(common.values(), key=len, default=[])
    return budgets, [(a[seed], b[seed]) for seed, theirs in common.items() if theirs == budgets]


def _error(differences: np.ndarray) -> np.ndarray:
    """Standard error of the mean over seeds, the first axis; NaN where there is nothing to estimate it from."""
    if len(differences) < 2:
        return np.full(differences.shape[1:], math.nan)
    return np.where(np.ptp(differences, axis=0) > ROUNDING, stats.sem(differences, axis=0), math.nan)


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

    i beats j at a budget if a paired two-sided t test says so at 0.05, uncorrected, over the seeds and budgets of
    their `Comparison`. NaN where there is no test: fewer than two seeds, no round after the initial one, or methods
    that are not `alike`. Low column means are good: few methods beat that one.
    """
    groups = {name: {run.config.seed: run for run in group} for name, group in by_method(runs).items()}
    names = list(groups)
    matrix = np.zeros((len(names), len(names)))
    for (i, a), (j, b) in itertools.permutations(enumerate(groups.values()), 2):
        budgets, pairs = _paired(a, b)
        rounds = len(budgets)
        if len(pairs) < 2 or rounds < 2 or not _comparable(a, b):
            matrix[i, j] = math.nan
            continue
        differences = np.array(
            [np.subtract(one.accuracies[1:rounds], two.accuracies[1:rounds]) for one, two in pairs]
        )  # (seeds, budgets); the initial round is the same for all
        bound = stats.t.ppf(1 - LEVEL / 2, len(pairs) - 1) * _error(differences)
        matrix[i, j] = float((differences.mean(0) > bound).mean())
    return names, matrix


def savings(runs: list[Run]) -> list[Saving]:
    """Labels that each method needs for the highest accuracy of random choice's mean curve; methods that are not
    `alike` with `random` are left out."""
    groups = by_method(runs)
    if "random" not in groups:
        return []
    labels, accuracies = _mean_curve(groups["random"])
    goal, needed_at_random = accuracies.max(), labels[accuracies.argmax()]
    found = []
    for name, group in groups.items():
        if alike(group[0], groups["random"][0]):
            curve = _mean_curve(group)
            needed, last = _first_reach(*curve, goal), int(curve[0][-1])
            found.append(Saving(name, needed, 1 - needed / needed_at_random, last, last < labels[-1]))
    return found


def _mean_curve(group: list[Run]) -> tuple[np.ndarray, np.ndarray]:
    runs = furthest_runs(group)
    return np.array(runs[0].labelled, float), np.mean([run.accuracies for run in runs], axis=0)


def _first_reach(labels: np.ndarray, accuracies: np.ndarray, goal: float) -> float:
    for i in range(len(labels)):
        if accuracies[i] >= goal:
            if i == 0:
                return float(labels[0])
            part = (goal - accuracies[i - 1]) / (accuracies[i] - accuracies[i - 1])
            return float(labels[i - 1] + part * (labels[i] - labels[i - 1]))
    return math.nan
