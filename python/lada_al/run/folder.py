"""A run's folder: config.json, about.json, rounds.jsonl, checkpoint.pt, acquired/*.png, latent.npz.

The order of writes is what lets a killed run go on: a purchase is in the journal before it is trained on; a checkpoint
is on disk before the journal says that its round is trained, and carries that line, so a crash between the two loses
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError

import lada_ext
from lada_al import sizes
from lada_al.data import Dataset
from lada_al.errors import UsageError, one_line
from lada_al.events import Bought, Event, Trained
from lada_al.files import read_json, write_atomically, write_text
from lada_al.pool import Pool
from lada_al.run import checkpoint, latent
from lada_al.run.config import Config
from lada_al.run.journal import Journal
from lada_al.train import Learner

CONFIG, ABOUT, JOURNAL = "config.json", "about.json", "rounds.jsonl"
CHECKPOINT, ACQUIRED = "checkpoint.pt", "acquired"
# What a resumed run may have otherwise than its first part.
MAY_CHANGE = {"rounds", "data", "device"}


@dataclass(frozen=True)
class Past:
    """What happened in a run so far, the round to go on with, and the state of the learner before it, on the CPU; where
    that is lost, the round is 0, and what was bought is trained on again."""

    events: list[Event]
    next_round: int = 0
    learner: dict[str, Any] | None = None


class NoFolder:
    """What the processes of a run keep that are not the first: nothing."""

    def past(self) -> Past:
        """Nothing of its own: the first process sends what is there."""
        return Past([])

    def keep(self, event: Event, learner: Learner) -> None:
        """Takes an event, and the learner as it is at that time."""

    def finish(self, learner: Learner, pool: Pool) -> None:
        """Takes what the last round left."""


class Folder(NoFolder):
    """The folder of a run while this process writes it; see `opened`."""

    def __init__(self, path: Path, config: Config, dataset: Dataset, journal: Journal) -> None:
        self.path, self.config, self.dataset, self.journal = path, config, dataset, journal
        self._latent_is_due = not (path / latent.LATENT).exists()

    def past(self) -> Past:
        """What happened so far; the journal is brought to where the checkpoint is.

        Raises:
            UsageError: the journal lacks rounds that the checkpoint was trained on.
        """
        journal, saved = self.journal, checkpoint.load(self.path / CHECKPOINT, torch.device("cpu"))
        if saved is None:
            return Past(list(journal.events))
        done = saved.trained.round
        if not all(journal.holds(Bought, r) and (r == done or journal.holds(Trained, r)) for r in range(done + 1)):
            raise UsageError(
                f"{journal.path} lacks rounds that {CHECKPOINT} was trained on; put it back, or remove {CHECKPOINT} to "
                "go on from what the journal still holds"
            )
        if not journal.holds(Trained, done):
            journal.append(saved.trained)
        return Past(list(journal.events), done + 1, saved.learner)

    def keep(self, event: Event, learner: Learner) -> None:
        """Returns when the event is on disk; one that the journal holds is of a round that is trained again."""
        if isinstance(event, Trained):
            checkpoint.save(self.path / CHECKPOINT, event, learner.state_dict())
            self._latent_is_due = True
        if self.journal.holds(type(event), event.round):
            return
        if isinstance(event, Bought):
            _save_images(self.path / ACQUIRED / f"{event.round:04d}.png", self.dataset, event)
        self.journal.append(event)

    def finish(self, learner: Learner, pool: Pool) -> None:
        """Writes what the last layer sees at the end, unless that is there and nothing was trained since."""
        if self._latent_is_due:
            bought = [event for event in self.journal.events if isinstance(event, Bought)]
            latent.save(self.path / latent.LATENT, learner, pool, bought, self.config)


@contextmanager
def opened(path: Path, config: Config, dataset: Dataset, device: torch.device, learner: Learner) -> Iterator[Folder]:
    """The folder of the run, made or gone on with, and locked until the end of the block.

    Raises:
        UsageError: another process writes it, or its journal is damaged.
    """
    path.mkdir(parents=True, exist_ok=True)
    with Journal(path / JOURNAL) as journal:
        write_text(path / CONFIG, config.model_dump_json(indent=2) + "\n")
        write_text(path / ABOUT, json.dumps(_about(config, dataset, device, learner), indent=2) + "\n")
        (path / ACQUIRED).mkdir(exist_ok=True)
        yield Folder(path, config, dataset, journal)


def refuse_other_run(config: Config, out: Path, resume: bool) -> None:
    """Refuses a folder that holds something else than a part of this run."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: {out} is not a folder")
    if not out.exists() or _is_unbegun(out):
        return
    if not resume:
        raise UsageError(f"--out: {out} is not empty; add --resume to go on with the run in it")
    if not (out / CONFIG).exists():
        raise UsageError(f"--resume: {out} holds no {CONFIG}, so it is not the folder of a run")
    refuse_changes(read_config(out), config, out)


def _is_unbegun(out: Path) -> bool:
    """Whether a folder holds no more than what a run leaves that is killed before its configuration is written: the
    journal that locks it, which is empty then, and hidden files of a write that was cut short."""
    left = [path for path in out.iterdir() if not path.name.startswith(".")]
    return all(path.name == JOURNAL and path.is_file() and path.stat().st_size == 0 for path in left)


def refuse_changes(before: Config, now: Config, at: Path) -> None:
    """Refuses to go on, in the folder `at`, with other settings than those it was begun with."""
    then, today = before.model_dump(), now.model_dump()
    different = [name for name in today if today[name] != then[name] and name not in MAY_CHANGE]
    if different:
        changes = ", ".join(f"{name} was {then[name]!r} and is {today[name]!r}" for name in different)
        raise UsageError(f"--resume: {at} was begun with other settings: {changes}")


def refuse_other_data(dataset: Dataset, out: Path) -> None:
    """Refuses other images than those that the run was begun with, as far as their number and colours tell."""
    if not (out / ABOUT).exists():
        return
    before = read_json(out / ABOUT)
    for name, now in json.loads(json.dumps(_about_data(dataset))).items():
        if before.get(name, now) != now:
            raise UsageError(f"--resume: {out} was begun with other data: {name} was {before[name]}, now {now}")


def read_config(out: Path) -> Config:
    """The configuration of the run in a folder."""
    try:
        return Config.model_validate_json((out / CONFIG).read_bytes())
    except ValidationError as error:
        raise UsageError(f"{out / CONFIG} is not the configuration of a run: {one_line(error)}") from error
    except OSError as error:
        raise UsageError(f"{out / CONFIG} is not the configuration of a run: {error}") from error


def _about_data(dataset: Dataset) -> dict[str, Any]:
    return {
        "classes": dataset.classes,
        "pool": len(dataset.train_images),
        "test": len(dataset.test_images),
        "mean": dataset.mean,
        "std": dataset.std,
    }


def _about(config: Config, dataset: Dataset, device: torch.device, learner: Learner) -> dict[str, Any]:
    """What a reader of the folder may want to know and the configuration does not say."""
    return {
        **_about_data(dataset),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "auxiliary_parameters": sizes.in_table(sizes.networks(config, dataset.task)),
        "note": learner.f_aug.note if learner.f_aug is not None else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lada_ext": lada_ext.__version__,
    }


def _save_images(path: Path, dataset: Dataset, bought: Bought) -> None:
    """The bought images side by side, lossless."""
    strip = torch.cat(list(dataset.train_images[torch.tensor(bought.ids)]), dim=2).permute(1, 2, 0).numpy()
    image = Image.fromarray(np.ascontiguousarray(strip.squeeze(2) if strip.shape[2] == 1 else strip))
    write_atomically(path, lambda file: image.save(file, format="PNG"))
