"""Numbers of the report: one row a method, in the shape of the paper's Table 1, and the same data as CSV."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

import numpy as np

from lada_al.report.read import Run, by_method


@dataclass(frozen=True)
class Row:
    """A method over its seeds. Accuracies and AUBC are fractions; a deviation needs two seeds, else it is NaN."""

    method: str
    seeds: int
    labels: int
    accuracy: float
    accuracy_deviation: float
    aubc: float
    aubc_deviation: float
    seconds: float
    """Of a round: acquisition, training, evaluation."""
    ratio_to_random: float
    """NaN if there is no run of `random`."""


def aubc(run: Run) -> float:
    """Area under the budget curve: mean accuracy over the labels bought, by the trapezoidal rule."""
    labels, accuracies = np.array(run.labelled, float), np.array(run.accuracies)
    if len(labels) == 1:
        return float(accuracies[0])
    widths = np.diff(labels)
    return float((widths * (accuracies[1:] + accuracies[:-1]) / 2).sum() / widths.sum())


def rows(runs: list[Run]) -> list[Row]:
    """One row for each method, over the seeds that have come as far as the furthest."""
    groups = {name: _furthest(group) for name, group in by_method(runs).items()}
    seconds = {name: _mean([sum(run.seconds().values()) for run in group]) for name, group in groups.items()}
    table = []
    for name, group in groups.items():
        headlines, areas = [run.headline for run in group], [aubc(run) for run in group]
        table.append(
            Row(
                method=name,
                seeds=len(group),
                labels=group[0].labelled[-1],
                accuracy=_mean(headlines),
                accuracy_deviation=_deviation(headlines),
                aubc=_mean(areas),
                aubc_deviation=_deviation(areas),
                seconds=seconds[name],
                ratio_to_random=seconds[name] / seconds["random"] if seconds.get("random") else math.nan,
            )
        )
    return table


def as_csv(runs: list[Run]) -> str:
    """One line for each round of each run."""
    phases = sorted({phase for run in runs for phase in run.seconds()})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "seed", "round", "labelled", "accuracy", *(f"{phase} seconds" for phase in phases)])
    for run in runs:
        spent = {event.round: event.seconds for event in run.bought}
        for event in run.trained:
            seconds = {**spent.get(event.round, {}), **event.seconds}
            times = [f"{seconds.get(phase, 0.0):.4f}" for phase in phases]
            writer.writerow([run.config.method, run.config.seed, event.round, event.labelled, event.accuracy, *times])
    return text.getvalue()


def _furthest(group: list[Run]) -> list[Run]:
    most = max(run.labelled[-1] for run in group)
    return [run for run in group if run.labelled[-1] == most]


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
