"""The blocks of the policy networks, convolution, ReLU and pooling, against the three layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext
from bench.contenders import Arguments, compiled, op_case
from bench.harness import Case
from lada_ext import reference
from lada_ext.conv_relu_pool import Pool

OF = {"image": [0], "weights": [1, 2], "all": [0, 1, 2]}


class Shape(NamedTuple):
    images: int
    channels: int
    size: int
    outputs: int
    kernel: int
    padding: int
    of: str
    """What has a gradient, of OF."""
    pool: Pool = "max"
    pairs: int = 0
    """How many pairs of the images are convolved; 0: each image by itself."""


# pi_phi at k = 2 and k = 1 of `small`, its second block, both of STN's f_tau, the frozen `small`'s first when images
# learn, pi_phi at k = 1 of `resnet18`, and the first again, of pairs among 2,000 candidates
SHAPES = [
    Shape(100, 64, 14, 6, 5, 2, "weights"),
    Shape(100, 16, 14, 6, 5, 2, "weights"),
    Shape(100, 6, 7, 16, 5, 0, "all"),
    Shape(100, 1, 28, 8, 7, 0, "weights"),
    Shape(100, 8, 11, 10, 5, 0, "all"),
    Shape(100, 1, 28, 8, 3, 1, "image", "mean"),
    Shape(100, 128, 32, 6, 5, 2, "weights"),
    Shape(2000, 32, 14, 6, 5, 2, "weights", pairs=100),
]


def eager(image: Tensor, weight: Tensor, bias: Tensor, padding: int, pool: Pool, pairs: Tensor | None = None) -> Tensor:
    if pairs is not None:
        image = torch.cat([image[pairs[:, 0]], image[pairs[:, 1]]], 1)
    rectified = F.relu(F.conv2d(image, weight, bias, padding=padding))
    return F.max_pool2d(rectified, 2) if pool == "max" else F.avg_pool2d(rectified, 2)


def block(shape: Shape, with_gradient: bool, g: torch.Generator) -> Arguments:
    images, channels, size, outputs, kernel, padding, of, pool, pairs = shape
    image = torch.randn(images, channels, size, size, generator=g).relu().to(memory_format=torch.channels_last)
    seen = channels * (2 if pairs else 1)
    weight = torch.randn(outputs, seen, kernel, kernel, generator=g) / (seen * kernel**2) ** 0.5
    bias = torch.randn(outputs, generator=g)
    ends = torch.randint(images, (2, pairs), generator=g).t() if pairs else None
    if not with_gradient:
        return image, weight, bias, padding, pool, ends
    pooled = (size + 2 * padding - kernel + 1) // 2
    grad = torch.randn(pairs or images, outputs, pooled, pooled, generator=g)
    for i, tensor in enumerate((image, weight, bias)):
        tensor.requires_grad_(i in OF[of])
    return image, weight, bias, padding, pool, ends, grad


def case(shape: Shape, device: str, with_gradient: bool) -> Case:
    images, channels, size, outputs, kernel, padding, of, pool, pairs = shape
    pooled, batch, seen = (size + 2 * padding - kernel + 1) // 2, pairs or images, channels * (2 if pairs else 1)
    once = 4 * (batch * (seen * size**2 + outputs * pooled**2) + outputs * seen * kernel**2)
    return op_case(
        "conv_relu_pool",
        f"B={batch} C={seen} {size}x{size} O={outputs} K={kernel}"
        + (f" of {images} in pairs" if pairs else "")
        + (" mean" if pool == "mean" else "")
        + (f", forward + backward of {of}" if with_gradient else ""),
        device,
        partial(block, shape, with_gradient),
        {"lada_ext": lada_ext.conv_relu_pool, "eager": eager, "torch.compile": compiled(eager)},
        reference.conv_relu_pool,
        bytes_moved=once * (2 if with_gradient else 1),
        wrt=OF[of] if with_gradient else (),
        tolerance=1e-4 if not with_gradient else 1e-3,
    )


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        for with_gradient in (False, True):
            yield case(shape, device, with_gradient)
