"""The pool: uint8 images with stable ids, of which some are labelled; and the oracle, who answers ids with labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

import lada_ext
from lada_al.data import Dataset

TOGETHER = 1 << 22  # values of training images that are made at a time
PADDING = 4  # black pixels around an image, of which a random crop may show some

# Given ids (B,) int64 of instances that were bought, returns their labels (B,) int64.
Oracle = Callable[[Tensor], Tensor]


def simulated_oracle(dataset: Dataset) -> Oracle:
    """An oracle that knows the labels of a benchmark data set."""
    return lambda ids: dataset.train_labels[ids.cpu()]


def no_oracle(ids: Tensor) -> Tensor:
    """For choices that people will answer."""
    return torch.full_like(ids, -1)


class Pool:
    """All instances of a data set's training part. An id is a row of it, for ever.

    Images stay uint8 on `device`, channels last, which is the order that convolutions are fastest in; `pixels`
    normalises what is asked for. Labels enter through `add` alone.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.classes = len(dataset.classes)
        self.device = device
        self.images = dataset.train_images.to(device, memory_format=torch.channels_last)
        self.tone = (torch.tensor(dataset.mean, device=device), torch.tensor(dataset.std, device=device))
        self.random_crop = dataset.random_crop
        self.labelled = torch.empty(0, dtype=torch.int64)
        self.labels = torch.empty(0, dtype=torch.int64)
        self._one_hot = torch.eye(self.classes, device=device)
        self._label_of = torch.full((len(self),), self.classes, device=device)  # by id; no class: not bought

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, ids: Tensor) -> Tensor:
        """Normalised float32 images, (B, channels, H, W)."""
        return lada_ext.take_images(self.images, ids.to(self.device), normalize=self.tone)

    def training_pixels(self, ids: Tensor, key: Tensor) -> Tensor:
        """The same as training sees them: cropped and mirrored at random, by key and id, where the data set asks."""
        if not self.random_crop:
            return self.pixels(ids)
        rows = ids.to(self.device)
        return lada_ext.take_images(self.images, rows, key, padding=PADDING, mirror=True, normalize=self.tone)

    def training_batches(self, batches: Sequence[Tensor], key: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """`training_pixels` and `targets` of each of these batches of ids.

        They are made for many batches at once: of ten images alone, calling the op takes longer than its work.
        """
        together = max(1, TOGETHER // max(1, self.images[0].numel() * max(map(len, batches), default=1)))
        for first in range(0, len(batches), together):
            some = batches[first : first + together]
            ids, sizes = torch.cat(list(some)), [len(batch) for batch in some]
            images, targets = self.training_pixels(ids, key), self.targets(ids)
            yield from zip(images.split(sizes), targets.split(sizes), strict=True)

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 images to float32 with the data set's channel means and deviations taken out."""
        return lada_ext.take_images(images, torch.arange(len(images), device=images.device), normalize=self.tone)

    def unlabelled(self) -> Tensor:
        """Ids not yet bought, ascending, on the CPU."""
        return self._is_free().nonzero().squeeze(1)

    def _is_free(self) -> Tensor:
        free = torch.ones(len(self), dtype=torch.bool)
        free[self.labelled] = False
        return free

    def candidates(self, count: int, generator: torch.Generator) -> Tensor:
        """At most `count` unlabelled ids in random order, on `device`: the X_U of one round."""
        free = self._is_free()
        order = torch.randperm(len(self), generator=generator)  # of all, so that methods look at nearly the same ones
        return order[free[order]][:count].to(self.device)

    def add(self, ids: Sequence[int] | Tensor, labels: Sequence[int] | Tensor) -> None:
        """Enters bought labels."""
        new_ids, new_labels = (torch.as_tensor(values, dtype=torch.int64).cpu() for values in (ids, labels))
        if len(new_ids) != len(new_labels):
            raise ValueError(f"Pool.add: {len(new_ids)} ids but {len(new_labels)} labels")
        together = torch.cat([self.labelled, new_ids])
        if len(together.unique()) != len(together):
            raise ValueError("Pool.add: an id is bought twice")
        if len(new_ids) and not (int(new_ids.min()) >= 0 and int(new_ids.max()) < len(self)):
            raise ValueError(f"Pool.add: ids must lie in 0..{len(self) - 1}")
        self.labelled, self.labels = together, torch.cat([self.labels, new_labels])
        self._label_of[new_ids.to(self.device)] = new_labels.to(self.device)

    def targets(self, ids: Tensor) -> Tensor:
        """One-hot labels of bought ids, (B, C) float32.

        Raises:
            IndexError: an id was not bought.
        """
        return self._one_hot[self._label_of[ids.to(self.device)]]
