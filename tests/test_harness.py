"""The benchmark itself: what it refuses, in which order it runs, and its arithmetic, with contenders of known speed."""

from __future__ import annotations

import csv
import mmap
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import contenders, harness, results, timing
from bench.harness import Case, Effort, Spread, WrongResultError

ROOT = Path(__file__).parent.parent
ROUNDS = Effort(seconds=0, fewest=5, most=5)
GIB = float(2**30)


class FakeClock(timing.Clock):
    """Functions take the seconds that they return, in turn; a copy moves 1 GiB a second."""

    device_has_a_queue = False

    def __init__(self) -> None:
        self.source = torch.empty(2**29, dtype=torch.uint8, device="meta")

    def sample(self, function: timing.Function, plan: timing.Plan) -> tuple[float, float]:
        del plan
        seconds = function()
        assert isinstance(seconds, float)
        return seconds, seconds

    def plan(self, function: timing.Function) -> timing.Plan:
        del function
        return timing.Plan(calls=1, host_seconds=0.0)

    def peak_bytes(self, function: timing.Function) -> int | None:
        del function
        return 4 * 2**20

    def _copy(self) -> float:  # type: ignore[override]
        return 1.0


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "clock_of", lambda device: FakeClock())


def takes_at_once(seconds: float, log: list[str]) -> Callable[[], object]:
    """A contender that takes `seconds` from its first call on."""

    def call() -> float:
        log.append("")
        return seconds

    return call


def takes(*seconds: float, log: list[str] | None = None, name: str = "") -> Callable[[], object]:
    """A contender that takes `seconds` in turn, after the three calls of the warm-up; each twice, once not timed."""
    turn = iter([0.0] * 3 + [s for s in seconds for _ in range(2)] * 100)

    def call() -> float:
        if log is not None:
            log.append(name)
        return next(turn)

    return call


def fails(error: Exception) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


def case(check: Callable[[], None] = lambda: None, moved: int = 2**30, **entrants: Callable[[], object]) -> Case:
    return Case("toy", "sleep", {name.replace("_dot_", "."): f for name, f in entrants.items()}, check, moved)


@pytest.mark.usefixtures("fake_clock")
class TestMeasure:
    def test_a_wrong_result_stops_the_run_before_anything_is_timed(self) -> None:
        def check() -> None:
            torch.testing.assert_close(torch.tensor(1.0), torch.tensor(2.0))

        with pytest.raises(WrongResultError, match=r"toy, sleep: .*not close"):
            harness.measure(case(check, lada_ext=fails(RuntimeError("must not be called"))), "cpu")

    def test_ours_comes_first(self) -> None:
        with pytest.raises(ValueError, match=r"the first contender must be 'lada_ext', got \['eager'\]"):
            harness.measure(case(eager=takes(1.0)), "cpu")

    def test_contenders_take_turns(self) -> None:
        log: list[str] = []
        ours, eager = (takes(1.0, log=log, name=name) for name in "AB")
        harness.measure(case(lada_ext=ours, eager=eager), "cpu", ROUNDS)
        assert "".join(log) == "AAABBB" + "AABB" * 5  # a turn begins with a call that is not timed

    def test_ratios_are_taken_round_by_round(self) -> None:
        """A phase in which everything is ten times slower changes times, not ratios."""
        ours, eager = takes(0.25, 0.25, 2.5, 2.5, 2.5), takes(0.75, 0.75, 7.5, 7.5, 7.5)
        mine, theirs = harness.measure(case(lada_ext=ours, eager=eager), "cpu", ROUNDS)
        assert mine.seconds == Spread(median=2.5, p20=0.25, p80=2.5)
        assert theirs.seconds == Spread(median=7.5, p20=0.75, p80=7.5)
        assert mine.ratio == Spread(1.0, 1.0, 1.0)
        assert theirs.ratio == Spread(3.0, 3.0, 3.0)

    def test_floor_and_fraction_of_the_copy(self) -> None:
        mine, theirs = harness.measure(case(lada_ext=takes(2.0), eager=takes(8.0), moved=2**30), "cpu", ROUNDS)
        assert mine.floor_seconds == theirs.floor_seconds == 1.0
        assert (mine.copy_fraction, theirs.copy_fraction) == (0.5, 0.125)
        assert (mine.peak_bytes, mine.rounds, mine.host_seconds) == (4 * 2**20, 5, None)

    @pytest.mark.parametrize(
        ("error", "note"),
        [
            (ImportError("No module named 'kornia'"), "not installed: No module named 'kornia'"),
            (torch._dynamo.exc.TorchDynamoException("no\ncompiler"), "does not compile here: no compiler"),
            (torch.OutOfMemoryError("too much"), "out of memory: too much"),
        ],
    )
    def test_a_peer_that_cannot_run_says_so_in_its_row(self, error: Exception, note: str) -> None:
        mine, theirs = harness.measure(case(lada_ext=takes(1.0), peer=fails(error)), "cpu", ROUNDS)
        assert mine.note == ""
        assert (theirs.seconds, theirs.ratio, theirs.note) == (None, None, note)

    def test_any_other_error_of_a_peer_is_an_error(self) -> None:
        with pytest.raises(TypeError, match="mistake"):
            harness.measure(case(lada_ext=takes(1.0), peer=fails(TypeError("mistake"))), "cpu", ROUNDS)

    def test_ours_has_to_run(self) -> None:
        with pytest.raises(ImportError):
            harness.measure(case(lada_ext=fails(ImportError("_C"))), "cpu", ROUNDS)

    def test_rounds_end_when_the_time_is_spent(self) -> None:
        rounds = [
            harness.measure(case(lada_ext=takes(s)), "cpu", Effort(seconds=10, fewest=3, most=20))[0].rounds
            for s in (0.1, 1.0, 100.0)
        ]
        assert rounds == [20, 5, 3]

    def test_what_is_compiled_at_its_first_call_is_not_slow_for_it(self) -> None:
        """Else it would be sampled as something that takes as long as its compilation."""
        compiled = takes(1.0)
        first = iter([60.0])
        contenders = {"lada_ext": takes(2.0), "torch.compile": lambda: next(first, None) or compiled()}
        _, theirs = harness.measure(Case("toy", "sleep", contenders, lambda: None, 2**30), "cpu", ROUNDS)
        assert theirs.ratio == Spread(0.5, 0.5, 0.5)
        assert theirs.peak_bytes is not None

    def test_a_slow_peer_is_warm_after_one_call_and_sits_out_when_patience_ends(self) -> None:
        calls: list[str] = []
        slow = takes_at_once(40.0, log=calls)
        mine, theirs = harness.measure(case(lada_ext=takes(2.0), peer=slow), "cpu", ROUNDS)
        assert (mine.rounds, theirs.rounds, len(calls)) == (5, 1, 2)
        assert theirs.ratio == Spread(20.0, 20.0, 20.0)
        assert theirs.peak_bytes is None


def test_spread_is_median_and_outer_fifths() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0, 6.0]) == Spread(median=3.5, p20=2.0, p80=5.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


class TestCpuClock:
    def test_a_sleep_takes_its_time(self) -> None:
        import time

        clock = timing.CpuClock("cpu")
        seconds, host_seconds = clock.sample(lambda: time.sleep(0.02), timing.Plan(2, 0))
        assert 0.02 <= seconds < 0.2
        assert seconds == host_seconds
        assert clock.plan(lambda: time.sleep(0.02)).calls == 1
        assert 1e8 < clock.copy_bandwidth() < 1e13

    def test_peak_memory_counts_what_is_freed_again_and_what_torch_does_not_see(self) -> None:
        clock = timing.CpuClock("cpu")
        kept = torch.ones(2**20)  # 4 MiB that were there before

        def call() -> Tensor:
            with mmap.mmap(-1, 64 << 20) as pages:  # malloc could take an old heap's free piece and keep it
                pages[:: mmap.PAGESIZE] = bytes(len(pages) // mmap.PAGESIZE)
            return kept + torch.ones(12 << 20).sum()

        peaks = [clock.peak_bytes(call) for _ in range(3)]
        if None in peaks:
            pytest.skip("this kernel does not reset the high-water mark")
        # another thread of this process may take some meanwhile
        least = min(peak for peak in peaks if peak is not None)
        assert 60 < least / 2**20 < 80

    def test_the_clock_is_made_once_for_a_device(self) -> None:
        assert timing.clock_of("cpu") is timing.clock_of("cpu")


class TestContenders:
    def test_sets_are_gone_round_and_results_held_as_long(self) -> None:
        freed: list[int] = []

        class Result:
            def __init__(self, number: int) -> None:
                self.number = number

            def __del__(self) -> None:
                freed.append(self.number)

        call = contenders.rotated(Result, [(0,), (1,), (2,)])
        assert [call().number for _ in range(4)] == [0, 1, 2, 0]  # type: ignore[attr-defined]
        assert freed == [0, 1]

    def test_gradients_of_the_first_result(self) -> None:
        x, unused, grad = (
            torch.tensor([3.0], requires_grad=True),
            torch.ones(1, requires_grad=True),
            torch.tensor([2.0]),
        )
        step = contenders.forward_and_backward(lambda x, unused: (x * x, x), wrt=[0, 1])
        assert [*step(x, unused, grad)] == [torch.tensor([12.0]), None]

    @pytest.mark.parametrize("wrt", [(), (0,)])
    def test_a_wrong_eager_contender_is_named(self, wrt: tuple[int, ...]) -> None:
        def make(g: torch.Generator) -> tuple[Tensor, ...]:
            x = torch.rand(5, generator=g).requires_grad_(bool(wrt))
            return (x, torch.ones(5)) if wrt else (x,)

        def with_eager(eager: contenders.Op) -> Case:
            entrants = {"lada_ext": torch.sin, "eager": eager}
            return contenders.op_case("toy", "sine", "cpu", make, entrants, torch.sin, bytes_moved=40, wrt=wrt)

        harness.check(with_eager(torch.sin))
        with pytest.raises(WrongResultError, match="toy, sine: eager: Tensor-likes are not close"):
            harness.check(with_eager(torch.tanh))

    def test_a_missing_compiler_is_said_in_the_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
        monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
        x = torch.ones(7)
        entrants = {"lada_ext": x.sin, "torch.compile": lambda: contenders.compiled(torch.sin)(x)}
        result = harness.measure(Case("toy", "sine", entrants, lambda: None, 56), "cpu", ROUNDS)[1]
        assert result.seconds is None
        assert result.note.startswith("does not compile here: ")


@pytest.mark.usefixtures("fake_clock")
class TestResults:
    def measured(self) -> list[harness.Result]:
        return harness.measure(
            case(lada_ext=takes(2e-3), eager=takes(8e-3), kornia=fails(ImportError("none")), moved=2**20), "cpu", ROUNDS
        )

    def test_csv(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "toy-cpu.csv"
        results.write_csv(path, results.rows(self.measured(), results.provenance("cpu")))
        with path.open() as file:
            lines = list(csv.DictReader(file))
        assert list(lines[0]) == results.COLUMNS
        assert [line["contender"] for line in lines] == ["lada_ext", "eager", "kornia"]
        eager, kornia = lines[1], lines[2]
        assert (eager["median_us"], eager["ratio"], eager["peak_mib"]) == ("8000", "4", "4")
        assert (eager["floor_us"], eager["bytes_moved"], eager["rounds"]) == ("976.6", "1048576", "5")
        assert (eager["device"], eager["torch"]) == ("cpu", torch.__version__)
        assert eager["host"]
        assert (kornia["median_us"], kornia["ratio"], kornia["note"]) == ("", "", "not installed: none")
        assert results.read_csv(path) == lines

    def test_table(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        results.show("toy", self.measured())
        pretty = capsys.readouterr().out
        monkeypatch.setitem(sys.modules, "rich.table", None)
        results.show("toy", self.measured())
        plain = capsys.readouterr().out
        for text in (pretty, plain):
            assert "4.00 (4.00 to 4.00)" in text
            assert "not installed: none" in text
        assert "| sleep | eager | 8 ms | 8 ms to 8 ms |" in plain

    def test_commit_may_be_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LADA_COMMIT", "0123456789")
        assert results.provenance("cpu")["commit"] == "0123456789"

    @pytest.mark.parametrize(
        ("changed", "mark"), [("python/a/loop.py", "+"), ("setup.py", "+"), ("bench/a.py", "+"), ("README.md", "")]
    )
    def test_sources_that_are_not_committed_are_marked(
        self, changed: str, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("csrc/a.h", "lada_ext/a.py", "python/a/loop.py", "bench/a.py", "setup.py", "README.md"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
            subprocess.run([*git, *arguments], check=True)
        monkeypatch.setattr(results, "ROOT", tmp_path)
        monkeypatch.delenv("LADA_COMMIT", raising=False)
        (tmp_path / changed).write_text("changed")
        assert re.fullmatch(r"[0-9a-f]{10}(\+?)", results.commit())[1] == mark  # type: ignore[index]


@pytest.mark.parametrize("family", harness.families())
def test_every_family_offers_cases(family: str) -> None:
    first = next(harness.cases(family, "cpu"))
    assert first.family == family
    assert next(iter(first.contenders)) == harness.OURS
    assert first.bytes_moved > 0
    harness.check(first)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_command_line(tmp_path: Path) -> None:
    done = command("pair_score", "--quick", "--case", "^pair_score .*C=10$", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "torch.compile" in done.stdout
    lines = results.read_csv(tmp_path / "pair_score-cpu.csv")
    assert {line["contender"] for line in lines} == {"lada_ext", "eager", "torch.compile"}
    assert {line["case"] for line in lines} == {"pair_score P=20000 N=5 C=10"}


def test_an_unknown_family_is_refused() -> None:
    done = command("no_such")
    assert done.returncode == 2
    assert "no family no_such; there are affine_sample, beta_mix" in done.stderr
