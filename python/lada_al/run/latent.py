"""latent.npz: what the last layer of the finished classifier sees of every bought and virtual instance, for t-SNE."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lada_ext
from lada_al.errors import UsageError, first_line
from lada_al.events import Bought
from lada_al.files import write_atomically
from lada_al.keys import Keys
from lada_al.models import frozen
from lada_al.pool import Pool
from lada_al.run.config import Config
from lada_al.train import Learner
from lada_al.view import View
from lada_al.virtual import Origins, virtual_view

LATENT = "latent.npz"
REAL = ["real", "label", "round"]
VIRTUAL = ["virtual", "virtual_label", "virtual_round", "virtual_entropy"]


def save(path: Path, learner: Learner, pool: Pool, bought: list[Bought], config: Config) -> None:
    """Arrays real (n, D), label, round; virtual (m, D), virtual_label, virtual_round, virtual_entropy in bits."""
    net, penultimate = learner.net, learner.net.depth - 1
    arrays: dict[str, list[Tensor]] = {name: [] for name in VIRTUAL}
    with frozen(net), torch.no_grad():
        real = View(net, 0, image=pool.pixels(pool.labelled)).computed(config.scoring_batch, penultimate).penultimate
        augmentation = config.chosen.augmentation
        if learner.f_aug is not None and augmentation is not None and augmentation.look_ahead:
            for event in bought:
                if event.round == 0:
                    continue
                key = Keys(config.seed).key("virtual samples", event.round, config.epochs, pool.device)
                virtual = virtual_view(net, learner.f_aug, Origins.of(pool, event), key)
                assert virtual.target is not None
                arrays["virtual"].append(virtual.penultimate.flatten(0, -2))
                arrays["virtual_label"].append(virtual.target.flatten(0, -2).argmax(1))
                arrays["virtual_entropy"].append(lada_ext.entropy(virtual.logits.flatten(0, -2)))
                arrays["virtual_round"].append(torch.full((len(arrays["virtual"][-1]),), event.round))
    made: dict[str, Any] = {name: torch.cat(values).cpu().numpy() for name, values in arrays.items() if values}
    made |= {
        "real": real.cpu().numpy(),
        "label": pool.labels.numpy(),
        "round": np.concatenate([np.full(len(event.ids), event.round) for event in bought]),
    }
    write_atomically(path, lambda file: np.savez_compressed(file, **made))


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays that `save` wrote.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        with np.load(path) as arrays:
            held = {name: arrays[name] for name in [*REAL, *VIRTUAL] if name in REAL or name in arrays}
    except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        text = f"{path} is damaged; without it, lada run --resume makes it anew: {first_line(error)}"
        raise UsageError(text) from error
    return held
