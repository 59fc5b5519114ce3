"""The blocks of the policy networks, convolution, ReLU and max-pooling, against the three layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext
from bench.contenders import Arguments, compiled, op_case
from bench.harness import Case
from lada_ext import reference

# images, channels, size, outputs, kernel, padding, and whether the image has a gradient: pi_phi at k = 2 and k = 1 of
# `small`, its second block, that of STN's f_tau, and pi_phi at k = 1 of `resnet18`
SHAPES = [
    (100, 64, 14, 6, 5, 2, False),
    (100, 16, 14, 6, 5, 2, False),
    (100, 6, 7, 16, 5, 0, True),
    (100, 8, 11, 10, 5, 0, True),
    (100, 128, 32, 6, 5, 2, False),
]


def eager(image: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    return F.max_pool2d(F.relu(F.conv2d(image, weight, bias, padding=padding)), 2)


def block(shape: tuple[int, int, int, int, int, int, bool], with_gradient: bool, g: torch.Generator) -> Arguments:
    images, channels, size, outputs, kernel, padding, of_image = shape
    image = torch.randn(images, channels, size, size, generator=g).relu().to(memory_format=torch.channels_last)
    weight = torch.randn(outputs, channels, kernel, kernel, generator=g) / (channels * kernel**2) ** 0.5
    bias = torch.randn(outputs, generator=g)
    if not with_gradient:
        return image, weight, bias, padding
    pooled = (size + 2 * padding - kernel + 1) // 2
    grad = torch.randn(images, outputs, pooled, pooled, generator=g)
    return image.requires_grad_(of_image), weight.requires_grad_(), bias.requires_grad_(), padding, grad


def case(shape: tuple[int, int, int, int, int, int, bool], device: str, with_gradient: bool) -> Case:
    images, channels, size, outputs, kernel, padding, of_image = shape
    pooled = (size + 2 * padding - kernel + 1) // 2
    once = 4 * (images * (channels * size**2 + outputs * pooled**2) + outputs * channels * kernel**2)
    wrt = [0, 1, 2] if of_image else [1, 2]
    return op_case(
        "conv_relu_pool",
        f"B={images} C={channels} {size}x{size} O={outputs} K={kernel}"
        + (f", forward + backward of {'all' if of_image else 'weights'}" if with_gradient else ""),
        device,
        partial(block, shape, with_gradient),
        {"lada_ext": lada_ext.conv_relu_pool, "eager": eager, "torch.compile": compiled(eager)},
        reference.conv_relu_pool,
        bytes_moved=once * (2 if with_gradient else 1),
        wrt=wrt if with_gradient else (),
        tolerance=1e-4 if not with_gradient else 1e-3,
    )


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        for with_gradient in (False, True):
            yield case(shape, device, with_gradient)
