"""One benchmark for CPU and GPU: what a case is, and how it is measured.

A case is checked against the reference before anything is timed. Its contenders are warmed up and then run in turn,
with a plain copy in every round, so that a slow phase of the machine meets all of them; ratios and the fraction of the
copy's bandwidth are taken round by round, and their spread is reported beside their median. A turn begins with a call
that is not timed: what is measured is a function that is called again and again, not what its neighbour left in the
caches.

`bench/bench_<family>.py` offers ``cases(device)``; `python -m bench` runs them.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch._dynamo.exc import TorchDynamoException

from bench.timing import Clock, Plan, clock_of

FOLDER = Path(__file__).parent
OURS = "lada_ext"
COMPILED = "torch.compile"


@dataclass(frozen=True)
class Case:
    """One op at one size.

    `contenders` do the same work, the first is ours ("lada_ext"), the others "eager", "torch.compile" or a named peer.
    `check` raises AssertionError unless the results are right. `bytes_moved` is what any implementation has to read and
    write at least once: inputs and outputs. A peer that is not installed raises ImportError when it is called.
    """

    family: str
    name: str
    contenders: Mapping[str, Callable[[], object]]
    check: Callable[[], None]
    bytes_moved: int


@dataclass(frozen=True)
class Effort:
    """How long a case is measured: seconds aimed at, and between how many rounds.

    A peer that has taken `patience` seconds in the rounds sits out the rest of them.
    """

    seconds: float
    fewest: int
    most: int
    patience: float = 30.0


THOROUGH = Effort(seconds=4.0, fewest=11, most=101)
QUICK = Effort(seconds=0.5, fewest=3, most=15, patience=5.0)
SLOW_SECONDS = 2.0  # a call that takes longer is not repeated to warm up or to see its memory


@dataclass(frozen=True)
class Spread:
    """Median and 20th and 80th percentile of the rounds."""

    median: float
    p20: float
    p80: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        fifths = statistics.quantiles(values, n=5, method="inclusive") if len(values) > 1 else [values[0]] * 4
        return Spread(statistics.median(values), fifths[0], fifths[3])


@dataclass(frozen=True)
class Result:
    """A contender of a case. What could not be measured is None; `note` then says why.

    `seconds` is the time of a call: on the CPU the wall clock's, on CUDA the device's, while `host_seconds` is what
    queueing the call took. `ratio` is how many times longer it took than ours; `peak_bytes` is the most memory a call
    held beside its inputs; `floor_seconds` is the time of copying `bytes_moved`, and `copy_fraction` how near it came.
    `kernels` are those of the library that a call of ours launches, on CUDA.
    """

    family: str
    case: str
    contender: str
    seconds: Spread | None
    ratio: Spread | None
    host_seconds: float | None
    peak_bytes: int | None
    bytes_moved: int
    floor_seconds: float | None
    copy_fraction: float | None
    rounds: int
    note: str = ""
    kernels: tuple[str, ...] = ()


class WrongResultError(Exception):
    """A case whose check failed: its speed means nothing."""


@dataclass
class _Lane:
    """A contender on its way through the rounds."""

    function: Callable[[], object]
    plan: Plan
    seconds: list[float] = field(default_factory=list)
    host_seconds: list[float] = field(default_factory=list)


def families() -> list[str]:
    """Every family with a file of cases."""
    return sorted(p.stem.removeprefix("bench_") for p in FOLDER.glob("bench_*.py") if p.stem != "bench_ops")


def cases(family: str, device: str) -> Iterator[Case]:
    """The cases of a family, made one at a time: the inputs of a case live as long as the case."""
    return importlib.import_module(f"bench.bench_{family}").cases(device)


def measure(case: Case, device: str, effort: Effort = THOROUGH) -> list[Result]:
    """Checks and times a case, ours first.

    Raises:
        WrongResultError: the check failed; nothing was timed.
    """
    check(case)
    clock = clock_of(device)
    torch.compiler.reset()  # sizes of another case must not make a compiled contender a dynamic one
    notes, peaks, plans = _warm_up(case, clock)
    kernels = tuple(sorted(clock.kernels(case.contenders[OURS])))
    lanes = {name: _Lane(case.contenders[name], plan) for name, plan in plans.items()}
    copies = _race(lanes, clock, effort)
    measured = [
        _result(case, name, lanes, copies, clock, notes.get(name, ""), peaks.get(name)) for name in case.contenders
    ]
    return [replace(measured[0], kernels=kernels), *measured[1:]]


def check(case: Case) -> None:
    """Raises WrongResultError unless the case's results are right."""
    if next(iter(case.contenders)) != OURS:
        raise ValueError(f"{case.family}, {case.name}: the first contender must be {OURS!r}, got {[*case.contenders]}")
    try:
        case.check()
    except AssertionError as error:
        raise WrongResultError(f"{case.family}, {case.name}: {error}") from error


def cannot_run(error: Exception) -> str | None:
    """Why a peer cannot run here, on one line, or None if the error is not of that kind."""
    reasons = {
        ImportError: "not installed",
        TorchDynamoException: "does not compile here",
        torch.OutOfMemoryError: "out of memory",
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return f"{reason}: {' '.join(str(error).split())[:160]}"
    return None


def _warm_up(case: Case, clock: Clock) -> tuple[dict[str, str], dict[str, int | None], dict[str, Plan]]:
    """Why contenders cannot run here, and the peak memory and plan of those that can."""
    notes: dict[str, str] = {}
    peaks: dict[str, int | None] = {}
    plans: dict[str, Plan] = {}
    for name, function in case.contenders.items():
        try:
            if name == COMPILED:
                function()  # it compiles at the first call
            seconds = max(clock.sample(function, Plan(1, 0.0)))
            plans[name] = Plan(1, seconds)
            if seconds > SLOW_SECONDS:
                continue
            for _ in range(2):
                function()
            peaks[name] = clock.peak_bytes(function)
        except Exception as error:
            reason = cannot_run(error)
            if name == OURS or reason is None:
                raise
            notes[name] = reason
    for name in peaks:  # after all of them, since seeing peaks takes warm memory away
        plans[name] = clock.plan(case.contenders[name])
    return notes, peaks, plans


def _race(lanes: dict[str, _Lane], clock: Clock, effort: Effort) -> list[float]:
    """Fills the lanes in turn, and returns the copy's bytes a second in each round."""
    copies: list[float] = []
    spent = 0.0
    while len(copies) < effort.fewest or (len(copies) < effort.most and spent < effort.seconds):
        copies.append(clock.copy_bandwidth())
        for lane in lanes.values():
            if lane is not lanes[OURS] and sum(lane.seconds) * lane.plan.calls > effort.patience:
                continue
            calls = lane.plan.calls
            if lane.plan.host_seconds < SLOW_SECONDS:
                lane.function()
                calls += 1
            seconds, host_seconds = clock.sample(lane.function, lane.plan)
            lane.seconds.append(seconds)
            lane.host_seconds.append(host_seconds)
            spent += calls * max(seconds, host_seconds)
    return copies


def _result(
    case: Case, name: str, lanes: dict[str, _Lane], copies: list[float], clock: Clock, note: str, peak: int | None
) -> Result:
    lane, ours = lanes.get(name), lanes[OURS]
    floor = case.bytes_moved / statistics.median(copies)
    if lane is None:
        return Result(case.family, case.name, name, None, None, None, None, case.bytes_moved, floor, None, 0, note)
    ratios = [theirs / mine for theirs, mine in zip(lane.seconds, ours.seconds, strict=False)]
    fractions = [case.bytes_moved / s / copy for s, copy in zip(lane.seconds, copies, strict=False)]
    return Result(
        family=case.family,
        case=case.name,
        contender=name,
        seconds=Spread.of(lane.seconds),
        ratio=Spread.of(ratios),
        host_seconds=statistics.median(lane.host_seconds) if clock.device_has_a_queue else None,
        peak_bytes=peak,
        bytes_moved=case.bytes_moved,
        floor_seconds=floor,
        copy_fraction=statistics.median(fractions),
        rounds=len(lane.seconds),
    )
