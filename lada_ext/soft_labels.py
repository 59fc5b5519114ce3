"""Labels mixed like the instances they belong to: soft targets, and Eq. 14's cross entropy without forming them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lada_ext._library import check_tensor, register_fake, score_dtype
from lada_ext._vmap import register_folded

_ops = torch.ops.lada_ext


def mix_labels(y_a: Tensor, y_b: Tensor, lam: Tensor, num_classes: int) -> Tensor:
    """Soft targets: probability lam for class y_a and 1 - lam for class y_b, or 1 where they are the same.

    Args:
        y_a: (P,) int64 classes in [0, num_classes).
        y_b: like `y_a`.
        lam: (P, ...) weights of y_a, for example (P, N), in float64, float32, float16 or bfloat16.
        num_classes: C.

    Returns:
        (P, ..., C) in float32, or float64 for float64 lam. Differentiable once, in `lam`.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong, or on the CPU a class does not exist (the first is named). On CUDA such a class
            gives NaN in its rows.
    """
    for name, value in (("y_a", y_a), ("y_b", y_b), ("lam", lam)):
        check_tensor("mix_labels", name, value)
    return _ops.mix_labels(y_a, y_b, lam, num_classes)


def soft_cross_entropy(
    logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor, reduction: Literal["none", "mean", "sum"] = "mean"
) -> Tensor:
    """lam CE(logits, y_a) + (1 - lam) CE(logits, y_b), the second term of Eq. 14, in nats like F.cross_entropy.

    Equal to ``F.cross_entropy(logits, mix_labels(y_a, y_b, lam, C))`` over the last axis. A class of weight zero adds
    nothing, also at a logit of -inf.

    Args:
        logits: (P, ..., C), for example (P, N, C), in float64, float32, float16 or bfloat16.
        y_a: (P,) int64 classes.
        y_b: like `y_a`.
        lam: (P, ...), the shape of logits without C.
        reduction: "none" for the loss of every row, "mean" or "sum" of all rows.

    Returns:
        A scalar, or (P, ...) without reduction, in float32, or float64 for float64 logits. Differentiable once, in
        `logits` and `lam`.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or `reduction` is wrong, or on the CPU a class does not exist (see `mix_labels`).
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"soft_cross_entropy: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    for name, value in (("logits", logits), ("y_a", y_a), ("y_b", y_b), ("lam", lam)):
        check_tensor("soft_cross_entropy", name, value)
    loss = _ops.soft_cross_entropy(logits, y_a, y_b, lam)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


@register_fake("lada_ext::mix_labels")
def _(y_a: Tensor, y_b: Tensor, lam: Tensor, num_classes: int) -> Tensor:
    del y_a, y_b
    return lam.new_empty((*lam.shape, num_classes), dtype=score_dtype(lam))


@register_fake("lada_ext::mix_labels_backward")
def _(grad: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor) -> Tensor:
    del grad, y_a, y_b
    return lam.new_empty(lam.shape)


@register_fake("lada_ext::soft_cross_entropy")
def _(logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor) -> Tensor:
    del y_a, y_b
    return lam.new_empty(lam.shape, dtype=score_dtype(logits))


@register_fake("lada_ext::soft_cross_entropy_backward")
def _(grad: Tensor, logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor, needed: list[bool]) -> tuple[Any, ...]:
    del grad, y_a, y_b
    return tuple(t.new_empty(t.shape if need else 0) for t, need in zip((logits, lam), needed, strict=True))


register_folded("mix_labels", tensors=3)
register_folded("soft_cross_entropy", tensors=4)
