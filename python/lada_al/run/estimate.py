"""How long runs will take: from what their method took so far, or from one short round of it, made for the purpose."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from lada_al.events import Bought, Event, Trained
from lada_al.run import experiment, journal
from lada_al.run.compare import Job
from lada_al.run.config import Config
from lada_al.run.folder import JOURNAL
from lada_al.timing import Meter, NoMeter

PROBE_EPOCHS = 3


def seconds_left(jobs: list[Job], meter: Meter | None = None) -> float:
    """Seconds that all rounds still to be done would take one after another; the meter shows the short rounds."""
    known: dict[str, Pace] = {}
    for job in jobs:
        events = journal.read(job.folder / JOURNAL)
        if _has_a_round(events):
            known.setdefault(job.config.method, Pace(events, job.config.epochs))
    unknown: dict[str, Config] = {}
    for job in jobs:
        if job.config.method not in known:
            unknown.setdefault(job.config.method, job.config)
    for config in (meter or NoMeter()).track("a short round of each method", list(unknown.values())):
        known[config.method] = _probe(config)
    return sum(
        known[job.config.method].seconds(job.config, range(job.rounds_done, job.config.rounds + 1)) for job in jobs
    )


class Pace:
    """Seconds of acquisition and evaluation a round, and of training a label and epoch, from events of a run."""

    def __init__(self, events: Iterable[Event], epochs: int) -> None:
        events = [event for event in events if event.round > 0]
        bought = [event for event in events if isinstance(event, Bought)]
        trained = [event for event in events if isinstance(event, Trained)]
        self.acquisition = sum(sum(event.seconds.values()) for event in bought) / max(1, len(bought))
        self.evaluation = sum(event.seconds["evaluate"] for event in trained) / max(1, len(trained))
        shown = sum(event.labelled for event in trained) * epochs
        self.training = sum(event.seconds["train"] for event in trained) / max(1, shown)

    def seconds(self, config: Config, rounds: range) -> float:
        labels = [config.initial + sum(config.labels_of(i) for i in range(1, r + 1)) for r in rounds]
        training = self.training * config.epochs * sum(labels)
        return training + self.evaluation * len(rounds) + self.acquisition * sum(r > 0 for r in rounds)


def _probe(config: Config) -> Pace:
    """One round with few epochs, in a folder that is thrown away."""
    epochs = min(config.epochs, PROBE_EPOCHS)
    changes = {"rounds": min(config.rounds, 1), "schedule": config.schedule[:1], "epochs": epochs}
    with tempfile.TemporaryDirectory() as folder:
        short = Config(**{**config.model_dump(), **changes})
        return Pace(experiment.run_experiment(short, Path(folder)), epochs)


def _has_a_round(events: list[Event]) -> bool:
    return any(isinstance(event, Trained) and event.round > 0 for event in events)


def in_words(seconds: float) -> str:
    """'40 s', '12 min', '3 h 5 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
