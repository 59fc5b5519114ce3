"""bench/gpu without a GPU: the list of kernels, the driver, the stages of check.sh and the page that comes of them."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu import check, drive, kernels, paper, status

ROOT = Path(__file__).parent.parent
PROVENANCE = {"device": "NVIDIA H200", "host": "AMD EPYC, 16 threads", "torch": "2.11.0+cu130", "commit": "0123456789"}


class TestKernels:
    def test_every_global_function_is_found(self) -> None:
        found = kernels.kernels()
        count = sum(path.read_text().count("__global__") for path in (ROOT / "csrc").rglob("*.cuh"))
        assert len(found) == len({kernel.name for kernel in found}) == count > 0

    def test_a_declaration_of_another_form_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "toy").mkdir()
        (tmp_path / "toy" / "toy_kernels.cuh").write_text("__global__ auto odd() -> void {}\n")
        with pytest.raises(ValueError, match=r"toy_kernels.cuh: a kernel is to begin '__global__ void"):
            kernels.kernels(tmp_path)

    def test_the_digest_follows_what_the_launches_include(self, tmp_path: Path) -> None:
        csrc = tmp_path / "csrc"
        shutil.copytree(ROOT / "csrc", csrc)
        digests = {kernel.name: kernel.digest for kernel in kernels.kernels(csrc)}
        assert digests == {kernel.name: kernel.digest for kernel in kernels.kernels()}

        def changed(file: str) -> set[str]:
            path, before = csrc / file, (csrc / file).read_text()
            path.write_text(before + "\n")
            now = {kernel.name for kernel in kernels.kernels(csrc) if kernel.digest != digests[kernel.name]}
            path.write_text(before)
            return now

        assert changed("common/launch.cuh") == set(digests)
        assert {"beta_mix_kernel"} <= changed("beta_mix/formula.h") < set(digests)
        assert changed("beta_mix/beta_mix_cpu.cpp") == set()


class TestDriver:
    def test_it_reaches_every_op(self) -> None:
        assert drive.drive("cpu") == drive.registered()

    def test_an_op_without_an_entry_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(drive, "DRIVEN", {"beta_sample": drive.DRIVEN["beta_sample"]})
        monkeypatch.setattr(sys, "argv", ["drive", "--device", "cpu"])
        with pytest.raises(SystemExit, match=r"ops that .* does not reach: .*\bentropy, entropy_backward\b"):
            drive.main()

    def test_kernels_get_the_error_of_their_ops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a profiler that sees two kernels: forward calls launch one, backward calls both."""
        monkeypatch.setattr(drive, "DRIVEN", {"entropy": drive.DRIVEN["entropy"]})
        monkeypatch.setattr(drive, "provenance", lambda device: PROVENANCE)
        calls = 0

        def launched(function: Callable[[], object]) -> set[str]:
            nonlocal calls
            calls += 1
            function()
            return {"row_scores_kernel"} if calls % 2 else {"row_scores_kernel", "row_scores_backward_kernel"}

        monkeypatch.setattr(drive, "launched_kernels", launched)
        rows = {row["kernel"]: row for row in drive.kernel_rows("cpu")}
        assert set(rows["beta_mix_kernel"]) == set(drive.COLUMNS)
        assert rows["row_scores_kernel"]["ops"] == "entropy entropy_backward"
        assert rows["row_scores_backward_kernel"]["ops"] == "entropy_backward"
        assert 0 < float(rows["row_scores_kernel"]["error"]) < 1e-5
        assert (rows["beta_mix_kernel"]["ops"], rows["beta_mix_kernel"]["error"]) == ("", "")

    def test_error_is_relative_and_sees_misplaced_nan(self) -> None:
        nan = float("nan")
        assert drive.largest_error([torch.tensor([1.5, 9.0, nan])], [torch.tensor([1.0, 4.0, nan])]) == 1.0
        assert drive.largest_error([torch.tensor([nan, 9.0])], [torch.tensor([1.0, 9.0])]) == float("inf")
        assert drive.largest_error([torch.empty(0)], [torch.empty(0)]) == 0.0


def a_stage(name: str, out: Path, *options: str, device: str = "cpu") -> check.Stage:
    return check.Stage(name, device, out, list(options))


class TestStages:
    def test_the_script_is_a_script(self) -> None:
        assert subprocess.run(["sh", "-n", str(ROOT / "bench/gpu/check.sh")]).returncode == 0
        assert os.access(ROOT / "bench/gpu/check.sh", os.X_OK)

    @pytest.mark.parametrize(
        ("arguments", "out", "message"),
        [
            (["test", "--device", "cpu"], "", "set OUT to the folder for results"),
            (["fly"], "out", "invalid choice: 'fly'"),
            pytest.param(
                ["build"], "out", "torch sees no GPU here",
                marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
            ),
        ],
    )  # fmt: skip
    def test_what_cannot_be_done_is_said(self, arguments: list[str], out: str, message: str, tmp_path: Path) -> None:
        environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / out) if out else ""}
        command = [str(ROOT / "bench/gpu/check.sh"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr

    def test_a_program_is_ended_with_its_children_when_the_time_is_up(self, tmp_path: Path) -> None:
        stage = a_stage("test", tmp_path)
        stage.deadline = time.monotonic() + 1
        mark = tmp_path / "mark"
        begun = time.monotonic()
        code = stage.run("sh", "-c", f"echo begun; (sleep 4; touch {mark}) & wait", log=tmp_path / "log")
        assert code == 124
        assert time.monotonic() - begun < 3
        assert (tmp_path / "log").read_text() == "begun\n"
        time.sleep(4)
        assert not mark.exists()

    def test_logs_end_below_their_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(check, "LOG_BYTES", 100)
        assert a_stage("test", tmp_path).run("seq", "1000", log=tmp_path / "log") == 0
        assert (tmp_path / "log").stat().st_size < 110

    def test_main_records_and_prints_the_summary_last(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("OUT", str(tmp_path))
        monkeypatch.setattr(check, "build", lambda stage: stage.verdict("build", True, "1 s"))
        for passed in (True, False):
            monkeypatch.setitem(check.STAGES, "test", lambda stage, ok=passed: stage.verdict("tests", ok, "7 passed"))
            monkeypatch.setattr(sys, "argv", ["check", "test", "--device", "cpu", "-x"])
            assert check.main() == (0 if passed else 1)
        printed = capsys.readouterr().out
        assert "| tests | FAILED | 7 passed |" in printed
        assert printed.strip().splitlines()[-1].startswith("device cpu, host ")
        assert (tmp_path / "summary.md").read_text().count("## test: ") == 2
        with (tmp_path / "checks.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(r["stage"], r["check"], r["passed"]) for r in rows[1::2]] == [
            ("test", "tests", "yes"),
            ("test", "tests", "no"),
        ]
        assert list(rows[0]) == check.COLUMNS

    def test_a_failed_build_ends_the_stage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OUT", str(tmp_path))
        monkeypatch.setattr(check, "build", lambda stage: stage.verdict("build", False, "exit status 1"))
        monkeypatch.setitem(check.STAGES, "bench", lambda stage: pytest.fail("must not run"))
        monkeypatch.setattr(sys, "argv", ["check", "bench", "--device", "cpu"])
        assert check.main() == 1

    def test_tests_are_run_and_counted(self, tmp_path: Path) -> None:
        stage = a_stage("test", tmp_path, "-k", "test_row_score and odd and float32 and cpu and not gradient")
        check.test(stage)
        assert stage.verdicts == [("tests", True, "3 passed, 0 failed, 0 skipped")]
        assert "3 passed" in (tmp_path / "test.log").read_text()

    def test_failed_tests_are_named_and_verify_no_kernel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        report = (
            '<testsuites><testsuite tests="4" failures="1" errors="1" skipped="1">'
            '<testcase classname="tests.test_a" name="good"/><testcase classname="tests.test_a" name="bad"><failure/></testcase>'
            '<testcase classname="tests.test_b" name=""><error/></testcase></testsuite></testsuites>'
        )

        def run(stage: check.Stage, *command: object, **_: object) -> int:
            assert "bench.gpu.drive" not in command
            (path,) = (str(c).partition("=")[2] for c in command if str(c).startswith("--junitxml="))
            Path(path).write_text(report)
            return 1

        monkeypatch.setattr(check.Stage, "run", run)
        stage = a_stage("test", tmp_path, device="cuda")
        check.test(stage)
        assert stage.verdicts == [("tests", False, "1 passed, 2 failed, 1 skipped; tests.test_a::bad; tests.test_b::")]

    def test_sanitizers_report_each_for_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tool = tmp_path / "bin" / "compute-sanitizer"
        tool.parent.mkdir()
        tool.write_text(
            '#!/bin/sh\necho "$@" cache $PYTORCH_NO_CUDA_MEMORY_CACHING\n[ "$2" != racecheck ] || exit 86\n'
        )
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        stage = a_stage("sanitize", tmp_path, device="cuda")
        check.sanitize(stage)
        assert [(name, passed) for name, passed, _ in stage.verdicts] == [
            ("memcheck", True), ("racecheck", False), ("initcheck", True),
        ]  # fmt: skip
        assert "errors, see sanitize.log" in stage.verdicts[1][2]
        log = (tmp_path / "sanitize.log").read_text().splitlines()
        assert [line.split()[1] for line in log] == check.TOOLS
        assert all("bench.gpu.drive --device cuda cache 1" in line for line in log)
        assert ["kernel_substring=lada" in line for line in log] == [True, True, False]

    def test_without_compute_sanitizer_the_stage_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(check, "_compute_sanitizer", lambda: None)
        stage = a_stage("sanitize", tmp_path, device="cuda")
        check.sanitize(stage)
        assert not stage.passed

    def test_bench_writes_one_table(self, tmp_path: Path) -> None:
        stage = a_stage("bench", tmp_path, "scores", "--quick", "--case", "100000 x 10$")
        check.bench(stage)
        assert stage.passed
        assert "| scores | entropy 100000 x 10 | lada_ext |" in stage.markdown()
        assert (tmp_path / "bench.csv").exists()

    def test_the_folder_holds_at_most_eight_files(self) -> None:
        names = [word for word in str(check.__doc__).split() if word.endswith((".md", ".csv", ".log", ".gz"))]
        assert len(names) == len(set(names)) <= 8


SMALL = ["--dataset", "mnist5k", "--model", "small", "--rounds", "1", "--seeds", "1", "--device", "cpu"]
SETTINGS = ["candidates=20", "policy_epochs=1", "epochs=1", "layers=1"]


class TestPaper:
    def run(self, folder: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench.gpu.paper", "--data", str(folder), "--out", str(folder / "out")]
        command += ["--runs", str(folder / "runs"), *SMALL, *more]
        for setting in SETTINGS:
            command += ["--set", setting]
        path = os.pathsep.join([str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, **environment}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    def test_it_stops_in_time_and_goes_on(self, tmp_path: Path) -> None:
        stopped = self.run(tmp_path, "--minutes", "0")
        assert stopped.returncode == 0, stopped.stderr
        assert "the time is up; another call goes on from here" in stopped.stdout
        done = self.run(tmp_path)
        assert done.returncode == 0, done.stderr
        with (tmp_path / "out" / "paper.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == paper.COLUMNS
        assert [(r["method"], r["round"]) for r in rows] == [(m, str(r)) for r in (0, 1) for m in paper.METHODS]
        with tarfile.open(tmp_path / "out" / "paper-runs.tar.gz") as archive:
            assert "random/seed-1/rounds.jsonl" in archive.getnames()
        again = self.run(tmp_path)
        assert again.returncode == 0
        with (tmp_path / "out" / "paper.csv").open() as file:
            assert list(csv.DictReader(file)) == rows

    def test_missing_packages_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(paper.NEEDED, "no_such_module", "no-such-package")
        assert paper.missing_packages() == ["no-such-package"]

    def test_projection_and_ratio(self) -> None:
        """Rounds of 10 s and 0.1 s a label, half as much for random; 2 seeds of 0..10 rounds, 20 + 10 r labels."""

        def row(method: str, r: int, scale: float) -> dict[str, str]:
            labels = 20 + 10 * r
            values = (method, 1, r, labels, 0.5, 0, 0, scale * (10 + 0.1 * labels))
            return dict(zip(paper.COLUMNS, map(str, values), strict=True))

        rows = [row(m, r, s) for r in range(6) for m, s in (("random", 0.5), ("entropy", 1.0))]
        mine = [r for r in rows if r["method"] == "entropy" and int(r["round"]) >= paper.SETTLED]
        assert paper.ratio_to_random(mine, rows) == 2.0
        exact = 2 * sum(10 + 0.1 * (20 + 10 * r) for r in range(11)) / 60
        assert paper.projected_minutes(mine, rounds=10, seeds=2) == pytest.approx(exact)
        assert paper.projected_minutes(mine[:2], rounds=10, seeds=2) is None
        text = paper.summary(rows, rounds=10, seeds=2)
        assert f"| entropy | 6 of 22 | 70 | 50.00 | 15.50 | 2.000 | {exact:.0f} min |" in text
        assert "lada-ent-mix" not in text


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


class TestStatus:
    def test_the_page_is_up_to_date(self) -> None:
        assert status.PAGE.read_text() == status.render(), "run: python -m bench.gpu.status"

    def results(self, folder: Path, commit: str, date: str, digest: str, error: str = "1.0e-07") -> Path:
        mix = {"kernel": "beta_mix_kernel", "ops": "beta_mix", "error": error, "sources": digest, "date": date}
        never = {**mix, "kernel": "row_scores_kernel", "ops": "", "error": ""}
        write(folder / "kernels.csv", [{**row, **PROVENANCE, "commit": commit} for row in (mix, never)])
        case = {"contender": "lada_ext", "kernels": "beta_mix_kernel", "copy_fraction": "0.934", "bytes_moved": "100"}
        both = {**case, "case": "both", "kernels": "beta_mix_backward_kernel beta_mix_kernel", "bytes_moved": "900"}
        rows = [
            {**case, "case": "small", "copy_fraction": "0.5", "bytes_moved": "9"},
            both,
            {**case, "case": "large"},
            {**case, "case": "large", "contender": "eager", "bytes_moved": "100"},
        ]
        write(folder / "bench.csv", rows)
        checks = [
            ("build", "build", "yes", "60 s"),
            ("test", "build", "yes", "5 s"),
            ("sanitize", "racecheck", "no", "errors"),
        ]
        write(
            folder / "checks.csv",
            [dict(zip(check.COLUMNS, (*c, *{**PROVENANCE, "commit": commit}.values()), strict=True)) for c in checks],
        )
        return folder

    def test_verified_changed_and_never(self, tmp_path: Path) -> None:
        found = {kernel.name: kernel for kernel in kernels.kernels()}
        mix, scores = found["beta_mix_kernel"], found["row_scores_kernel"]
        self.results(tmp_path / "h200-old", "aaaaaaa", "2026-01-01", mix.digest, error="9")
        self.results(tmp_path / "h200-new", "bbbbbbb", "2026-01-02", mix.digest)
        page = status.render(tmp_path, [mix, scores])
        assert "| `beta_mix_kernel` | bbbbbbb | NVIDIA H200 | 1.0e-07 | 93% (large) |" in page
        assert "| `row_scores_kernel` | not yet | | | |" in page
        assert "Of 2 kernels, 1 are verified, 0 changed since they were, 1 never were." in page
        assert "| h200-new | sanitize: racecheck | FAILED | errors |" in page
        (tmp_path / "h200-new" / "notes.md").write_text("The driver was an old one.\n")
        assert "The driver was an old one." in status.render(tmp_path, [mix, scores])
        assert "5 s" not in page
        self.results(tmp_path / "h200-new", "bbbbbbb", "2026-01-02", "another digest")
        page = status.render(tmp_path, [mix, scores])
        assert "| bbbbbbb; changed since, so unverified |" in page
        assert "0 are verified, 1 changed since they were, 1 never were." in page

    def test_results_are_taken_over(self, tmp_path: Path) -> None:
        out = self.results(tmp_path / "out", "0123456789", "2026-01-01", "digest")
        (out / "test.log").write_text("long")
        target = status.add(out, tmp_path / "results")
        assert target == tmp_path / "results" / "nvidia-h200-0123456789"
        assert sorted(path.name for path in target.iterdir()) == ["bench.csv", "checks.csv", "kernels.csv"]

    @pytest.mark.parametrize("commit", ["unknown", "0123456789+"])
    def test_results_of_no_commit_are_refused(self, commit: str, tmp_path: Path) -> None:
        out = self.results(tmp_path / "out", commit, "2026-01-01", "digest")
        with pytest.raises(ValueError, match="set LADA_COMMIT there"):
            status.add(out, tmp_path / "results")
        with pytest.raises(ValueError, match="must hold results of one GPU and one commit"):
            status.add(tmp_path / "nothing", tmp_path / "results")
