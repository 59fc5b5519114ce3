"""Whole studies: groups of methods, protocols, estimates of time, tests of one method against another, files."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from lada_al import Bought, Config, Trained, run_experiment
from lada_al.errors import UsageError
from lada_al.methods import GROUPS, expand, method, rows
from lada_al.report import page, paper_figures, statistics, tables, toy
from lada_al.report.read import Run, find_runs
from lada_al.run import compare, estimate
from lada_al.run.protocols import PROTOCOLS
from lada_al.run.study import Study, begun, seeds_of
from test_report import made_up
from tiny import TINY_SETTINGS


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [1, 2, 3]), ("7-7", [7]), ("2,5", [2, 5]), ("6-8,2", [6, 7, 8, 2]), ("1,0", [1, 0])]
)
def test_seeds_are_how_many_or_which(text: str, seeds: list[int]) -> None:
    assert seeds_of(text) == seeds


class TestNames:
    def test_groups_stand_for_their_rows(self) -> None:
        assert expand("table2") == ["ent+autoaugment", "lada-ent-autoaugment-fixed"]
        assert expand("random, table3") == ["random", *rows("table3")]
        assert len(expand("table1")) == 28
        assert set(expand("all")) == {name for group in GROUPS for name in rows(group)}
        assert expand("entropy,random,,") == ["entropy", "random"]
        assert expand("entropy,table1") == list(dict.fromkeys(["entropy", *rows("table1")]))

    @pytest.mark.parametrize("text", ["", ",", "entropy,entropy", "entropy, entropy", "table1,random, table1"])
    def test_a_name_that_occurs_twice_or_none_at_all(self, text: str) -> None:
        with pytest.raises(UsageError, match="--methods takes different names separated by commas, got '"):
            expand(text)

    @pytest.mark.parametrize("name", ["pi+random", "pi+lada-ll4al-stn-fixed", "lada-bald-adamixup", "cal+none"])
    def test_compositions_beyond_the_tables(self, name: str) -> None:
        assert method(name).name == name
        assert method(name).summary.endswith(".")

    @pytest.mark.parametrize("name", ["lada-cal-mix", "lada-random-stn", "lada-ent-autoaugment", "lada-ent-bgadl"])
    def test_compositions_that_cannot_be(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"unknown method '{name}'; the nearest are "):
            method(name)

    @pytest.mark.parametrize("name", PROTOCOLS)
    def test_protocols_are_whole_configurations(self, name: str) -> None:
        protocol = PROTOCOLS[name]
        for dataset in {protocol.settings.get("dataset", "fashion"), protocol.settings.get("dataset", "cifar10")}:
            for row in expand(protocol.methods):
                config = Config(**{**protocol.settings, "dataset": dataset, "method": row})
                assert config.rounds == (len(config.schedule) or config.rounds)
        assert protocol.seeds == 5

    def test_table_3_has_the_papers_labels(self) -> None:
        config = Config(**{**PROTOCOLS["table3"].settings, "method": "pi+lada-ent-mix"})
        totals = [config.initial + sum(config.labels_of(i) for i in range(1, r + 1)) for r in range(5)]
        assert totals == [250, 500, 1000, 2000, 4000]


RUNS = [
    made_up(name, accuracies, seed=seed)
    for name, table in {
        "random": [[0.2, 0.3, 0.4], [0.2, 0.35, 0.45], [0.2, 0.32, 0.38]],
        "entropy": [[0.2, 0.45, 0.5], [0.2, 0.4, 0.55], [0.2, 0.42, 0.5]],
        "lada-ent-mix": [[0.2, 0.5, 0.6], [0.2, 0.3, 0.4], [0.2, 0.6, 0.7]],
    }.items()
    for seed, accuracies in enumerate(table, start=1)
]


class TestStatistics:
    def test_comparisons_are_paired_t_tests(self) -> None:
        found = {(c.method, c.other): c for c in statistics.comparisons(RUNS)}
        assert set(found) == {("entropy", "random"), ("lada-ent-mix", "random"), ("lada-ent-mix", "entropy")}
        area = {name: [run.aubc for run in RUNS if run.config.method == name] for name in ("random", "entropy")}
        expected = scipy.stats.ttest_rel(area["entropy"], area["random"])
        comparison = found["entropy", "random"]
        assert comparison.p == pytest.approx(expected.pvalue)
        assert (comparison.low, comparison.high) == pytest.approx(expected.confidence_interval(0.95))
        assert comparison.seeds == 3

    def test_only_common_seeds_are_paired(self) -> None:
        runs = [made_up("random", [0.1, 0.2], seed=s) for s in (1, 2)] + [made_up("entropy", [0.1, 0.4], seed=2)]
        (comparison,) = statistics.comparisons(runs)
        assert comparison.seeds == 1
        assert comparison.difference == pytest.approx(0.1)
        assert math.isnan(comparison.p)

    @pytest.mark.parametrize(
        ("name", "rivals"),
        [
            ("random", []),
            ("cal", ["random"]),
            ("lada-ent-mix", ["random", "entropy", "lada-ent-mix-fixed", "ent+manifold-mixup"]),
            ("lada-var-stn-fixed", ["random", "var-ratio", "var+stn"]),
            ("lada-cal-stn-fixed", ["random", "cal+none", "cal+stn"]),
            ("pi+lada-ent-mix-fixed", ["random", "pi+random", "pi+entropy", "pi+ent+manifold-mixup"]),
        ],
    )
    def test_what_a_method_is_compared_with(self, name: str, rivals: list[str]) -> None:
        there = [name, *rivals, "cal", "vaal", "lada-vaal-mix"]
        runs = [made_up(other, [0.1, 0.2]) for other in dict.fromkeys(there)]
        assert [c.other for c in statistics.comparisons(runs) if c.method == name] == rivals

    def test_holm(self) -> None:
        assert statistics.holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])
        assert math.isnan(statistics.holm([math.nan])[0])
        assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]

    def test_differences_without_spread_are_not_tested(self) -> None:
        """Rounding alone is no spread, and what is not tested does not count in Holm's correction."""
        runs = [made_up("random", [0.2, 0.2 + 0.1 * s], seed=s) for s in (1, 2, 3)]
        runs += [made_up("entropy", [0.2, 0.3 + 0.1 * s], seed=s) for s in (1, 2, 3)]
        runs += [made_up("bald", [0.2, 0.3 + 0.1 * s**2], seed=s) for s in (1, 2, 3)]
        found = {c.method: c for c in statistics.comparisons(runs)}
        assert found["entropy"].difference == pytest.approx(0.05)
        assert np.isnan([getattr(found["entropy"], name) for name in ("low", "high", "p", "p_corrected")]).all()
        assert found["bald"].p_corrected == found["bald"].p > 0
        assert not np.nan_to_num(statistics.penalties(runs)[1]).any()

    def test_penalties_count_budgets_won(self) -> None:
        names, matrix = statistics.penalties(RUNS)
        won = matrix[names.index("entropy"), names.index("random")]
        seeds = np.array([run.accuracies for run in RUNS]).reshape(3, 3, 3)
        by_hand = [scipy.stats.ttest_rel(seeds[1, :, r], seeds[0, :, r]).pvalue < 0.05 for r in (1, 2)]
        assert won == np.mean(by_hand) > 0
        assert matrix[names.index("random"), names.index("entropy")] == 0
        assert not matrix.diagonal().any()

    def test_labels_saved(self) -> None:
        runs = [
            made_up("random", [0.2, 0.3, 0.4]),
            made_up("entropy", [0.2, 0.5, 0.6]),
            made_up("bald", [0.1, 0.1, 0.2]),
        ]
        savings = {saving.method: saving for saving in statistics.savings(runs)}
        assert savings["entropy"].labels == pytest.approx(20 + 10 * 2 / 3)
        assert savings["entropy"].saved == pytest.approx(1 - (20 + 10 * 2 / 3) / 40)
        assert savings["random"].saved == 0
        assert math.isnan(savings["bald"].labels)
        assert statistics.savings(runs[1:]) == []
        assert not any(saving.unfinished for saving in savings.values())

    def test_random_saves_nothing_against_itself(self) -> None:
        """Also where its last accuracy is not its highest."""
        runs = [made_up("random", [0.3, 0.52, 0.55, 0.54]), made_up("entropy", [0.3, 0.55, 0.5, 0.6])]
        random, entropy = statistics.savings(runs)
        assert (random.labels, random.saved) == (40, 0)
        assert (entropy.labels, entropy.saved) == (30, 0.25)

    def test_a_method_that_is_not_there_yet_is_unfinished(self) -> None:
        runs = [made_up("random", [0.2, 0.3, 0.4]), made_up("entropy", [0.2, 0.3])]
        entropy = statistics.savings(runs)[1]
        assert (entropy.last, entropy.unfinished) == (30, True)
        assert math.isnan(entropy.saved)
        assert "not by 30 so far" in page.render(runs, [page._section("mnist5k", runs, whole=True)], whole=False)


class TestPaperTables:
    def test_the_best_of_a_group_is_bold(self) -> None:
        (table,) = tables.paper_tables(RUNS)
        best = {row.method for row in table.rows if row.cells[0] and row.cells[0].best}
        assert best == {"random", "lada-ent-mix"}
        latex = tables.as_latex(table)
        assert r"\mathbf{56.67}" in latex
        assert "77K" in latex
        assert latex.count(r"\midrule") == 2
        lines = list(csv.DictReader(io.StringIO(tables.paper_csv(table))))
        assert [line["method"] for line in lines] == ["random", "entropy", "lada-ent-mix"]
        assert float(lines[2]["mnist5k accuracy"]) == pytest.approx(0.5667, abs=1e-3)

    def test_table_3_is_by_labels(self) -> None:
        runs = [made_up("pi+entropy", [0.3, 0.5]), made_up("pi+lada-ent-mix", [0.3, 0.6])]
        (table,) = tables.paper_tables(runs)
        assert (table.title, table.columns) == ("Table 3", ["20", "30"])
        assert [cell.mean for cell in table.rows[1].cells if cell] == [0.3, 0.6]

    def test_table_3_of_each_data_set(self) -> None:
        runs = [made_up("pi+entropy", [0.3, 0.5])]
        runs += [replace(run, config=run.config.model_copy(update={"dataset": "fashion"})) for run in runs]
        runs[1] = replace(runs[1], trained=[replace(event, accuracy=0.9) for event in runs[1].trained])
        found = tables.paper_tables(runs)
        assert [table.title for table in found] == ["Table 3 mnist5k", "Table 3 fashion"]
        assert [table.rows[0].cells[0].mean for table in found if table.rows[0].cells[0]] == [0.3, 0.9]

    def test_each_table_says_what_its_accuracies_are(self) -> None:
        runs = [made_up("pi+entropy", [0.3, 0.5]), made_up("entropy", [0.3, 0.6])]
        html = page.render(runs, [], whole=True)
        assert html.count("[%] of the round with so many labels") == html.count("[%] of the last round") == 1

    def test_time_is_of_the_data_sets_with_random(self) -> None:
        runs = [made_up("random", [0.1, 0.2], seconds=1.0), made_up("entropy", [0.1, 0.2], seconds=3.0)]
        runs.append(replace(runs[1], config=runs[1].config.model_copy(update={"dataset": "fashion"})))
        (table,) = tables.paper_tables(runs)
        assert {row.method: row.time for row in table.rows} == {"random": 1.0, "entropy": 3.0}

    def test_names_cannot_break_latex(self) -> None:
        assert tables._tex("50% of a_b & c") == r"50\% of a\_b \& c"

    def test_time_is_paired_by_seed(self) -> None:
        runs = [made_up("random", [0.1, 0.2], seed=s, seconds=t) for s, t in ((1, 1.0), (2, 10.0))]
        runs += [made_up("entropy", [0.1, 0.2], seed=s, seconds=t) for s, t in ((1, 2.0), (2, 20.0))]
        assert tables.rows(runs)[1].ratio_to_random == 2.0


class TestEstimate:
    def test_words(self) -> None:
        assert [estimate.in_words(s) for s in (7, 89, 600, 3 * 3600 + 300)] == ["7 s", "89 s", "10 min", "3 h 5 min"]

    def test_pace_grows_with_labels_and_epochs(self) -> None:
        events = [
            Bought(0, [0], [0]),
            Trained(0, 20, 0.1, 0.0, {"train": 9.0, "evaluate": 1.0}),
            Bought(1, [1], [0], seconds={"score": 2.0, "policy": 1.0}),
            Trained(1, 30, 0.1, 0.0, {"train": 6.0, "evaluate": 1.0}),
        ]
        pace = estimate.Pace(events, epochs=10)
        config = Config(rounds=2, epochs=50)
        per_label = 6.0 / (30 * 10)
        assert pace.seconds(config, range(3)) == pytest.approx(per_label * 50 * (20 + 30 + 40) + 3 * 1.0 + 2 * 3.0)
        assert pace.seconds(config, range(3, 3)) == 0

    def test_runs_that_have_begun_need_no_probe(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = {**TINY_SETTINGS, "data": str(tiny_folder)}
        first, second = compare.make_jobs(["entropy"], [1, 2], settings, tmp_path, workers=1, resume=True)
        assert estimate.seconds_left([second]) > 0
        assert not list(tmp_path.iterdir())
        for _ in run_experiment(first.config, first.folder):
            pass
        assert first.is_finished
        assert not second.is_finished
        monkeypatch.setattr(estimate, "_probe", lambda config: pytest.fail("probed"))
        assert estimate.seconds_left([first, second]) > 0
        assert estimate.seconds_left([first]) == 0

    def test_a_short_round_of_each_method_is_shown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        jobs = compare.make_jobs(["entropy", "random"], [1, 2], {}, tmp_path, workers=1, resume=True)
        probed, shown = [], []
        monkeypatch.setattr(estimate, "_probe", lambda config: probed.append(config.method) or estimate.Pace([], 1))

        class Shown:
            def track(self, phase: str, steps: Sequence[Config]) -> Iterable[Config]:
                shown.extend(step.method for step in steps)
                return steps

        assert estimate.seconds_left(jobs, Shown()) == 0
        assert probed == shown == ["entropy", "random"]


def test_a_run_that_fails_ends_the_others_at_once(tiny_folder: Path, tmp_path: Path) -> None:
    settings = {**TINY_SETTINGS, "data": str(tiny_folder), "epochs": 100_000}
    jobs = compare.make_jobs(["random", "entropy"], [1], settings, tmp_path, workers=2, resume=True)
    jobs[1].folder.parent.mkdir()
    jobs[1].folder.touch()
    with pytest.raises(UsageError, match="^entropy, seed 1: --out: .* is not a folder"):
        for _ in compare.carry_out([[job] for job in jobs], workers=2):
            pass
    assert jobs[0].rounds_done == 0


def test_runs_that_are_not_of_the_comparison_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    """Those of its methods and seeds that are not to be done now are of it."""
    whole = Study(methods=["random", "entropy"], seeds=[1, 2], settings={**TINY_SETTINGS, "data": str(tiny_folder)})
    jobs = compare.make_jobs(["random"], [2], whole.settings, tmp_path, workers=1, resume=True)
    for name in ("random", "entropy"):
        config = Config(**{**whole.settings, "method": name})
        assert next(iter(run_experiment(config, tmp_path / name / "seed-1"))).round == 0
        compare.check(jobs, whole, tmp_path, resume=True, download=False)
    older = tmp_path / "older" / "random" / "seed-1"
    shutil.copytree(tmp_path / "random" / "seed-1", older)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=f"^--out: {older} holds a run that is not of this comparison, and would be"):
        compare.check(jobs, whole, tmp_path, resume=True, download=False)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"methods": [], "seeds": [1], "settings": {}}'])
def test_a_damaged_study_is_named_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_bytes(content)
    with pytest.raises(UsageError, match="study.json is not what a comparison was begun with: .+") as caught:
        begun(tmp_path, resume=True)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def study(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What figures 4 to 8 are drawn from, two seeds of each."""
    out = tmp_path_factory.mktemp("study")
    for name in ("random", "entropy", "ent+manifold-mixup", "ent+adamixup", "ent+stn", "lada-ent-mix-fixed",
                 "lada-ent-mix", "lada-ent-stn"):  # fmt: skip
        for seed in (1, 2):
            config = Config(**{**TINY_SETTINGS, "data": str(tiny_folder), "method": name, "seed": seed})
            for _ in run_experiment(config, out / name / f"seed-{seed}"):
                pass
    return out


def test_the_whole_report(study: Path) -> None:
    html = page.write(study, whole=True).read_text()
    files = {path.name for path in (study / "report").iterdir()}
    drawings = {
        "curves", "seconds", "entropy", "tau", "tau-bought", "lambda", "figure-4", "figure-5a", "figure-5b",
        "figure-6", "figure-7a", "figure-7b", "figure-8",
    }  # fmt: skip
    figures = {"figure-1", *(f"{name}-fashion" for name in drawings)}
    assert {f"{name}.{kind}" for name in figures for kind in ("png", "pdf")} <= files
    pdf = (study / "report" / "figure-1.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # TrueType, whole or in part
    assert b"/Type3" not in pdf
    assert {"table-1.tex", "table-1.csv", "methods.csv", "comparisons.csv", "penalties.csv",
            "labels-saved.csv"} <= files  # fmt: skip
    for title in ("Table 1", "Figure 1", "Figure 6", "Figure 8", "One method against another", "Labels saved"):
        assert f"<h2>{title}</h2>" in html
    assert "<script" not in html
    assert html.count("<svg") >= len(drawings) + 1
    assert len(page.write(study).read_text()) < len(html)


def test_latent_holds_every_instance(study: Path) -> None:
    for run in find_runs(study):
        arrays = run.latent()
        assert arrays is not None
        assert len(arrays["real"]) == len(arrays["label"]) == len(arrays["round"]) == 14
        f_aug = run.config.chosen.augmentation
        if f_aug is None:
            assert "virtual" not in arrays
        else:
            assert len(arrays["virtual"]) == len(arrays["virtual_entropy"]) == 8 // f_aug.arity
            assert set(arrays["virtual_round"]) == {1, 2}


def test_figures_without_their_runs_are_left_out() -> None:
    runs: list[Run] = [made_up("random", [0.1, 0.2])]
    assert paper_figures.figure_4(runs) is None
    assert paper_figures.figure_5(runs, "Mixup") is None
    assert paper_figures.figure_6(runs) is None
    assert paper_figures.figure_7a(runs) is None
    assert paper_figures.figure_7b(runs) is None
    assert paper_figures.figure_8(runs) is None
    assert paper_figures.penalty_matrix(runs) is None
    assert paper_figures.mixing_weights(runs) is None


@pytest.mark.parametrize(("taus", "text"), [([], ""), ([1.0], "between 0 and 1."), ([1.0, 4.0], "0 and 1 or 4.")])
def test_figure_1_says_how_far_its_tau_is_from_the_runs(taus: list[float], text: str) -> None:
    runs = [made_up("random", [0.1]), made_up("lada-ent-stn", [0.1]), made_up("lada-ent-mix-fixed", [0.1])]
    for run in [made_up("lada-ent-mix", [0.1], seed=i) for i, _ in enumerate(taus)]:
        runs.append(replace(run, config=run.config.model_copy(update={"largest_tau": taus[run.config.seed]})))
    html = page.render(runs, [], whole=True)
    assert "between 0 and\n20 here" in html
    assert ("in these runs" in html) == bool(taus)
    assert text in html


@pytest.mark.parametrize("seed", range(4))
def test_figure_1_shows_what_the_paper_says(seed: int) -> None:
    """Looking ahead, virtual instances are more informative than in the pipeline, whatever the draw of the points."""
    pipeline, look_ahead = toy.make(seed).ways
    assert look_ahead.virtual_entropy.mean() > pipeline.virtual_entropy.mean()
    assert pipeline.bought_entropy.mean() > look_ahead.bought_entropy.mean()
    assert pipeline.bought.shape == look_ahead.bought.shape
