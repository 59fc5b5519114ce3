"""The look-ahead score of a pair, Eq. 13, from the logits of its two ends and of its mixtures: one op, (P,) output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lada_ext._library import forbid_double_backward, score_dtype


def pair_score(logits_a: Tensor, logits_b: Tensor, mixed: Tensor, gamma: float = 1.0, score: str = "entropy") -> Tensor:
    """f_acq(x_i) + f_acq(x'_i) + gamma / N * sum_n f_acq(h_mix^n), Eq. 13 of the paper.

    Args:
        logits_a: (P, C) logits of x_i, in float64, float32, float16 or bfloat16.
        logits_b: (P, C) logits of x'_i, same dtype.
        mixed: (P, N, C) logits of the N mixed instances of each pair, same dtype, N >= 1.
        gamma: weight of the look-ahead term.
        score: "entropy" (bits) or "variation_ratio".

    Returns:
        (P,) in float32, or float64 for float64 logits; NaN for a pair with an invalid row (see `entropy`).
        Differentiable once, in all three tensors.

    Raises:
        TypeError: the dtypes are not floating or differ.
        ValueError: the shapes do not fit, or `score` is unknown.
    """
    return torch.ops.lada_ext.pair_score(logits_a, logits_b, mixed, gamma, score)


@torch.library.register_fake("lada_ext::pair_score")
def _(logits_a: Tensor, logits_b: Tensor, mixed: Tensor, gamma: float = 1.0, score: str = "entropy") -> Tensor:
    del logits_b, mixed, gamma, score
    return logits_a.new_empty(logits_a.shape[:1], dtype=score_dtype(logits_a))


@torch.library.register_fake("lada_ext::pair_score_backward")
def _(
    grad: Tensor, logits_a: Tensor, logits_b: Tensor, mixed: Tensor, gamma: float, score: str, needed: list[bool]
) -> tuple[Tensor, ...]:
    del grad, gamma, score
    logits = (logits_a, logits_b, mixed)
    return tuple(z.new_empty(z.shape if need else (0,)) for z, need in zip(logits, needed, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    logits_a, logits_b, mixed, ctx.gamma, ctx.score = inputs
    ctx.save_for_backward(logits_a, logits_b, mixed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = list(ctx.needs_input_grad[:3])
    grads = torch.ops.lada_ext.pair_score_backward(grad, *ctx.saved_tensors, ctx.gamma, ctx.score, needed)
    return *(g if need else None for g, need in zip(grads, needed, strict=True)), None, None


torch.library.register_autograd("lada_ext::pair_score", _backward, setup_context=_save)
forbid_double_backward("lada_ext::pair_score_backward")
