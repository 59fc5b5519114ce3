"""Batches out of a pool of bytes: a training batch of 10 with random crops, 1,000 of them, and 10,000 as they are; and
1,000 digits, whose rows are shorter than vector registers are good for.

The places of the windows are given to the others, who would have to draw them besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms import v2

import lada_ext
from bench.contenders import Arguments, Op, compiled, op_case
from bench.harness import Case
from lada_ext import reference

POOL, CHANNELS, SIDE, PADDING = 20_000, 3, 32, 4
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]


def whole(images: Tensor, index: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return lada_ext.take_images(images, index, normalize=(mean, std))


def eager_whole(images: Tensor, index: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (images[index].float() / 255 - mean[:, None, None]) / std[:, None, None]


def definition_whole(images: Tensor, index: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return reference.take_images(images, index, normalize=(mean, std))


def ours(images: Tensor, index: Tensor, mean: Tensor, std: Tensor, key: Tensor, *windows: Tensor) -> Tensor:
    del windows
    return lada_ext.take_images(images, index, key, padding=PADDING, mirror=True, normalize=(mean, std))


def eager(
    images: Tensor, index: Tensor, mean: Tensor, std: Tensor, key: Tensor, top: Tensor, left: Tensor, mirrored: Tensor
) -> Tensor:
    """Windows by indexing, for all images at once."""
    del key
    padded = F.pad(images[index], [PADDING] * 4)
    steps = torch.arange(SIDE, device=images.device)
    rows, columns = top[:, None] + steps, left[:, None] + steps
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    batch = torch.arange(len(index), device=images.device)[:, None, None]
    taken = padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return (taken.float() / 255 - mean[:, None, None]) / std[:, None, None]


def one_by_one(images: Tensor, index: Tensor, mean: Tensor, std: Tensor, key: Tensor, *windows: Tensor) -> Tensor:
    """What a DataLoader's worker does for each image, with torchvision's transforms, which draw for themselves."""
    del key, windows
    transform = v2.Compose(
        [
            v2.RandomCrop(SIDE, padding=PADDING),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean.tolist(), std.tolist()),
        ]
    )
    return torch.stack([transform(images[row]) for row in index])


def definition(images: Tensor, index: Tensor, mean: Tensor, std: Tensor, key: Tensor, *windows: Tensor) -> Tensor:
    del windows
    return reference.take_images(images, index, key, padding=PADDING, mirror=True, normalize=(mean, std))


def arguments(g: torch.Generator, taken: int, channels: int = CHANNELS, side: int = SIDE) -> Arguments:
    images = torch.randint(256, (POOL, channels, side, side), generator=g, dtype=torch.uint8)
    index = torch.randint(POOL, (taken,), generator=g)
    return images, index, torch.tensor(MEAN[:channels]), torch.tensor(STD[:channels])


def windows(g: torch.Generator, taken: int) -> Arguments:
    images, index, mean, std = arguments(g, taken)
    key = lada_ext.make_key(g)
    counter = [torch.zeros_like(index), index, torch.zeros_like(index), (key[1] & 0xFFFFFFFF).expand_as(index)]
    down, right, side, _ = reference.philox(key, counter)
    top, left = (words * (2 * PADDING + 1) >> 32 for words in (down, right))
    return images, index, mean, std, key, top, left, side >= 2**31


def cases(device: str) -> Iterator[Case]:
    bytes_of_image = 5 * CHANNELS * SIDE * SIDE
    for taken in (10, 1_000):
        contenders: dict[str, Op] = {"lada_ext": ours, "eager": eager, "torch.compile": compiled(eager)}
        if device == "cpu":
            contenders["torchvision, one by one"] = one_by_one
        yield op_case(
            "take_images",
            f"cropped {taken} of {POOL} x {CHANNELS} x {SIDE} x {SIDE}",
            device,
            partial(windows, taken=taken),
            contenders,
            definition,
            bytes_moved=bytes_of_image * taken,
        )
    for taken, channels, side in ((10_000, CHANNELS, SIDE), (1_000, 1, 28)):
        yield op_case(
            "take_images",
            f"whole {taken} of {POOL} x {channels} x {side} x {side}",
            device,
            partial(arguments, taken=taken, channels=channels, side=side),
            {"lada_ext": whole, "eager": eager_whole, "torch.compile": compiled(eager_whole)},
            definition_whole,
            bytes_moved=5 * channels * side * side * taken,
        )
