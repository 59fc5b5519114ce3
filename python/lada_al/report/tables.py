"""Numbers of the report: a row a method, the paper's Tables 1 to 3 in its groups, and the same as CSV and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lada_al.files import csv_text
from lada_al.methods import GROUPS
from lada_al.report import statistics
from lada_al.report.read import Run, by_dataset, by_method, furthest_runs

ROUNDING = 1e-9  # equal accuracies may have means that differ by as much


@dataclass(frozen=True)
class Row:
    """A method over its seeds. Accuracies and AUBC are fractions; a deviation needs two seeds, else it is NaN."""

    method: str
    seeds: int
    labels: int
    accuracy: float
    accuracy_deviation: float
    last: float
    best: float
    """Over rounds, chosen on the test set: what the paper reports."""
    aubc: float
    aubc_deviation: float
    seconds: float
    """Of a round: acquisition, training, evaluation."""
    ratio_to_random: float
    """Median over seeds of the ratio to the run of `random` with this seed; NaN if there is none."""
    parameters: int


@dataclass(frozen=True)
class Cell:
    """Accuracy of a method on a data set, at so many labels.

    `behind` is it with fewer labels than another method has there; of those that are not, one is `best` of its group.
    """

    mean: float
    deviation: float
    seeds: int
    labels: int
    best: bool = False
    behind: bool = False


@dataclass(frozen=True)
class PaperRow:
    """A line of Table 1 or 2: a cell for each data set, or None where nothing was run."""

    group: str
    method: str
    cells: list[Cell | None]
    time: float
    parameters: int


@dataclass(frozen=True)
class PaperTable:
    title: str
    columns: list[str]
    rows: list[PaperRow]
    by_labels: bool = False
    """Whether columns are numbers of labels, and not data sets."""


def rows(runs: list[Run]) -> list[Row]:
    """One row for each method, over the seeds that have come as far as the furthest."""
    random_seconds = {run.config.seed: _seconds(run) for run in runs if run.config.method == "random"}
    table = []
    for name, replications in by_method(runs).items():
        group = furthest_runs(replications)
        headlines, areas = [run.headline for run in group], [run.aubc for run in group]
        ratios = [
            _seconds(run) / random_seconds[run.config.seed] for run in group if random_seconds.get(run.config.seed)
        ]
        table.append(
            Row(
                method=name,
                seeds=len(group),
                labels=group[0].labelled[-1],
                accuracy=_mean(headlines),
                accuracy_deviation=_deviation(headlines),
                last=_mean([run.accuracies[-1] for run in group]),
                best=_mean([max(run.accuracies) for run in group]),
                aubc=_mean(areas),
                aubc_deviation=_deviation(areas),
                seconds=_mean([_seconds(run) for run in group]),
                ratio_to_random=float(np.median(ratios)) if ratios else math.nan,
                parameters=group[0].parameters,
            )
        )
    return table


def paper_tables(runs: list[Run]) -> list[PaperTable]:
    """Tables 1 and 2 with the rows that were run, by each run's own headline rule; and Table 3 of each data set, by
    labels."""
    sets = by_dataset(runs)
    found = [
        PaperTable(title, list(sets), _rows_by_dataset(group, list(sets.values())))
        for title, group in (("Table 1", GROUPS["table1"]), ("Table 2", GROUPS["table2"]))
    ]
    for name, of_set in sets.items():
        found.append(_by_labels(f"Table 3 {name}" if len(sets) > 1 else "Table 3", of_set))
    return [table for table in found if table.rows]


def _by_labels(title: str, runs: list[Run]) -> PaperTable:
    labels = sorted({n for run in runs if run.config.chosen.semi_supervised for n in run.labelled})
    lines = [
        PaperRow(
            group,
            name,
            [_cell([run.accuracy_at(n) for run in of_method], n) for n in labels],
            math.nan,
            of_method[0].parameters,
        )
        for group, names in GROUPS["table3"].items()
        for name in names
        if (of_method := [run for run in runs if run.config.method == name])
    ]
    return PaperTable(title, [str(n) for n in labels], _with_best(lines, labels), by_labels=True)


def _rows_by_dataset(groups: dict[str, list[str]], sets: list[list[Run]]) -> list[PaperRow]:
    known = [{row.method: row for row in rows(runs)} for runs in sets]
    furthest = [max((row.labels for row in table.values()), default=0) for table in known]
    lines = []
    for group, names in groups.items():
        in_group = []
        for name in names:
            here = [table.get(name) for table in known]
            present = [row for row in here if row is not None]
            if not present:
                continue
            cells = [Cell(row.accuracy, row.accuracy_deviation, row.seeds, row.labels) if row else None for row in here]
            ratios = [row.ratio_to_random for row in present if not math.isnan(row.ratio_to_random)]
            time = _mean(ratios) if ratios else math.nan
            in_group.append(PaperRow(group, name, cells, time, present[0].parameters))
        lines += _with_best(in_group, furthest)
    return lines


def _with_best(lines: list[PaperRow], furthest: Sequence[int]) -> list[PaperRow]:
    """Marks in each column the cells of fewer labels than the furthest, and the highest mean of the others."""
    highest = [
        max((cell.mean for line in lines if (cell := line.cells[i]) and cell.labels == most), default=math.nan)
        for i, most in enumerate(furthest)
    ]

    def marked(cell: Cell | None, i: int) -> Cell | None:
        if cell is None:
            return None
        behind = cell.labels < furthest[i]
        return replace(cell, behind=behind, best=not behind and cell.mean > highest[i] - ROUNDING)

    return [replace(line, cells=[marked(cell, i) for i, cell in enumerate(line.cells)]) for line in lines]


def _cell(values: list[float | None], labels: int) -> Cell | None:
    known = [value for value in values if value is not None]
    return Cell(_mean(known), _deviation(known), len(known), labels) if known else None


def as_latex(table: PaperTable) -> str:
    """A booktabs table."""
    columns = " & ".join(["Method", *map(_tex, table.columns), "Time", "Param."])
    lines = [
        rf"% {table.title}: mean and standard deviation over seeds of test accuracy [%]; bold: best in its group",
        rf"\begin{{tabular}}{{l{'c' * len(table.columns)}rr}}",
        r"\toprule",
        rf"{columns} \\",
    ]
    group = None
    for row in table.rows:
        if row.group != group:
            lines.append(r"\midrule")
            group = row.group
        cells = [_tex_cell(cell) for cell in row.cells]
        time = "--" if math.isnan(row.time) else f"{row.time:.2f}"
        lines.append(" & ".join([_tex(row.method), *cells, time, short_count(row.parameters)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    mean = f"{100 * cell.mean:.2f}"
    mean = rf"\mathbf{{{mean}}}" if cell.best else mean
    text = f"${mean}$" if math.isnan(cell.deviation) else rf"${mean} \pm {100 * cell.deviation:.2f}$"
    return rf"{text} {{\scriptsize({cell.labels} labels)}}" if cell.behind else text


def _tex(text: str) -> str:
    return "".join("\\" + c if c in "&%$#_{}" else c for c in text)


def short_count(count: int) -> str:
    """77246 as 77K, 13909482 as 13M, as in Table 1."""
    if count == 0:
        return "-"
    return f"{count // 1_000_000}M" if count >= 1_000_000 else f"{count // 1000}K"


def paper_csv(table: PaperTable) -> str:
    header = ["group", "method"]
    header += [
        f"{column} {what}" for column in table.columns for what in ("accuracy", "deviation", "seeds", "labels", "best")
    ]
    lines = [
        [
            row.group,
            row.method,
            *(v for cell in row.cells for v in _cell_values(cell)),
            _blank(row.time),
            row.parameters,
        ]
        for row in table.rows
    ]
    return csv_text([[*header, "time", "parameters"], *lines])


def _cell_values(cell: Cell | None) -> list[object]:
    return [""] * 5 if cell is None else [cell.mean, _blank(cell.deviation), cell.seeds, cell.labels, int(cell.best)]


def methods_csv(runs: list[Run]) -> str:
    """One line for each data set and method."""
    names = list(Row.__dataclass_fields__)
    lines = [
        [name, *(_blank(getattr(row, field)) for field in names)]
        for name, of_set in by_dataset(runs).items()
        for row in rows(of_set)
    ]
    return csv_text([["dataset", *names], *lines])


def comparisons_csv(runs: list[Run]) -> str:
    names = list(statistics.Comparison.__dataclass_fields__)
    lines = [
        [name, *(_blank(getattr(comparison, field)) for field in names)]
        for name, of_set in by_dataset(runs).items()
        for comparison in statistics.comparisons(of_set)
    ]
    return csv_text([["dataset", *names], *lines])


def savings_csv(runs: list[Run]) -> str:
    lines = [
        [name, saving.method, _blank(saving.labels), _blank(saving.saved), saving.last]
        for name, of_set in by_dataset(runs).items()
        for saving in statistics.savings(of_set)
    ]
    return csv_text([["dataset", "method", "labels", "saved", "last"], *lines])


def penalties_csv(runs: list[Run]) -> str:
    lines: list[list[object]] = []
    for name, of_set in by_dataset(runs).items():
        methods, matrix = statistics.penalties(of_set)
        lines += [
            [name, methods[i], methods[j], _blank(float(matrix[i, j]))]
            for i in range(len(methods))
            for j in range(len(methods))
        ]
    return csv_text([["dataset", "winner", "loser", "part of budgets"], *lines])


def as_csv(runs: list[Run]) -> str:
    """One line for each round of each run."""
    phases = sorted({phase for run in runs for phase in run.seconds()})
    header = ["dataset", "method", "seed", "round", "labelled", "accuracy", *(f"{phase} seconds" for phase in phases)]
    lines = []
    for run in runs:
        spent = {event.round: event.seconds for event in run.bought}
        for event in run.trained:
            seconds = {**spent.get(event.round, {}), **event.seconds}
            times = [f"{seconds.get(phase, 0.0):.4f}" for phase in phases]
            config = run.config
            lines.append(
                [config.dataset, config.method, config.seed, event.round, event.labelled, event.accuracy, *times]
            )
    return csv_text([header, *lines])


def _blank(value: object) -> object:
    return "" if isinstance(value, float) and math.isnan(value) else value


def _seconds(run: Run) -> float:
    return sum(run.seconds().values())


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
