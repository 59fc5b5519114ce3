"""Data sets by name: uint8 images and labels in memory, with what the training needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lada_al.errors import UsageError
from lada_al.pools.decode import WHITE, Limits


@dataclass(frozen=True)
class Dataset:
    """A pool with the labels an oracle will give, and a test set."""

    name: str
    classes: list[str]
    train_images: Tensor  # (M, channels, H, W) uint8
    train_labels: Tensor  # (M,) int64
    test_images: Tensor
    test_labels: Tensor
    mean: list[float]  # of each channel, pixels scaled to [0, 1]
    std: list[float]
    random_crop: bool = False  # random crop with padding 4 and horizontal flip in training

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def task(self) -> Task:
        return Task(self.name, self.shape, len(self.classes), self.mean, self.std)


@dataclass(frozen=True)
class Task:
    """What the parts of a method may know of a data set before they see an image of it."""

    dataset: str
    shape: tuple[int, int, int]
    classes: int
    mean: list[float]
    std: list[float]

    def to_pixels(self, image: Tensor) -> Tensor:
        """Normalised images to the pixels in [0, 1] that they were."""
        return (image * self._column(self.std, image) + self._column(self.mean, image)).clamp(0, 1)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] to images as the network takes them."""
        return (pixels - self._column(self.mean, pixels)) / self._column(self.std, pixels)

    @staticmethod
    def _column(values: list[float], like: Tensor) -> Tensor:
        return torch.tensor(values, device=like.device)[:, None, None]


NAMES = ["mnist5k", "fashion", "svhn", "cifar10", "cifar100", "own"]

# The constants of the authors' code, which are not always those of the data set (preset `official`).
OFFICIAL_STATISTICS = {
    "fashion": ([0.1307], [0.3081]),
    "svhn": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    "cifar100": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
}


def load(
    name: str,
    folder: Path | None = None,
    download: bool = False,
    official_statistics: bool = False,
    size: int | None = None,
    white: int = WHITE,
) -> Dataset:
    """The data set `name`: built in (mnist5k), from Parquet files in `folder`, or by torchvision from or into it; `own`
    is whatever is there, with images made of this size if one is given, grey ones of 16 bits by this white; see own.py.

    Raises:
        UsageError: the name is unknown, or the files are missing or not as they should be.
    """
    from lada_al.data import mnist5k, own, parquet, torchvision_sets

    if name not in NAMES:
        raise UsageError(f"unknown data set '{name}'; choose one of {', '.join(NAMES)}")
    limits = Limits(white=white)
    if name == "mnist5k":
        dataset = mnist5k.load()
    elif folder is None:
        what = own.EXPECTED if name == own.NAME else "a folder of Parquet files, or one for torchvision"
        raise UsageError(f"data set '{name}' needs --data DIR: {what}")
    elif name == own.NAME:
        dataset = own.load(folder, size, limits)
    elif (source := parquet.find(folder, name)) is not None:
        dataset = parquet.load(source, name, None, limits)
    else:
        dataset = torchvision_sets.load(name, folder, download)
    if official_statistics and name in OFFICIAL_STATISTICS:
        mean, std = OFFICIAL_STATISTICS[name]
        dataset = replace(dataset, mean=mean, std=std)
    return dataset


def statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel of uint8 images, pixels scaled to [0, 1]; a deviation of 0 is 1."""
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.transpose(0, 1)]).double()
    levels = torch.arange(256, dtype=torch.float64) / 255
    weights = counts / counts.sum(1, keepdim=True)
    mean = weights @ levels
    std = (weights @ levels.square() - mean.square()).sqrt()
    return mean.tolist(), [value or 1.0 for value in std.tolist()]


def has_random_crop(name: str) -> bool:
    """CIFAR is trained with random crop and horizontal flip (Section 4.1)."""
    return name.startswith("cifar")
