"""Fashion-MNIST, SVHN and CIFAR by torchvision, from its own files in a folder; downloaded only when asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lada_al.data import Dataset, has_random_crop, statistics
from lada_al.errors import UsageError, first_line


def load(name: str, folder: Path, download: bool) -> Dataset:
    from torchvision import datasets

    if not folder.is_dir() and not download:
        raise UsageError(f"--data: there is no folder {folder}")
    makers = {
        "fashion": lambda train: datasets.FashionMNIST(folder, train=train, download=download),
        "cifar10": lambda train: datasets.CIFAR10(folder, train=train, download=download),
        "cifar100": lambda train: datasets.CIFAR100(folder, train=train, download=download),
        "svhn": lambda train: datasets.SVHN(folder, split="train" if train else "test", download=download),
    }
    try:
        train, test = makers[name](True), makers[name](False)
    except (RuntimeError, OSError) as error:
        hint = "" if download else "; add --download to fetch it, or put train.parquet and test.parquet there"
        raise UsageError(f"{folder} does not hold '{name}' ({first_line(error)}){hint}") from error
    train_images, train_labels = _tensors(train)
    test_images, test_labels = _tensors(test)
    mean, std = statistics(train_images)
    classes = list(getattr(train, "classes", [str(digit) for digit in range(10)]))
    return Dataset(
        name, classes, train_images, train_labels, test_images, test_labels, mean, std, has_random_crop(name)
    )


def _tensors(dataset: object) -> tuple[Tensor, Tensor]:
    """(M, channels, H, W) uint8 images and labels, whichever way round the set keeps them."""
    images = torch.as_tensor(np.asarray(dataset.data))  # type: ignore[attr-defined]
    labels = getattr(dataset, "targets", None)
    labels = dataset.labels if labels is None else labels  # type: ignore[attr-defined]
    if images.dim() == 3:
        images = images[:, None]
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(np.asarray(labels)).long()
