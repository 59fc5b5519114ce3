"""One run in one folder: config.json, about.json, rounds.jsonl, checkpoint.pt, acquired/*.png, latent.npz.

Killed, it goes on. `run_experiment` yields each event of the loop after it is on disk. The order of writes makes that
safe: a purchase is in the journal before it is trained on; a checkpoint is on disk before the journal says that its
round is trained, and carries that line, so a crash between the two loses nothing.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError

import lada_ext
from lada_al import data, models, sizes
from lada_al.data import Dataset
from lada_al.errors import UsageError, first_line, one_line
from lada_al.events import Bought, Event, Trained
from lada_al.files import read_json, write_atomically, write_text
from lada_al.keys import Keys
from lada_al.loop import Fit, HeldOut, active_learning, balanced_choice, fit_alone
from lada_al.models import SplitModel
from lada_al.pool import Pool, simulated_oracle
from lada_al.ranks import gpu_each, ours, synchronise
from lada_al.run import checkpoint, latent
from lada_al.run.arithmetic import arithmetic
from lada_al.run.config import Config
from lada_al.run.journal import Journal
from lada_al.timing import Meter
from lada_al.train import Learner
from lada_al.train_pi import PiModel

CONFIG, ABOUT, JOURNAL = "config.json", "about.json", "rounds.jsonl"
CHECKPOINT, ACQUIRED = "checkpoint.pt", "acquired"
# What a resumed run may have otherwise than its first part.
MAY_CHANGE = {"rounds", "data", "device"}


def run_experiment(
    config: Config, out: Path | str, *, resume: bool = False, meter: Meter | None = None, fit: Fit = fit_alone
) -> Iterator[Event]:
    """Carries out `config` in the folder `out`, yielding each event once it is on disk.

    Where several processes train together, each iterates; `out` is the first's alone. Between two events, torch's
    settings are as the caller has them.

    Raises:
        UsageError: before anything is written, if the configuration, the data or the folder cannot be used.
    """
    with closing(_events(config, Path(out), resume=resume, meter=meter, fit=fit)) as events:
        while True:
            with arithmetic(config):
                event = next(events, None)
            if event is None:
                return
            yield event


def _events(config: Config, out: Path, *, resume: bool, meter: Meter | None, fit: Fit) -> Generator[Event, None, None]:
    """See run_experiment."""
    dataset = check(config, out, resume=resume)
    device = find_device(config.device)
    keys = Keys(config.seed)
    learner = make_learner(config, dataset, keys, device)
    pool = Pool(dataset, device)
    test_images = dataset.test_images.to(device, memory_format=torch.channels_last)
    test = HeldOut(pool.normalised(test_images), dataset.test_labels.to(device))
    generator = keys.generator("initial set", 0)
    first_ids = balanced_choice(dataset.train_labels, len(dataset.classes), config.initial, generator)

    first = ours().is_first
    if first:
        out.mkdir(parents=True, exist_ok=True)
    with Journal(out / JOURNAL) if first else nullcontext() as journal:
        if journal is not None:
            write_text(out / CONFIG, config.model_dump_json(indent=2) + "\n")
            write_text(out / ABOUT, json.dumps(_about(config, dataset, device, learner), indent=2) + "\n")
            (out / ACQUIRED).mkdir(exist_ok=True)
        start, events, state = ours().of_first((0, [], None) if journal is None else _restore(journal, out))
        if state is not None:
            learner.load_state_dict(state)
        known = {event.round: event for event in events if isinstance(event, Bought)}
        trained = {event.round for event in events if isinstance(event, Trained)}
        for purchase in known.values():
            if purchase.round < start:
                pool.add(purchase.ids, purchase.labels)
        yield from events
        loop = active_learning(
            learner, pool, simulated_oracle(dataset), test, config, keys, first_ids,
            start=start, known=known, meter=meter, fit=fit,
        )  # fmt: skip
        for event in loop:
            if isinstance(event, Trained) and journal is not None:
                checkpoint.save(out / CHECKPOINT, event, learner.state_dict())
            if isinstance(event, Trained) and event.round in trained:
                continue  # trained again, because its checkpoint was lost
            if journal is not None:
                if isinstance(event, Bought):
                    _save_images(out / ACQUIRED / f"{event.round:04d}.png", dataset, event)
                journal.append(event)
            yield event
        if journal is not None and (not (out / latent.LATENT).exists() or start <= config.rounds):
            purchases = [event for event in journal.events if isinstance(event, Bought)]
            latent.save(out / latent.LATENT, learner, pool, purchases, config)


def check(config: Config, out: Path, *, resume: bool, download: bool = False) -> Dataset:
    """Refuses, before anything is written, whatever would stop the run later; returns the data set.

    Raises:
        UsageError: naming the argument, what was expected and what came.
    """
    if ours().is_first:
        _check_folder(config, out, resume)
    _check_ranks(config, find_device(config.device))
    dataset = load_data(config, download)
    net = make_net(config, dataset)
    if ours().is_first and resume:
        _check_data(dataset, out)
    config.check_fits(len(dataset.train_images), len(dataset.classes), net.shapes(dataset.shape), net.mixing_layers())
    return dataset


def _check_data(dataset: Dataset, out: Path) -> None:
    """Refuses other images than those that the run was begun with, as far as their number and colours tell."""
    if not (out / ABOUT).exists():
        return
    before = read_json(out / ABOUT)
    for name, now in json.loads(json.dumps(_about_data(dataset))).items():
        if before.get(name, now) != now:
            raise UsageError(f"--resume: {out} was begun with other data: {name} was {before[name]}, now {now}")


def _check_ranks(config: Config, device: torch.device) -> None:
    """Refuses what several processes cannot train as one does."""
    count, chosen, augmentation = ours().count, config.chosen, config.chosen.augmentation
    if count == 1:
        return
    if device.type == "cuda" and (device.index is not None or not gpu_each()):
        raise UsageError(
            f"under torchrun each process takes a GPU of its own: device must be auto, cuda or cpu, and processes at "
            f"most the {torch.cuda.device_count()} GPUs of a machine; got device {config.device}, {count} processes"
        )
    sizes = {"batch": config.batch}
    if chosen.learn:
        sizes["policy_batch"] = config.policy_batch
    if chosen.semi_supervised:
        sizes["pi_batch"] = config.pi_batch
    if augmentation is not None and config.rounds:
        bought = min(config.labels_of(r + 1) for r in range(config.rounds))
        sizes["query in pairs" if augmentation.arity == 2 else "query"] = bought // augmentation.arity
    for name, size in sizes.items():
        if size < count:
            raise UsageError(f"{name} must be at least the number of processes, {count}, got {size}")
    whole_batches = chosen.acquisition.dropout or (augmentation is not None and augmentation.whole_batches)
    mean_label = config.adamixup_mean_label and augmentation is not None and augmentation.name == "adamixup"
    if whole_batches or mean_label:
        what = "adamixup_mean_label" if mean_label else f"method {config.method}"
        raise UsageError(f"{what} draws or averages over whole batches, so it trains in one process, got {count}")
    if config.stale_gradient:
        raise UsageError(f"stale_gradient, of preset official, is for one process, got {count}")


def _check_folder(config: Config, out: Path, resume: bool) -> None:
    """Refuses a folder that holds something else than a part of this run."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: {out} is not a folder")
    if not out.exists() or all(path.name.startswith(".") for path in out.iterdir()):
        return  # a hidden file may be left of a first write that was cut short
    if not resume:
        raise UsageError(f"--out: {out} is not empty; add --resume to go on with the run in it")
    if not (out / CONFIG).exists():
        raise UsageError(f"--resume: {out} holds no {CONFIG}, so it is not the folder of a run")
    before, now = read_config(out).model_dump(), config.model_dump()
    different = [name for name in now if now[name] != before[name] and name not in MAY_CHANGE]
    if different:
        changes = ", ".join(f"{name} was {before[name]!r} and is {now[name]!r}" for name in different)
        raise UsageError(f"--resume: {out} was begun with other settings: {changes}")


def settings_begun(out: Path, resume: bool) -> dict[str, Any]:
    """The settings of the run that is to be resumed in a folder; none if there is none."""
    return read_config(out).model_dump() if resume and (out / CONFIG).exists() else {}


def read_config(out: Path) -> Config:
    """The configuration of the run in a folder."""
    try:
        return Config.model_validate_json((out / CONFIG).read_bytes())
    except ValidationError as error:
        raise UsageError(f"{out / CONFIG} is not the configuration of a run: {one_line(error)}") from error
    except OSError as error:
        raise UsageError(f"{out / CONFIG} is not the configuration of a run: {error}") from error


def load_data(config: Config, download: bool = False) -> Dataset:
    """The data set that the configuration names."""
    return _load_data(config.dataset, config.data, download, config.official_statistics, config.image_size)


@functools.lru_cache(maxsize=1)
def _load_data(name: str, folder: str | None, download: bool, official_statistics: bool, size: int | None) -> Dataset:
    return data.load(name, None if folder is None else Path(folder), download, official_statistics, size)


def find_device(name: str) -> torch.device:
    """The device of this name; `auto` is a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(f"device '{name}' cannot be used: {first_line(error)}") from error
    if device.type == "meta":
        raise UsageError(f"device '{name}' cannot be used: it holds no numbers; expected auto, cpu, cuda or cuda:N")
    return device


def make_learner(
    config: Config, dataset: Dataset, keys: Keys, device: torch.device, net: SplitModel | None = None
) -> Learner:
    """An untrained learner of the configuration's method, with the classifier `net` or the one it names."""
    chosen = config.chosen
    with keys.scope("network weights", 0):
        net = (net or make_net(config, dataset)).to(memory_format=torch.channels_last)
        f_acq = chosen.acquisition.make(config, dataset.task, net)
        f_aug = chosen.augmentation.make(config, dataset.task, net) if chosen.augmentation is not None else None
    net.shortcuts = not config.plain
    synchronise(net)
    learner = Learner(net, f_acq, f_aug, config, PiModel(config) if chosen.semi_supervised else None)
    learner.to(device)
    return learner


def make_net(config: Config, dataset: Dataset) -> SplitModel:
    """The classifier that the configuration names, with dropout where the acquisition samples it."""
    channels, height, width = dataset.shape
    dropout = config.dropout if config.chosen.acquisition.dropout else 0.0
    return models.MODELS[config.model](channels, (height, width), len(dataset.classes), dropout)


def _restore(journal: Journal, out: Path) -> tuple[int, list[Event], dict[str, Any] | None]:
    """Brings the journal to where the checkpoint is; returns the round to go on with, what happened, and the state of
    the learner, on the CPU, if there is one."""
    saved = checkpoint.load(out / CHECKPOINT, torch.device("cpu"))
    if saved is None:
        return 0, list(journal.events), None
    done = saved.trained.round
    held = {(type(event), event.round) for event in journal.events} | {(Trained, done)}
    if any((kind, r) not in held for r in range(done + 1) for kind in (Bought, Trained)):
        raise UsageError(
            f"{out / JOURNAL} lacks rounds that {CHECKPOINT} was trained on; put it back, or remove {CHECKPOINT} to go "
            "on from what the journal still holds"
        )
    if not any(isinstance(event, Trained) and event.round == done for event in journal.events):
        journal.append(saved.trained)
    return done + 1, list(journal.events), saved.learner


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
