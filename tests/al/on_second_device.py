"""What test_second_device.py starts: `on_second_device.py OUT DATA` does everything on the CPU and on the second device.

OUT becomes a JSON file: for each experiment its result on both, or the error.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import second_device
import test_active
import torch
from lada_al import Config, methods, replay, run_experiment
from lada_al.events import Event
from lada_al.load_model import Loaded
from lada_al.models import small
from lada_al.pools import open_pool
from lada_al.run import together
from lada_al.score.images import ImageScores
from lada_al.score.selection import select
from tiny import TINY_SETTINGS
from torch import Tensor

from lada_ext.nn import ConvReluPool

SETTINGS = {**TINY_SETTINGS, "rounds": 1, "epochs": 2, "policy_epochs": 1}
MORE_METHODS = ["cal+none", "lada-cal-stn", "lada-bald-mix", "lada-ent-adamixup", "vaal+autoaugment"]
RUNS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in [*methods.expand("all"), *MORE_METHODS]},
    "all pairs": {"pairs": "all", "layers": [2]},
    "all pairs, diverse": {"method": "lada-ent-mix-fixed", "pairs": "all", "layers": [2], "selection": "diverse"},
    "diverse": {"selection": "diverse"},
    "diverse images": {"method": "lada-ent-stn", "selection": "diverse"},
    "paper": {"preset": "paper"},
    "official": {"preset": "official"},
    "official AdaMixup": {"preset": "official", "method": "ent+adamixup"},
    "plain": {"plain": True},
    "resnet18": {"preset": "paper", "model": "resnet18", "epochs": 1},
    "random crop": {"dataset": "cifar10"},
    "random crop, pi": {"dataset": "cifar10", "method": "pi+entropy"},
}
STACKED: dict[str, dict[str, Any]] = {
    "stacked": {},
    "stacked, images": {"method": "lada-ent-stn"},
    "stacked, official": {"preset": "official"},
}


def told(event: Event) -> dict[str, Any]:
    """All of an event but how long it took."""
    return {name: value for name, value in asdict(event).items() if name != "seconds"}


def run(changes: dict[str, Any], data: str, out: Path, device: str) -> list[Any]:
    config = Config(**{**SETTINGS, "data": data, "device": device, **changes})
    return [told(event) for event in run_experiment(config, out)]


def resumed(data: str, out: Path, device: str) -> list[Any]:
    settings = {**SETTINGS, "preset": "paper", "data": data, "device": device}
    for _ in run_experiment(Config(**settings), out):
        pass
    return [told(event) for event in run_experiment(Config(**{**settings, "rounds": 2}), out, resume=True)]


def stacked(changes: dict[str, Any], data: str, out: Path, device: str) -> list[Any]:
    """Two seeds, whose training is done together."""
    all_events: list[list[Event]] = [[], []]
    fit = together.Together(2)

    def kept(seed: int) -> Any:
        config = Config(**{**SETTINGS, "data": data, "device": device, "seed": seed, **changes})
        for event in run_experiment(config, out / str(seed), fit=fit.fit):
            all_events[seed].append(event)
            yield event

    fit.carry_out([kept(seed) for seed in range(2)])
    return [told(event) for events in all_events for event in events]


def recorded(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """A stand-in for `replay.record`: each replay runs the step, as one that is recorded."""

    def replay() -> Tensor:
        with second_device.recording():
            return step()

    return replay


def replayed(experiment: Callable[..., list[Any]], changes: dict[str, Any], data: str, out: Path, device: str) -> Any:
    """With steps of training that are launched on the CPU, and replayed on the device."""
    changes = {"epochs": replay.WARM + 2, "batch": 5, **changes}
    if device == "cpu":
        return experiment(changes, data, out, device)
    recordings = mock.Mock(side_effect=recorded)
    with (
        mock.patch.object(replay, "can_record", return_value=True),
        mock.patch.object(replay, "record", recordings),
        warnings.catch_warnings(action="error", category=replay.ReplayWarning),
    ):
        found = experiment(changes, data, out, device)
    assert recordings.call_count == 3
    return found


def asked_and_told(data: str, out: Path, device: str) -> list[Any]:
    """An ActiveLearner's questions, and what it makes of the answers after it was saved and loaded."""
    del data
    active = test_active.learner(device=device, epochs=2)
    asked = []
    for _ in range(3):
        ids = active.ask(6)
        asked.append(ids)
        active.tell(ids, test_active.truth(ids))
    active.fit().save(out)
    loaded = test_active.ActiveLearner.load(
        out, test_active.network(), test_active.Images(), spec=test_active.SPEC, device=device
    )
    return [*asked, loaded.predict_proba(["image 1", "image 2"]).tolist()]


def scores(method: str, data: str, out: Path, device: str) -> list[Any]:
    """Of a pool of images, by a network."""
    del data
    images = np.random.default_rng(0).integers(0, 256, (40, 20, 20), dtype=np.uint8)
    np.savez(out.with_suffix(".npz"), images=images)
    torch.manual_seed(0)
    model = Loaded(small(1, (20, 20), 5), test_active.SPEC)
    scorer = ImageScores(open_pool(out.with_suffix(".npz")), model, method, torch.device(device), 64, 0)
    return pa.concat_tables(scorer.shards([(0, 40)])).drop_columns(["error"]).to_pylist()


def selected(method: str, data: str, out: Path, device: str) -> list[str]:
    del data
    draw = np.random.default_rng(0).standard_normal
    arrays = {"features": draw((30, 6)), "logits": draw((30, 4)), "labelled": draw((3, 6))}
    np.savez(out.with_suffix(".npz"), **arrays)
    select(out.with_suffix(".npz"), method, 5, out, torch.device(device))
    return (out / "top.csv").read_text().splitlines()


# What is replayed in three shapes: the six labels of round 0, and in round 1 five, with virtual instances and without.
REPLAYED: dict[str, tuple[Callable[..., list[Any]], dict[str, Any]]] = {
    "mix": (run, {}),
    "mix, resnet18": (run, {"preset": "paper", "model": "resnet18"}),
    "images": (run, {"method": "lada-ent-stn"}),
    "AdaMixup": (run, {"method": "ent+adamixup"}),
    "random crop": (run, {"dataset": "cifar10"}),
    "stacked": (stacked, {}),
    "stacked, images": (stacked, {"method": "lada-ent-stn"}),
}

# Given the folder of the data, one for results and a device, returns what can be written as JSON.
EXPERIMENTS: dict[str, Callable[[str, Path, str], list[Any]]] = {
    **{name: partial(run, changes) for name, changes in RUNS.items()},
    "resumed": resumed,
    **{name: partial(stacked, changes) for name, changes in STACKED.items()},
    **{f"replayed, {name}": partial(replayed, *of_steps) for name, of_steps in REPLAYED.items()},
    "active learner": asked_and_told,
    **{f"scores, {name}": partial(scores, name) for name in ("entropy", "lada-ent-mix-fixed")},
    **{f"selection, {name}": partial(selected, name) for name in ("coreset", "badge")},
}


def main(results: Path, data: str) -> None:
    second_device.register()
    torch.set_num_threads(1)
    ConvReluPool.composed = True  # torch's layers on both devices, whose sums are the same
    found = {}
    for name, experiment in EXPERIMENTS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[name] = [
                    experiment(data, Path(folder) / device, device) for device in ("cpu", second_device.NAME)
                ]
            except Exception:
                found[name] = traceback.format_exc()
    results.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
