"""Run folders as plain data: what every figure and table of the report is made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lada_al.errors import UsageError
from lada_al.events import Bought, Event, Trained
from lada_al.run import experiment, journal
from lada_al.run.config import Config


@dataclass(frozen=True)
class Run:
    """One run, finished or not."""

    folder: Path
    config: Config
    classes: list[str]
    bought: list[Bought]
    trained: list[Trained]

    @property
    def labelled(self) -> list[int]:
        return [event.labelled for event in self.trained]

    @property
    def accuracies(self) -> list[float]:
        return [event.accuracy for event in self.trained]

    @property
    def headline(self) -> float:
        """The accuracy that tables show, by the run's own rule."""
        return max(self.accuracies) if self.config.headline == "best" else self.accuracies[-1]

    @property
    def is_finished(self) -> bool:
        return len(self.trained) == self.config.rounds + 1

    def seconds(self) -> dict[str, float]:
        """Mean seconds of each phase of a round; the initial round, which buys at random, does not count."""
        events: list[Event] = [*self.bought, *self.trained]
        rounds = [event for event in events if event.round > 0]
        last = max((event.round for event in self.trained), default=0)
        phases = {phase for event in rounds for phase in event.seconds}
        return {
            phase: sum(event.seconds.get(phase, 0.0) for event in rounds if event.round <= last) / last
            for phase in sorted(phases)
            if last > 0
        }


def find_runs(folder: Path) -> list[Run]:
    """All runs in or below a folder that have trained, in the order of their methods and seeds.

    Raises:
        UsageError: there is no run.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    runs = [run for path in folder.rglob(experiment.JOURNAL) if (run := read_run(path.parent)) is not None]
    if not runs:
        raise UsageError(f"{folder} holds no run that has trained yet")
    return sorted(runs, key=lambda run: (run.config.method, run.config.seed))


def read_run(folder: Path) -> Run | None:
    """The run in a folder, or None before its first training."""
    events = journal.read(folder / experiment.JOURNAL)
    trained = [event for event in events if isinstance(event, Trained)]
    if not trained:
        return None
    return Run(
        folder=folder,
        config=experiment.read_config(folder),
        classes=json.loads((folder / experiment.ABOUT).read_text())["classes"],
        bought=[event for event in events if isinstance(event, Bought)],
        trained=trained,
    )


def by_method(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs of each method; methods in the order of the paper's argument: plain, pipelines, look-ahead."""
    names = sorted({run.config.method for run in runs}, key=_order)
    return {name: [run for run in runs if run.config.method == name] for name in names}


def _order(name: str) -> tuple[int, str]:
    if name == "random":
        return 0, name
    return (3 if name.startswith("lada-") else 2 if "+" in name else 1), name.replace("-fixed", " fixed")
