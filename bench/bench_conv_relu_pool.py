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


# pi_phi at k = 2 and k = 1 of `small`, its second block, both of STN's f_tau, the frozen `small`'s first when images
# learn, and pi_phi at k = 1 of `resnet18`
SHAPES = [
    Shape(100, 64, 14, 6, 5, 2, "weights"),
    Shape(100, 16, 14, 6, 5, 2, "weights"),
    Shape(100, 6, 7, 16, 5, 0, "all"),
    Shape(100, 1, 28, 8, 7, 0, "weights"),
    Shape(100, 8, 11, 10, 5, 0, "all"),
    Shape(100, 1, 28, 8, 3, 1, "image", "mean"),
    Shape(100, 128, 32, 6, 5, 2, "weights"),
]


def eager(image: Tensor, weight: Tensor, bias: Tensor, padding: int, pool: Pool) -> Tensor:
    rectified = F.relu(F.conv2d(image, weight, bias, padding=padding))
    return F.max_pool2d(rectified, 2) if pool == "max" else F.avg_pool2d(rectified, 2)


def block(shape: Shape, with_gradient: bool, g: torch.Generator) -> Arguments:
    images, channels, size, outputs, kernel, padding, of, pool = shape
    image = torch.randn(images, channels, size, size, generator=g).relu().to(memory_format=torch.channels_last)
    weight = torch.randn(outputs, channels, kernel, kernel, generator=g) / (channels * kernel**2) ** 0.5
    bias = torch.randn(outputs, generator=g)
    if not with_gradient:
        return image, weight, bias, padding, pool
    pooled = (size + 2 * padding - kernel + 1) // 2
    grad = torch.randn(images, outputs, pooled, pooled, generator=g)
    for i, tensor in enumerate((image, weight, bias)):
        tensor.requires_grad_(i in OF[of])
    return image, weight, bias, padding, pool, grad


def case(shape: Shape, device: str, with_gradient: bool) -> Case:
    images, channels, size, outputs, kernel, padding, of, pool = shape
    pooled = (size + 2 * padding - kernel + 1) // 2
    once = 4 * (images * (channels * size**2 + outputs * pooled**2) + outputs * channels * kernel**2)
    return op_case(
        "conv_relu_pool",
        f"B={images} C={channels} {size}x{size} O={outputs} K={kernel}"
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
