"""Tables, figures and the page: right numbers, self-contained, nothing a class name could inject."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from lada_al import Bought, Config, Trained, run_experiment
from lada_al.errors import UsageError
from lada_al.report import figures, page, paper_figures, statistics, tables, toy
from lada_al.report.read import Run, by_method, find_runs, unlike_settings
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tiny import TINY_SETTINGS


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods, two seeds; the last run is left unfinished."""
    out = tmp_path_factory.mktemp("compare")
    for seed in (1, 2):
        for method in ("random", "lada-ent-mix", "lada-ent-stn"):
            config = Config(**{**TINY_SETTINGS, "data": str(tiny_folder), "method": method, "seed": seed})
            events = run_experiment(config, out / method / f"seed-{seed}")
            stop_after = 3 if (method, seed) == ("lada-ent-stn", 2) else 99
            for _ in zip(range(stop_after), events, strict=False):
                pass
            events.close()  # type: ignore[attr-defined]
    return out


def made_up(method: str, accuracies: list[float], seed: int = 1, headline: str = "last", seconds: float = 1.0) -> Run:
    config = Config(method=method, seed=seed, headline=headline)  # type: ignore[arg-type]
    trained = [Trained(r, 20 + 10 * r, a, 0.0, {"train": seconds}) for r, a in enumerate(accuracies)]
    bought = [Bought(r, [r], [0]) for r in range(len(accuracies))]
    return Run(Path("."), config, list("0123456789"), 77_246, bought, trained)


def test_methods_are_compared_over_the_budgets_that_both_have() -> None:
    """The longer run's later rounds say nothing of the method."""
    runs = [made_up("random", [0.2, 0.4], seed=s) for s in (1, 2, 3)]
    runs += [made_up("entropy", [0.2, 0.4 + 0.01 * s, 0.9, 0.9], seed=s) for s in (1, 2, 3)]
    (comparison,) = statistics.comparisons(runs)
    assert comparison.difference == pytest.approx(0.01)
    assert comparison.seeds == 3


def test_methods_are_compared_over_the_seeds_that_came_furthest() -> None:
    """A seed that has only begun does not take the others back to the initial round."""
    runs = [made_up("random", [0.2, 0.4, 0.5 + 0.01 * s], seed=s) for s in (1, 2, 3, 4)]
    runs += [made_up("entropy", [0.2, 0.5, 0.8], seed=s) for s in (1, 2, 3)] + [made_up("entropy", [0.2], seed=4)]
    (comparison,) = statistics.comparisons(runs)
    assert (comparison.seeds, comparison.labels) == (3, 40)
    assert comparison.p == pytest.approx(statistics.comparisons([r for r in runs if r.config.seed < 4])[0].p)
    names, matrix = statistics.penalties(runs)
    assert matrix[names.index("entropy"), names.index("random")] == 0.5  # at 30 labels there is no spread
    saved = {saving.method: saving for saving in statistics.savings(runs)}["entropy"]
    assert saved.labels == pytest.approx(30 + 10 * 0.025 / 0.3)


def with_settings(run: Run, **changes: object) -> Run:
    return replace(run, config=run.config.model_copy(update=changes))


def test_methods_of_other_settings_are_not_tested() -> None:
    runs = [made_up(name, [0.2, 0.4 + 0.1 * s], seed=s) for s in (1, 2, 3) for name in ("random", "lada-ent-mix")]
    runs += [with_settings(made_up("entropy", [0.3, 0.5 + 0.2 * s], seed=s), epochs=3) for s in (1, 2, 3)]
    runs = [with_settings(run, headline="best", preset="paper") if run.config.seed == 2 else run for run in runs]
    assert [(c.method, c.other) for c in statistics.comparisons(runs)] == [("lada-ent-mix", "random")]
    assert [saving.method for saving in statistics.savings(runs)] == ["random", "lada-ent-mix"]
    names, matrix = statistics.penalties(runs)
    entropy = names.index("entropy")
    assert np.isnan(matrix[entropy]).tolist() == [name != "entropy" for name in names]
    assert unlike_settings(runs) == ["epochs is 50 for random, lada-ent-mix and 3 for entropy"]
    html = page.render(runs, [page._section("mnist5k", runs, whole=False)], whole=False)
    assert (
        "On mnist5k settings differ between methods: epochs is 50 for random, lada-ent-mix and 3 for entropy." in html
    )
    assert "settings differ" not in page.render(
        runs[:1], [page._section("mnist5k", runs[:1], whole=False)], whole=False
    )
    for line in csv.DictReader(io.StringIO(tables.penalties_csv(runs))):
        assert (line["part of budgets"] == "") == ((line["winner"] == "entropy") != (line["loser"] == "entropy"))


def test_settings_that_one_of_two_methods_does_not_read_are_not_held_against_them() -> None:
    """A policy learned otherwise is nothing to random choice, and two policies learned differently are not compared."""
    runs = [made_up(name, [0.2, 0.4 + 0.1 * s], seed=s) for s in (1, 2) for name in ("random", "lada-ent-mix")]
    runs += [
        with_settings(made_up("lada-ent-stn", [0.2, 0.3 * s], seed=s), policy_lr=0.1, fixed_tau=9.0) for s in (1, 2)
    ]
    assert [(c.method, c.other) for c in statistics.comparisons(runs)] == [
        ("lada-ent-mix", "random"),
        ("lada-ent-stn", "random"),
    ]
    assert [saving.method for saving in statistics.savings(runs)] == ["random", "lada-ent-mix", "lada-ent-stn"]
    names, matrix = statistics.penalties(runs)
    untested = {(names[i], names[j]) for i, j in np.argwhere(np.isnan(matrix))}
    assert untested == {("lada-ent-mix", "lada-ent-stn"), ("lada-ent-stn", "lada-ent-mix")}
    assert unlike_settings(runs) == ["policy_lr is 5e-05 for lada-ent-mix and 0.1 for lada-ent-stn"]


def test_own_images_of_other_folders_are_other_settings() -> None:
    random, entropy = (with_settings(made_up(m, [0.1]), dataset="own", data=m) for m in ("random", "entropy"))
    assert unlike_settings([random, entropy]) == ["data is random for random and entropy for entropy"]


def test_a_run_and_its_copy_are_no_replications(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "random" / "seed-1", tmp_path / "a")
    assert len(find_runs(tmp_path)) == 1
    shutil.copytree(folder / "random" / "seed-1", tmp_path / "b")
    with pytest.raises(UsageError, match=r"two runs are of random with seed 1, and so no replications: .*a and .*b; "):
        find_runs(tmp_path)


def test_runs_of_other_settings_are_no_replications(folder: Path, tmp_path: Path) -> None:
    for seed, changes in ((1, {"threads": 3, "rounds": 9}), (2, {"model": "resnet18"})):
        config = Path(shutil.copytree(folder / "random" / f"seed-{seed}", tmp_path / f"{seed}")) / "config.json"
        assert len(find_runs(tmp_path)) == seed
        config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    message = r"two runs of random are no replications, since model is small in .*1 and resnet18 in .*2; report"
    with pytest.raises(UsageError, match=message):
        find_runs(tmp_path)


class TestTables:
    def test_numbers(self) -> None:
        runs = [
            made_up("random", [0.2, 0.4, 0.5], seconds=2.0),
            made_up("random", [0.2, 0.4, 0.7], seed=2, seconds=2.0),
            made_up("entropy", [0.4, 0.9, 0.6], seconds=5.0),
        ]
        random, entropy = tables.rows(runs)
        assert (random.method, random.seeds, random.labels) == ("random", 2, 40)
        assert random.accuracy == pytest.approx(0.6)
        assert random.accuracy_deviation == pytest.approx(np.std([0.5, 0.7], ddof=1))
        assert random.aubc == pytest.approx(((0.3 + 0.45) / 2 + (0.3 + 0.55) / 2) / 2)
        assert random.ratio_to_random == 1
        assert entropy.ratio_to_random == pytest.approx(2.5)
        assert entropy.accuracy == 0.6
        assert math.isnan(entropy.accuracy_deviation)

    def test_best_is_the_papers_rule(self) -> None:
        assert tables.rows([made_up("entropy", [0.4, 0.9, 0.6], headline="best")])[0].accuracy == 0.9

    def test_only_the_furthest_runs_of_a_method_are_averaged(self) -> None:
        row = tables.rows([made_up("entropy", [0.1, 0.2, 0.3]), made_up("entropy", [0.1, 0.9], seed=2)])[0]
        assert (row.seeds, row.labels, row.accuracy) == (1, 40, 0.3)

    def test_methods_that_are_equal_are_both_the_best(self) -> None:
        """Whatever the order of the seeds made of the last bit of their means."""
        few = [0.1, 0.7, 0.9]
        runs = [made_up("entropy", [0.1, last], seed=seed) for seed, last in enumerate(few)]
        runs += [made_up("lada-ent-mix", [0.1, last], seed=seed) for seed, last in enumerate(reversed(few))]
        (table,) = tables.paper_tables(runs)
        assert len({cell.mean for row in table.rows if (cell := row.cells[0])}) == 2
        assert all(cell.best for row in table.rows if (cell := row.cells[0]))

    def test_a_method_that_has_not_come_as_far_is_not_the_best(self) -> None:
        runs = [made_up("entropy", [0.1, 0.2, 0.3]), made_up("lada-ent-mix", [0.1, 0.9])]
        (table,) = tables.paper_tables(runs)
        cells = {row.method: row.cells[0] for row in table.rows}
        entropy, mix = cells["entropy"], cells["lada-ent-mix"]
        assert entropy is not None
        assert mix is not None
        assert (entropy.labels, entropy.best, entropy.behind) == (40, True, False)
        assert (mix.labels, mix.best, mix.behind) == (30, False, True)
        assert r"$90.00$ {\scriptsize(30 labels)}" in tables.as_latex(table)
        lines = list(csv.DictReader(io.StringIO(tables.paper_csv(table))))
        assert {line["method"]: line["mnist5k labels"] for line in lines} == {"entropy": "40", "lada-ent-mix": "30"}

    def test_without_random_there_is_no_ratio(self) -> None:
        assert math.isnan(tables.rows([made_up("entropy", [0.1, 0.2])])[0].ratio_to_random)

    def test_order_is_plain_pipeline_look_ahead(self) -> None:
        names = ["lada-ent-mix", "random", "ent+stn", "entropy", "lada-ent-mix-fixed"]
        runs = [made_up(name, [0.1]) for name in names]
        assert list(by_method(runs)) == ["random", "entropy", "ent+stn", "lada-ent-mix", "lada-ent-mix-fixed"]

    def test_csv_has_a_line_a_round(self, folder: Path) -> None:
        runs = find_runs(folder)
        lines = list(csv.DictReader(io.StringIO(tables.as_csv(runs))))
        assert len(lines) == 5 * 3 + 1
        learned = [line for line in lines if line["method"] == "lada-ent-mix" and line["round"] == "2"]
        assert all(float(line["policy seconds"]) > 0 for line in learned)
        assert {float(line["accuracy"]) for line in lines} == {a for run in runs for a in run.accuracies}


def test_a_method_keeps_its_colour_among_fewer() -> None:
    runs = [made_up(name, [0.1, 0.2]) for name in ("random", "entropy", "lada-ent-mix")]
    all_methods, few = figures.learning_curves(runs), figures.learning_curves(runs, ["entropy", "lada-ent-mix"])
    assert all_methods is not None
    assert few is not None
    colours = [{line.get_label(): line.get_color() for line in figure.axes[0].lines} for figure in (all_methods, few)]
    assert list(colours[1]) == ["entropy", "lada-ent-mix"]
    assert colours[1].items() <= colours[0].items()


def test_the_paper_s_figures_have_the_colours_and_legends_of_the_page_s(folder: Path) -> None:
    runs = find_runs(folder)
    curves, few = figures.learning_curves(runs), paper_figures.figure_7a(runs)
    assert curves is not None
    assert few is not None
    (line,) = few.axes[0].lines
    assert {line.get_label(): line.get_color()}.items() <= {
        a.get_label(): a.get_color() for a in curves.axes[0].lines
    }.items()
    legend = few.axes[0].get_legend()
    assert legend is not None
    assert not legend.get_frame_on()
    assert legend.get_texts()[0].get_fontsize() == figures.STYLE["font.size"]


def test_legends_lie_within_their_figures_whatever_the_names() -> None:
    """And on no curve of many."""
    names = ["random", "entropy", "var-ratio", "lada-bald-autoaugment-fixed", "pi+lada-var-stn-fixed"]
    runs = [made_up(name, [0.2, 0.5 - 0.1 * i]) for i, name in enumerate(names)]
    runs = [
        replace(run, trained=[replace(t, seconds=dict.fromkeys(figures.PHASES, 1.0)) for t in run.trained])
        for run in runs
    ]
    curves = figures.learning_curves(runs)
    assert curves is not None
    for figure in (curves, figures.seconds_per_phase(runs)):
        figures.settle(figure)
        (axes,) = figure.axes
        (legend,) = [*figure.legends, *filter(None, [axes.get_legend()])]
        box = legend.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert not box.overlaps(axes.get_window_extent())


def test_entropies_in_figure_1_cover_no_mark_and_no_other() -> None:
    figure = paper_figures.figure_1()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        stars, crosses = ([c for c in axes.collections if len(c.get_offsets()) == n] for n in (2, toy.DRAWS))
        marks = np.concatenate([np.asarray(c.get_offsets()) for c in [*stars, *crosses]])
        assert len(boxes) == 2 * len(stars) == 2 * len(crosses) == 2 * toy.PAIRS
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        assert not any(box.contains(*mark) for box in boxes for mark in axes.transData.transform(marks))


def test_interval_is_students() -> None:
    ys = np.array([[1.0, 2.0, np.nan], [2.0, 4.0, np.nan], [6.0, np.nan, 1.0]])
    low, high = figures.interval(ys)
    expected = scipy.stats.t.interval(0.95, 2, loc=3, scale=scipy.stats.sem([1, 2, 6]))
    assert (low[0], high[0]) == pytest.approx(expected)
    assert (low[1], high[1]) == pytest.approx(scipy.stats.t.interval(0.95, 1, loc=3, scale=1))
    assert np.isnan(low[2])


def test_figures_are_svg(folder: Path) -> None:
    runs = find_runs(folder)
    for draw in (
        figures.learning_curves,
        figures.seconds_per_phase,
        figures.real_and_virtual_entropy,
        figures.concentrations,
    ):
        figure = draw(runs)
        assert figure is not None
        assert ET.fromstring(figures.svg(figure)).tag.endswith("svg")
        assert figures.svg(draw(runs)) == figures.svg(figure)
        assert figures.png(figure).startswith(b"\x89PNG")
    every = figures._entropy_in_all(runs)
    assert [text.get_text() for text in every.axes[0].get_yticklabels()] == list(by_method(runs))
    assert figures.png(every).startswith(b"\x89PNG")
    plain = [run for run in runs if run.config.method == "random"]
    assert figures.real_and_virtual_entropy(plain) is None
    assert figures.concentrations([run for run in runs if "stn" in run.config.method]) is None


def lines_of(figure: Figure | None) -> dict[str, list[float]]:
    """The values of each line of the first axes, by its label."""
    assert figure is not None
    return {str(line.get_label()): list(np.asarray(line.get_ydata(), float)) for line in figure.axes[0].lines}


def test_lines_are_means_over_seeds(folder: Path) -> None:
    groups = by_method([run for run in find_runs(folder) if run.is_finished])
    runs = [run for group in groups.values() for run in group]
    curves, entropies = lines_of(figures.learning_curves(runs)), lines_of(figures.real_and_virtual_entropy(runs))
    assert list(curves) == list(groups)
    assert {*entropies} == {*groups, "lada-ent-mix, virtual", "lada-ent-stn, virtual"}
    for name, group in groups.items():
        assert curves[name] == pytest.approx(np.mean([run.accuracies for run in group], axis=0) * 100)
        real = [[np.mean(event.entropy or []) for event in run.bought[1:]] for run in group]
        assert entropies[name] == pytest.approx(np.mean(real, axis=0))
        if name != "random":
            virtual = [[np.mean(event.virtual_entropy or []) for event in run.bought[1:]] for run in group]
            assert entropies[f"{name}, virtual"] == pytest.approx(np.mean(virtual, axis=0))
    one = groups["lada-ent-mix"][:1]
    assert lines_of(figures.concentrations(one)) == {
        "lada-ent-mix": [event.candidates["tau mean"] for event in one[0].bought[1:]]
    }


def test_many_runs_of_a_method_are_one_line_of_tau(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = by_method([run for run in find_runs(folder) if run.is_finished])["lada-ent-mix"]
    assert len(group) > 1
    single = figures.concentrations(group)
    assert single is not None
    assert len(single.axes[0].lines) == len(group)
    monkeypatch.setattr(figures, "MOST_LINES", 1)
    drawn = lines_of(figures.concentrations(group))
    means = [[event.candidates["tau mean"] for event in run.bought[1:]] for run in group]
    assert drawn == {"lada-ent-mix": pytest.approx(np.mean(means, axis=0))}


def test_every_phase_that_is_clocked_has_a_bar() -> None:
    package = Path(figures.__file__).parents[1]
    sources = "".join(path.read_text() for path in package.rglob("*.py"))
    assert set(re.findall(r"\bclock(?:\.add)?\(\"(\w+)\"", sources)) == {*figures.PHASES}


def test_bars_sum_to_the_seconds_of_the_tables(folder: Path) -> None:
    runs = [run for run in find_runs(folder) if run.config.method != "lada-ent-stn"]  # one of which is unfinished
    widths = dict[float, float]()
    for bar in figures.seconds_per_phase(runs).axes[0].patches:
        assert isinstance(bar, Rectangle)
        middle = bar.get_y() + bar.get_height() / 2
        widths[round(middle)] = widths.get(round(middle), 0.0) + bar.get_width()
    assert [widths[i] for i in sorted(widths)] == pytest.approx([row.seconds for row in tables.rows(runs)], rel=1e-9)


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self._in_cell = False
        self.rows: list[list[str]] = []
        """The cells of each row of its tables."""
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    path = page.write(folder)
    assert path == folder / "report.html"
    return path.read_text()


class TestPage:
    def test_it_is_self_contained(self, html: str) -> None:
        parsed = Page(html)
        assert all(link.startswith(("data:image/png;base64,", "#")) for link in parsed.links)
        assert "script" not in parsed.tags
        assert "link" not in parsed.tags
        assert not re.search(r"@import|url\((?!#)", html)

    def test_a_class_name_cannot_inject(self, html: str) -> None:
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert "<script" not in html

    def test_it_shows_what_was_bought(self, folder: Path, html: str) -> None:
        parsed = Page(html)
        assert parsed.tags.count("img") == 4 * 2 * 3  # first seed of three methods, two rounds of four
        assert "5 of 6 runs finished" in parsed.text
        (run,) = (r for r in find_runs(folder) if r.config.method == "lada-ent-mix" and r.config.seed == 1)
        event = run.bought[1]
        assert event.entropy is not None
        assert event.virtual_entropy is not None
        assert f"{event.entropy[0]:.2f}" in parsed.text
        assert f"virtual {event.virtual_entropy[0]:.2f}" in parsed.text

    def test_it_has_a_row_for_each_method(self, folder: Path, html: str) -> None:
        (heading,) = (i for i, cells in enumerate(Page(html).rows) if cells[:2] == ["method", "seeds"])
        expected = tables.rows(find_runs(folder))
        for cells, row in zip(Page(html).rows[heading + 1 :], expected, strict=False):
            assert cells[:3] == [row.method, str(row.seeds), str(row.labels)]
            shares = (row.accuracy, row.accuracy_deviation, row.last, row.best, row.aubc, row.aubc_deviation)
            assert cells[3:9] == ["–" if math.isnan(share) else f"{100 * share:.2f}" for share in shares]
            assert cells[9:] == [f"{row.seconds:.2f}", f"{row.ratio_to_random:.2f}"]
        assert len(expected) == 3

    @pytest.mark.parametrize(("name", "shown"), [("lada-ent-mix-fixed", True), ("lada-ent-autoaugment-fixed", False)])
    def test_tau_is_shown_and_explained_where_pairs_are_mixed_by_it(
        self, name: str, shown: bool, tiny_folder: Path, tmp_path: Path
    ) -> None:
        config = Config(**{**TINY_SETTINGS, "data": str(tiny_folder), "method": name, "rounds": 1})
        for _ in run_experiment(config, tmp_path):
            pass
        text = Page(page.write(tmp_path).read_text()).text
        assert ("τ 2.00" in text, "and tau\nof the pair" in text, "τ" in text) == (shown, shown, shown)

    def test_many_rounds_are_sampled(self, folder: Path) -> None:
        run = find_runs(folder)[0]
        events = [replace(run.bought[1], round=r) for r in range(1, 101)]
        shown = [purchase.round for purchase in page.purchases(replace(run, bought=events))]
        assert len(shown) == page.ROUNDS_SHOWN
        assert (shown[0], shown[-1]) == (1, 100)

    def test_one_run_alone(self, folder: Path) -> None:
        assert page.write(folder / "random" / "seed-1").exists()

    def test_nothing_to_report(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="holds no run that has trained yet"):
            page.write(tmp_path)
        with pytest.raises(UsageError, match="there is no folder"):
            page.write(tmp_path / "nowhere")
