"""Run folders as plain data: what every figure and table of the report is made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lada_al.data import NAMES
from lada_al.errors import UsageError
from lada_al.events import Bought, Event, Trained
from lada_al.files import read_json
from lada_al.run import journal, latent
from lada_al.run.config import Config
from lada_al.run.folder import ABOUT, JOURNAL, read_config
from lada_al.run.in_use import in_use

# Settings that replications of a method have in common.
DECIDING = [
    name for name in Config.model_fields if name not in {"seed", "data", "device", "threads", "rounds", "schedule"}
]

# Of these, what does not matter to one method against another: a preset only fills in others.
NOT_BETWEEN_METHODS = {"method", "preset", "headline"}


@dataclass(frozen=True)
class Run:
    """One run, finished or not."""

    folder: Path
    config: Config
    classes: list[str]
    parameters: int
    """Of the networks that the method adds to the classifier, as Table 1 counts them."""
    bought: list[Bought]
    trained: list[Trained]

    @property
    def labelled(self) -> list[int]:
        return [event.labelled for event in self.trained]

    @property
    def accuracies(self) -> list[float]:
        return [event.accuracy for event in self.trained]

    def accuracy_at(self, labels: int) -> float | None:
        """Accuracy of the round with this many labels, if there is one."""
        return dict(zip(self.labelled, self.accuracies, strict=True)).get(labels)

    @property
    def headline(self) -> float:
        """The accuracy that tables show, by the run's own rule."""
        return max(self.accuracies) if self.config.headline == "best" else self.accuracies[-1]

    @property
    def aubc(self) -> float:
        """Area under the budget curve: mean accuracy over the labels bought, by the trapezoidal rule."""
        return self.aubc_of(len(self.trained))

    def aubc_of(self, rounds: int) -> float:
        """The same over the first `rounds` budgets."""
        labels, accuracies = np.array(self.labelled[:rounds], float), np.array(self.accuracies[:rounds])
        if len(labels) == 1:
            return float(accuracies[0])
        widths = np.diff(labels)
        return float((widths * (accuracies[1:] + accuracies[:-1]) / 2).sum() / widths.sum())

    def latent(self) -> dict[str, np.ndarray] | None:
        """What latent.npz holds, of a run that is finished."""
        path = self.folder / latent.LATENT
        return latent.load(path) if path.exists() else None

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
        UsageError: there is no run; or runs of a method are no replications, since two have one seed, or other
            settings.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    runs = [run for path in folder.rglob(JOURNAL) if (run := read_run(path.parent)) is not None]
    if not runs:
        raise UsageError(f"{folder} holds no run that has trained yet")
    runs.sort(key=lambda run: (run.config.method, run.config.seed, run.folder))
    for of_dataset in by_dataset(runs).values():
        for replications in by_method(of_dataset).values():
            _check_replications(replications)
    return runs


def _check_replications(runs: list[Run]) -> None:
    """Runs of one method on one data set are to differ in their seeds, and in nothing else that decides the result."""
    first, seeds = runs[0], dict[int, Run]()
    for run in runs:
        other = seeds.setdefault(run.config.seed, run)
        if other is not run:
            raise UsageError(
                f"two runs are of {run.config.method} with seed {run.config.seed}, and so no replications: "
                f"{other.folder} and {run.folder}; report a folder that holds one of them"
            )
        differing = next(_differing(first, run), None)
        if differing is not None:
            values = " and ".join(f"{getattr(one.config, differing)} in {one.folder}" for one in (first, run))
            raise UsageError(
                f"two runs of {run.config.method} are no replications, since {differing} is {values}; "
                "report a folder that holds one of them"
            )


def _differing(a: Run, b: Run) -> Iterator[str]:
    """Settings that decide the results of both, and are not the same."""
    deciding = [*DECIDING, "data"] if a.config.dataset == "own" else DECIDING
    both = in_use(a.config) & in_use(b.config)
    return (name for name in deciding if name in both and getattr(a.config, name) != getattr(b.config, name))


def alike(a: Run, b: Run) -> bool:
    """Whether two runs on one data set differ in nothing that matters to both but their methods and seeds, so that
    methods can be tested."""
    return set(_differing(a, b)) <= NOT_BETWEEN_METHODS


def unlike_settings(runs: list[Run]) -> list[str]:
    """What keeps methods on one data set from being tested: "epochs is 3 for entropy and 50 for random"."""
    of_each = {name: group[0] for name, group in by_method(runs).items()}
    names = {name for a in of_each.values() for b in of_each.values() for name in _differing(a, b)}
    found = []
    for name in sorted(names - NOT_BETWEEN_METHODS):
        methods: dict[str, list[str]] = {}
        for method, run in ((method, run) for method, run in of_each.items() if name in in_use(run.config)):
            methods.setdefault(str(getattr(run.config, name)), []).append(method)
        found.append(f"{name} is " + " and ".join(f"{value} for {', '.join(of)}" for value, of in methods.items()))
    return found


def read_run(folder: Path) -> Run | None:
    """The run in a folder, or None before its first training."""
    events = journal.read(folder / JOURNAL)
    trained = [event for event in events if isinstance(event, Trained)]
    if not trained:
        return None
    about = read_json(folder / ABOUT)
    if not isinstance(about.get("classes"), list):
        raise UsageError(f"{folder / ABOUT} is damaged: classes must be a list of names, got {about.get('classes')!r}")
    return Run(
        folder=folder,
        config=read_config(folder),
        classes=about["classes"],
        parameters=about.get("auxiliary_parameters", 0),
        bought=[event for event in events if isinstance(event, Bought)],
        trained=trained,
    )


def by_method(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs of each method; methods in the order of the paper's argument: plain, pipelines, look-ahead."""
    names = sorted({run.config.method for run in runs}, key=_order)
    return {name: [run for run in runs if run.config.method == name] for name in names}


def furthest_runs(group: list[Run]) -> list[Run]:
    """Of one method's runs, those with the budgets of the run that has the most labels."""
    most = max(group, key=lambda run: run.labelled[-1])
    return [run for run in group if run.labelled == most.labelled]


def by_dataset(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs of each data set, in the order of data.NAMES."""
    names = [name for name in NAMES if any(run.config.dataset == name for run in runs)]
    return {name: [run for run in runs if run.config.dataset == name] for name in names}


def _order(name: str) -> tuple[int, str]:
    if name == "random":
        return 0, name
    return (3 if name.startswith("lada-") else 2 if "+" in name else 1), name.replace("-fixed", " fixed")
