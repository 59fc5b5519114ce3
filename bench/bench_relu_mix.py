"""Logits of mixtures that a frozen classifier takes through ReLU and an affine map, against mixing, relu and linear."""

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

# pairs, samples, features, classes: a step of the loop at k = 1 on mnist5k, at a layer of 512, and of many classes
SHAPES = [(100, 5, 6272, 10), (33, 5, 6272, 10), (100, 5, 512, 10), (100, 5, 6272, 100)]


def eager(a: Tensor, b: Tensor, lam: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    share = lam[..., None]
    return F.linear((share * a[:, None] + (1 - share) * b[:, None]).relu(), weight, bias)


def frozen(shape: tuple[int, int, int, int], with_gradient: bool, g: torch.Generator) -> Arguments:
    pairs, samples, width, classes = shape
    a, b = torch.randn(2, pairs, width, generator=g)
    lam = torch.rand(pairs, samples, generator=g)
    weight, bias = torch.randn(classes, width, generator=g) / width**0.5, torch.randn(classes, generator=g)
    if not with_gradient:
        return a, b, lam, weight, bias
    return a, b, lam.requires_grad_(), weight, bias, torch.randn(pairs, samples, classes, generator=g)


def case(shape: tuple[int, int, int, int], device: str, with_gradient: bool) -> Case:
    pairs, samples, width, classes = shape
    once = 4 * (2 * pairs * width + classes * width + pairs * samples * (classes + 1))
    return op_case(
        "relu_mix",
        f"P={pairs} N={samples} D={width} C={classes}" + (", forward + backward of lam" if with_gradient else ""),
        device,
        partial(frozen, shape, with_gradient),
        {"lada_ext": lada_ext.relu_mix_logits, "eager": eager, "torch.compile": compiled(eager)},
        reference.relu_mix_logits,
        bytes_moved=once * (2 if with_gradient else 1),
        wrt=[2] if with_gradient else (),
        tolerance=1e-4 if not with_gradient else 1e-3,
    )


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        for with_gradient in (False, True):
            yield case(shape, device, with_gradient)
