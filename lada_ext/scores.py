"""Uncertainty of rows of logits: predictive entropy and variation ratio, one pass, nothing but the score written."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lada_ext._library import forbid_double_backward, score_dtype


def entropy(logits: Tensor, base: float = 2.0) -> Tensor:
    """Predictive entropy of softmax(logits), f_acq^Ent of the paper's Section 2.3.

    Args:
        logits: (..., C) in float64, float32, float16 or bfloat16; any strides. A logit of -inf is probability zero.
        base: unit of the result; 2 for bits, math.e for nats.

    Returns:
        (...) in float32, or float64 for float64 logits. A row that is all -inf, or holds NaN or +inf, gives NaN.
        Differentiable once, in `logits`.

    Raises:
        TypeError: `logits` is not of a floating dtype.
        ValueError: `logits` has no class axis, or `base` is not a base of a logarithm.
    """
    return torch.ops.lada_ext.entropy(logits, base)


def variation_ratio(logits: Tensor) -> Tensor:
    """1 - max_c softmax(logits)_c, f_acq^Var of the paper's Section 2.3, exact also for almost certain rows.

    Arguments, result and errors are those of `entropy`, without a unit. The gradient at a tie is that of the first of
    the tied classes.
    """
    return torch.ops.lada_ext.variation_ratio(logits)


def bald(logits: Tensor, base: float = 2.0) -> Tensor:
    """Mutual information of the class and the weights, H(mean_t p_t) - mean_t H(p_t), by T passes with sampled weights.

    A composition of `entropy` and the logarithm of the mean probability, which is formed without probabilities.

    Args:
        logits: (T, ..., C) in float64, float32, float16 or bfloat16. A logit of -inf is probability zero.
        base: unit of the result; 2 for bits, math.e for nats.

    Returns:
        (...) in float32, or float64 for float64 logits; NaN for a row that is NaN, or all -inf, in any pass.
        Differentiable in `logits`.

    Raises:
        TypeError: `logits` is not of a floating dtype.
        ValueError: `logits` has no axis of passes, no pass, or no class axis.
    """
    if logits.dim() < 2 or logits.shape[0] == 0:
        raise ValueError(f"bald: logits must have shape (T, ..., C) with at least one pass, got {list(logits.shape)}")
    mean_of_entropies = entropy(logits, base).mean(0)
    log_p = logits.to(score_dtype(logits)).log_softmax(-1)
    return entropy(log_p.logsumexp(0) - math.log(len(logits)), base) - mean_of_entropies


@torch.library.register_fake("lada_ext::entropy")
def _(logits: Tensor, base: float = 2.0) -> Tensor:
    del base
    return logits.new_empty(logits.shape[:-1], dtype=score_dtype(logits))


@torch.library.register_fake("lada_ext::entropy_backward")
def _(grad: Tensor, logits: Tensor, base: float) -> Tensor:
    del grad, base
    return logits.new_empty(logits.shape)


@torch.library.register_fake("lada_ext::variation_ratio")
def _(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[:-1], dtype=score_dtype(logits))


@torch.library.register_fake("lada_ext::variation_ratio_backward")
def _(grad: Tensor, logits: Tensor) -> Tensor:
    del grad
    return logits.new_empty(logits.shape)


def _save_entropy(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    del output
    logits, ctx.base = inputs
    ctx.save_for_backward(logits)


def _entropy_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (logits,) = ctx.saved_tensors
    return torch.ops.lada_ext.entropy_backward(grad, logits, ctx.base), None


def _save_variation_ratio(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _variation_ratio_backward(ctx: Any, grad: Tensor) -> Tensor:
    (logits,) = ctx.saved_tensors
    return torch.ops.lada_ext.variation_ratio_backward(grad, logits)


torch.library.register_autograd("lada_ext::entropy", _entropy_backward, setup_context=_save_entropy)
torch.library.register_autograd(
    "lada_ext::variation_ratio", _variation_ratio_backward, setup_context=_save_variation_ratio
)
forbid_double_backward("lada_ext::entropy_backward")
forbid_double_backward("lada_ext::variation_ratio_backward")
