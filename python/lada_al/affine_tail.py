"""The affine end of a frozen network as one matrix.

What follows the last activation, pooling and a linear layer say, is an affine map of the features there. Thousands of
mixtures go through it while a policy is learned, and pooling them costs more than the convolutions before it. One
matrix product gives the same logits up to rounding. Where only that activation, a ReLU, is left between the mixtures
and this end, one op gives their logits, and they never reach memory.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext

if TYPE_CHECKING:
    from lada_al.models import SplitModel

MOST_CLASSES = 32  # a product with more rows costs more than what it replaces


@dataclass(frozen=True)
class AffineTail:
    """logits = weight h + bias; h is flattened in the order in which its channels-last memory lies."""

    known: Hashable
    """What it was made of: other weights make another one."""
    weight: Tensor
    """(C, features)"""
    bias: Tensor

    def __call__(self, h: Tensor) -> Tensor:
        return F.linear(_flat(h), self.weight, self.bias)

    def of_mixtures(self, a: Tensor, b: Tensor, lam: Tensor) -> Tensor:
        """Logits (P, N, C) of the ReLU of lam a + (1 - lam) b, for lam (P, N)."""
        return lada_ext.relu_mix_logits(_flat(a), _flat(b), lam, self.weight, self.bias)


def start_of(net: SplitModel) -> int | None:
    """The module that it begins with, as the net is now; None if its weights learn."""
    start, end = net.tail(), net.cut(net.depth)
    learns = any(p.requires_grad for module in net.steps[start:end] for p in module.parameters())
    return None if learns else start


def of(net: SplitModel, start: int, shape: torch.Size, least: int = 2) -> AffineTail | None:
    """The map from instances of this shape before module `start` to logits, if it is one and pays, as one of fewer
    than `least` modules does not; kept in `net`."""
    first, end = start_of(net), net.cut(net.depth)
    if first is None or start < first or end - start < least:
        return None
    parameters = [p for module in net.steps[start:end] for p in module.parameters()]
    # a fused optimiser raises no tensor's version, so the net's own, which training raises, is part of it
    known = (start, shape, net.version, tuple((p.data_ptr(), p._version) for p in parameters))
    if net.kept_tail is None or net.kept_tail.known != known:
        net.kept_tail = _made(net, start, shape, known)
    return net.kept_tail if len(net.kept_tail.bias) <= MOST_CLASSES else None


def behind_relu(net: SplitModel, step: int, shape: torch.Size) -> AffineTail | None:
    """The map behind module `step`, if that is a ReLU of instances of this shape and the rest is such a map."""
    return of(net, step + 1, shape, least=1) if net.rectifies(step) else None


def _made(net: SplitModel, start: int, shape: torch.Size, known: Hashable) -> AffineTail:
    """By the gradient of each logit."""
    end, like = net.cut(net.depth), next(net.parameters())
    with torch.enable_grad():
        bias = net.run(like.new_zeros(1, *shape), start, end)[0]
        h = like.new_zeros(len(bias), *shape).requires_grad_()
        (weight,) = torch.autograd.grad(net.run(h, start, end).diagonal().sum(), h)
    return AffineTail(known, _flat(weight).contiguous(), bias.detach())


def _flat(h: Tensor) -> Tensor:
    return (h.permute(0, 2, 3, 1) if h.dim() == 4 else h).flatten(1)
