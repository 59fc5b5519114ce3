"""What a configuration names: its data set, its classifier, and the learner made of that and its method."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from lada_al import data, models
from lada_al.acquire import Acquisition
from lada_al.augment import Augmentation
from lada_al.data import Dataset
from lada_al.keys import Keys
from lada_al.models import SplitModel
from lada_al.ranks import synchronise
from lada_al.run.config import Config
from lada_al.train import Learner
from lada_al.train_pi import PiModel


def load_data(config: Config, download: bool = False) -> Dataset:
    """The data set that the configuration names."""
    return _load_data(
        config.dataset, config.data, download, config.official_statistics, config.image_size, config.white
    )


@functools.lru_cache(maxsize=1)
def _load_data(name: str, folder: str | None, *options: Any) -> Dataset:
    return data.load(name, None if folder is None else Path(folder), *options)


def make_learner(
    config: Config, dataset: Dataset, keys: Keys, device: torch.device, net: SplitModel | None = None
) -> Learner:
    """An untrained learner of the configuration's method, with the classifier `net` or the one it names."""
    with keys.scope("network weights", 0):
        net = (net or make_net(config, dataset)).to(memory_format=torch.channels_last)
        f_acq, f_aug = make_parts(config, dataset, net)
    net.shortcuts = not config.plain
    synchronise(net)
    learner = Learner(net, f_acq, f_aug, config, PiModel(config) if config.chosen.semi_supervised else None)
    learner.to(device)
    return learner


def make_parts(config: Config, dataset: Dataset, net: SplitModel) -> tuple[Acquisition, Augmentation | None]:
    """f_acq and f_aug for a classifier.

    Raises:
        UsageError: the images are too small for their networks.
    """
    chosen = config.chosen
    f_acq = chosen.acquisition.make(config, dataset.task, net)
    return f_acq, chosen.augmentation.make(config, dataset.task, net) if chosen.augmentation is not None else None


def make_net(config: Config, dataset: Dataset) -> SplitModel:
    """The classifier that the configuration names, with dropout where the acquisition samples it."""
    channels, height, width = dataset.shape
    dropout = config.dropout if config.chosen.acquisition.dropout else 0.0
    return models.MODELS[config.model](channels, (height, width), len(dataset.classes), dropout)
