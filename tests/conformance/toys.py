"""Small problems on which each method must do what its own paper says."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lada_al import Bought, Config, View, acquire, augment, models
from lada_al.acquire import Acquisition, Occasion
from lada_al.augment import Augmentation
from lada_al.data import Dataset, statistics
from lada_al.keys import Keys
from lada_al.loop import HeldOut, active_learning
from lada_al.models import SplitModel, frozen
from lada_al.pool import Pool, simulated_oracle
from lada_al.timing import NoMeter
from lada_al.train import Learner
from lada_al.train_pi import PiModel
from torch import Tensor, nn

LEARNED = {"vaal_steps": 5, "vaal_width": 4, "bgadl_width": 4, "bald_samples": 3, "cal_views": 3, "pi_batch": 8}
FAST = {"epochs": 2, "policy_epochs": 1, "rounds": 1, **LEARNED}
CLASSES = ["stripes", "spots", "noise"]


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grey 20 x 20 images of stripes, spots and noise by turns, and their classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    pixels = random.integers(0, 80, (count, 1, 20, 20))
    for image, label in zip(pixels[:, 0], labels, strict=True):
        if label == 0:
            image[:, :: random.integers(2, 5)] += 150
        elif label == 1:
            row, column = random.integers(3, 17, 2)
            image[row - 3 : row + 3, column - 3 : column + 3] += 150
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels)


def dataset(train: int = 120, test: int = 60) -> Dataset:
    train_images, train_labels = images(train, 1)
    test_images, test_labels = images(test, 2)
    mean, std = statistics(train_images)
    return Dataset("fashion", CLASSES, train_images, train_labels, test_images, test_labels, mean, std)


def config(method: str, **changes: Any) -> Config:
    small: dict[str, Any] = {"epochs": 10, "candidates": 60, "query": 10, "initial": 12, "device": "cpu"}
    return Config(**{"method": method, "dataset": "fashion", **small, **changes})


def pool_of(data: Dataset, bought: Tensor) -> Pool:
    pool = Pool(data, torch.device("cpu"))
    pool.add(bought, data.train_labels[bought])
    return pool


def small_net(data: Dataset, dropout: float = 0.0) -> SplitModel:
    channels, height, width = data.shape
    with Keys(3).scope("network weights", 0):
        return models.small(channels, (height, width), len(data.classes), dropout)


def acquisition(name: str, settings: Config, data: Dataset, net: SplitModel) -> Acquisition:
    with Keys(3).scope("network weights", 0):
        return acquire.load(name).make(settings, data.task, net)


def augmentation(name: str, settings: Config, data: Dataset, net: SplitModel) -> Augmentation:
    with Keys(3).scope("network weights", 0):
        return augment.load(name).make(settings, data.task, net)


def occasion(net: SplitModel, pool: Pool, settings: Config, k: int = 0, round_: int = 1) -> Occasion:
    return Occasion(net, pool, settings, Keys(1), round_, k)


def prepare(f_acq: Acquisition, now: Occasion) -> None:
    """As a round does it."""
    with frozen(now.net, f_acq.trained), torch.no_grad():
        f_acq.prepare(now)


def trained(method: str, data: Dataset, bought: Tensor, rounds: int = 1, **changes: Any) -> tuple[Learner, Pool]:
    """A learner of a method after `rounds` rounds of training on the same labels; from the second on with virtual ones."""
    settings = config(method, **changes)
    chosen = settings.chosen
    net = small_net(data, settings.dropout if chosen.acquisition.dropout else 0.0)
    f_aug = augmentation(chosen.augmentation.name, settings, data, net) if chosen.augmentation else None
    learner = Learner(net, acquisition(chosen.acquisition.name, settings, data, net), f_aug, settings)
    pool = pool_of(data, bought)
    k = 1 if chosen.augmentation is not None and chosen.augmentation.uses_hidden else 0
    for r in range(rounds):
        event = Bought(r, bought[-10:].tolist(), data.train_labels[bought[-10:]].tolist(), k=k)
        learner.fit(pool, event, Keys(1), NoMeter())
    return learner, pool


def run(method: str, data: Dataset, **changes: Any) -> tuple[list[Bought], Pool]:
    """A whole loop in memory."""
    settings = config(method, **{**FAST, **changes})
    chosen = settings.chosen
    net = small_net(data, settings.dropout if chosen.acquisition.dropout else 0.0)
    f_aug = augmentation(chosen.augmentation.name, settings, data, net) if chosen.augmentation else None
    unlabelled = PiModel(settings) if chosen.semi_supervised else None
    learner = Learner(net, acquisition(chosen.acquisition.name, settings, data, net), f_aug, settings, unlabelled)
    pool = Pool(data, torch.device("cpu"))
    test = HeldOut(pool.normalised(data.test_images), data.test_labels)
    first = torch.arange(settings.initial)
    events = active_learning(learner, pool, simulated_oracle(data), test, settings, Keys(1), first)
    return [event for event in events if isinstance(event, Bought)], pool


def view_of(net: SplitModel, pool: Pool, ids: Tensor, k: int = 0) -> View:
    """Its features and logits computed as a round computes them: with the classifier frozen."""
    with frozen(net), torch.no_grad():
        view = View(net, k, image=pool.pixels(ids), ids=ids, target=nn.functional.one_hot(ids % 3, 3).float())
        return view.computed(len(ids), *range(net.depth + 1))


def only_logits(logits: Tensor) -> View:
    return View(SplitModel([nn.Identity()]), 0, hidden=logits)


class Fixed(SplitModel):
    """A net whose penultimate features are its input, with a last layer of given weights."""

    def __init__(self, weight: Tensor) -> None:
        last = models.Classifier(weight.shape[1], weight.shape[0], 0.5)
        with torch.no_grad():
            last.weight.copy_(weight)
            last.bias.zero_()
        super().__init__([nn.Identity(), last])
