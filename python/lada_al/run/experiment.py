"""One run, from a configuration to the end of its folder. Killed, it goes on.

`run_experiment` yields each event of the loop after it is on disk; run/folder.py says in which order it gets there.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from lada_al.data import Dataset
from lada_al.device import find_device
from lada_al.errors import UsageError, refuse_divergence
from lada_al.events import Bought, Event, Trained
from lada_al.keys import Keys
from lada_al.loop import Fit, HeldOut, active_learning, balanced_choice, fit_alone
from lada_al.pool import Pool, simulated_oracle
from lada_al.ranks import gpu_each, ours
from lada_al.run.arithmetic import arithmetic
from lada_al.run.build import load_data, make_learner, make_net, make_parts
from lada_al.run.config import Config
from lada_al.run.folder import CONFIG, NoFolder, opened, read_config, refuse_other_data, refuse_other_run
from lada_al.timing import Meter


def run_experiment(
    config: Config, out: Path | str, *, resume: bool = False, meter: Meter | None = None, fit: Fit = fit_alone
) -> Iterator[Event]:
    """Carries out `config` in the folder `out`, yielding each event once it is on disk.

    Where several processes train together, each iterates; `out` is the first's alone. Between two events, torch's
    settings are as the caller has them.

    Raises:
        UsageError: before anything is written, if the configuration, the data or the folder cannot be used; later, if
            training diverges.
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

    writing = opened(out, config, dataset, device, learner) if ours().is_first else nullcontext(NoFolder())
    with writing as folder:
        past = ours().of_first(folder.past())
        if past.learner is not None:
            learner.load_state_dict(past.learner)
        known = {event.round: event for event in past.events if isinstance(event, Bought)}
        trained = {event.round for event in past.events if isinstance(event, Trained)}
        for purchase in known.values():
            if purchase.round < past.next_round:
                pool.add(purchase.ids, purchase.labels)
        yield from past.events
        loop = active_learning(
            learner, pool, simulated_oracle(dataset), test, config, keys, first_ids,
            start=past.next_round, known=known, meter=meter, fit=fit,
        )  # fmt: skip
        for event in loop:
            if isinstance(event, Trained):
                refuse_divergence(event.loss, config.lr)
            folder.keep(event, learner)
            if isinstance(event, Trained) and event.round in trained:
                continue  # trained again, because its checkpoint was lost
            yield event
        folder.finish(learner, pool)


def check(config: Config, out: Path, *, resume: bool, download: bool = False) -> Dataset:
    """Refuses, before anything is written, whatever would stop the run later; returns the data set.

    Raises:
        UsageError: naming the argument, what was expected and what came.
    """
    if ours().is_first:
        refuse_other_run(config, out, resume)
    _check_ranks(config, find_device(config.device))
    dataset = load_data(config, download)
    net = make_net(config, dataset)
    if ours().is_first and resume:
        refuse_other_data(dataset, out)
    config.check_fits(len(dataset.train_images), len(dataset.classes), net.shapes(dataset.shape), net.mixing_layers())
    make_parts(config, dataset, net)
    return dataset


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


def settings_begun(out: Path, resume: bool) -> dict[str, Any]:
    """The settings of the run that is to be resumed in a folder; none if there is none."""
    return read_config(out).model_dump() if resume and (out / CONFIG).exists() else {}
