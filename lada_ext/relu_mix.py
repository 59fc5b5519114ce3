"""Logits of mixtures that a frozen classifier takes through ReLU and an affine map, without the mixtures in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lada_ext._library import check_tensor, register_fake, score_dtype
from lada_ext._vmap import Dims, fold, lack_axes, one_by_one, pairs_of, unfold

_ops = torch.ops.lada_ext


def relu_mix_logits(a: Tensor, b: Tensor, lam: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``linear(relu(lam a + (1 - lam) b), weight, bias)``: logits of Eq. 10's mixtures, which Eq. 13 scores.

    Made for few classes: forward alone, with some hundreds of them the composition is as fast on the CPU, or faster.

    Args:
        a: (P, D) features of x_i, in float64, float32, float16 or bfloat16.
        b: (P, D) features of x'_i, same dtype.
        lam: (P, N) weights of a, of any floating dtype, for example from `beta_sample`.
        weight: (C, D) of the affine map behind the ReLU, with the dtype of `a`. Under autocast the wider dtype of
            features and weight is taken for both.
        bias: (C,), same dtype, or None.

    Returns:
        (P, N, C) in float32, or float64 for float64 features. The logits of a pair do not depend on the other pairs of
        the call; NaN in a row or a lam makes those mixtures NaN that it is in. Differentiable once, in `lam` alone:
        the classifier is frozen.

    Raises:
        TypeError: the dtypes are not floating or differ.
        ValueError: a shape is wrong, or `a`, `b`, `weight` or `bias` requires a gradient. Detach it, or compose
            `beta_mix`, relu and linear, which have one.
    """
    for name, value in (("a", a), ("b", b), ("lam", lam), ("weight", weight)):
        check_tensor("relu_mix_logits", name, value)
    return _ops.relu_mix_logits(a, b, lam, weight, bias)


@register_fake("lada_ext::relu_mix_logits")
def _(a: Tensor, b: Tensor, lam: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    del b, bias
    return lam.new_empty((*lam.shape, weight.shape[0]), dtype=score_dtype(a))


@register_fake("lada_ext::relu_mix_logits_backward")
def _(grad: Tensor, a: Tensor, b: Tensor, lam: Tensor, weight: Tensor) -> Tensor:
    del grad, a, b, weight
    return lam.new_empty(lam.shape)


def _vmap(info: Any, dims: Dims, *args: Any) -> tuple[Any, Any]:
    """One call for maps over pairs; a call each for maps over classifiers."""
    if any(dim is not None for dim in dims[3:]) or lack_axes(args[:3], dims[:3]):
        return one_by_one(_ops.relu_mix_logits, info.batch_size, dims, args)
    pairs = (fold(value, dim, info.batch_size) for value, dim in zip(args[:3], dims[:3], strict=True))
    return unfold(_ops.relu_mix_logits(*pairs, *args[3:]), info.batch_size, pairs_of(args[0], dims[0]))


torch.library.register_vmap("lada_ext::relu_mix_logits", _vmap)
