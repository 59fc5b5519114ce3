"""Progress on the terminal: rounds done, the phase at hand, time left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lada_al.events import Event, Trained
from lada_al.run.compare import Job

T = TypeVar("T")


class _Bars:
    """Bars that are on the terminal inside a with statement."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


class PhaseProgress(_Bars):
    """A bar over the steps of the phase at hand, from the first on that has any."""

    _phase: TaskID | None = None

    def track(self, phase: str, steps: Sequence[T]) -> Iterable[T]:
        if len(steps) == 0:
            return
        if self._phase is None:
            self._phase = self._bars.add_task(phase, total=len(steps))
        bar = self._phase
        self._bars.reset(bar, description=phase, total=len(steps))
        for step in steps:
            yield step
            self._bars.advance(bar)


class RunProgress(PhaseProgress):
    """A second bar over the rounds, and a line for each round. It is the meter of the loop."""

    def __init__(self, console: Console, rounds: int) -> None:
        super().__init__(console)
        self._rounds = self._bars.add_task("rounds", total=rounds + 1)

    def show(self, event: Event) -> None:
        if isinstance(event, Trained):
            self._bars.update(self._rounds, completed=event.round + 1)
            self._bars.console.print(
                f"round {event.round:3d}: {event.labelled} labels, accuracy {100 * event.accuracy:.2f}%"
            )


class CompareProgress(_Bars):
    """A bar over the rounds of all runs, and a line for each run that ended."""

    def __init__(self, console: Console, jobs: list[Job]) -> None:
        super().__init__(console)
        self._jobs = jobs
        self._rounds = self._bars.add_task("rounds of all runs", total=sum(job.config.rounds + 1 for job in jobs))

    def show(self, ended: list[Job]) -> int:
        """Returns the number of rounds done by all runs."""
        done = sum(job.rounds_done for job in self._jobs)
        self._bars.update(self._rounds, completed=done)
        for job in ended:
            self._bars.console.print(f"finished: {job.name}")
        return done
