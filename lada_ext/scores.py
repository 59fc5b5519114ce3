"""Uncertainty of rows of logits: entropy, variation ratio, margin, BALD; and the best of a pool of any size.

One pass over the logits, nothing but the scores written. A row that cannot be scored, because it is all -inf or holds
NaN or +inf, gives NaN for itself alone, and NaN never ranks first.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lada_ext._library import check_tensor, register_fake, score_dtype
from lada_ext._vmap import register_one_by_one, register_rows


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
    check_tensor("entropy", "logits", logits)
    return torch.ops.lada_ext.entropy(logits, base)


def variation_ratio(logits: Tensor) -> Tensor:
    """1 - max_c softmax(logits)_c, f_acq^Var of the paper's Section 2.3, exact also for almost certain rows.

    Arguments, result and errors are those of `entropy`, without a unit. The gradient at a tie is that of the first of
    the tied classes.
    """
    check_tensor("variation_ratio", "logits", logits)
    return torch.ops.lada_ext.variation_ratio(logits)


def margin(logits: Tensor) -> Tensor:
    """1 - (p_1 - p_2) of the two likeliest classes: 1 where they tie, 0 where one class is certain.

    Arguments, result and errors are those of `entropy`, without a unit. At ties the gradient takes the first class for
    the likeliest and the next one for the second.
    """
    check_tensor("margin", "logits", logits)
    return torch.ops.lada_ext.margin(logits)


def bald(logits: Tensor, base: float = 2.0) -> Tensor:
    """H(mean_t p_t) - mean_t H(p_t): the mutual information of class and weights (Houlsby et al., 2011).

    Args:
        logits: (T, ..., C), T stochastic passes over the same instances; dtypes as for `entropy`. All axes but C
            may have any strides.
        base: unit of the result; 2 for bits, math.e for nats.

    Returns:
        (...) in float32, or float64 for float64 logits; NaN for an instance with an invalid row (see `entropy`). The
        rounding of two nearly equal entropies makes it as low as -1e-6 for 10 classes, and -3e-5 for 100,000.
        Differentiable once, in `logits`.

    Raises:
        TypeError: `logits` is not of a floating dtype.
        ValueError: `logits` has no pass or no class axis, or `base` is not a base of a logarithm.
    """
    check_tensor("bald", "logits", logits)
    return torch.ops.lada_ext.bald(logits, base)


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores and their indices, best first.

    Unlike torch.topk it is exact about ties, which go to the smaller index, and about NaN, which counts as -inf.

    Args:
        scores: (M,) in float64, float32, float16 or bfloat16.
        k: how many, at most M.

    Returns:
        values, (k,) in float32, or float64 for float64 scores, and indices, (k,) int64. Not differentiable.

    Raises:
        TypeError: `scores` is not of a floating dtype.
        ValueError: `scores` is not of shape (M,), or k is not in 0..M.
    """
    check_tensor("top_k", "scores", scores)
    values, indices = torch.ops.lada_ext.top_k(scores.detach(), k)
    return values, indices


SCORES = {"entropy": entropy, "variation_ratio": variation_ratio, "margin": margin, "bald": bald}


def topk_scores(chunks: Iterable[Tensor], k: int, score: str = "entropy") -> tuple[Tensor, Tensor]:
    """The k best of a pool that comes in chunks, such as logits read from disk: as of one chunk, in O(k) memory.

    Args:
        chunks: logits (B, C) of consecutive instances, or (T, B, C) for "bald"; B may differ. Only one is held.
        k: how many.
        score: "entropy", "variation_ratio", "margin" or "bald".

    Returns:
        values and indices as of `top_k`; an index counts instances from the first chunk on.

    Raises:
        ValueError: `score` is unknown, or there are fewer than k instances.
    """
    if score not in SCORES:
        raise ValueError(f"topk_scores: score must be one of {', '.join(map(repr, SCORES))}, got {score!r}")
    if k < 0:
        raise ValueError(f"topk_scores: k must not be negative, got {k}")
    seen = 0
    values, indices = torch.empty(0), torch.empty(0, dtype=torch.int64)
    for chunk in chunks:
        check_tensor("topk_scores", "a chunk", chunk)
        if chunk.dim() != (expected := 3 if score == "bald" else 2):
            raise ValueError(f"topk_scores: a chunk must have {expected} axes, got shape {tuple(chunk.shape)}")
        scores = SCORES[score](chunk.detach())
        best, places = top_k(scores, min(k, scores.shape[0]))
        if seen:  # what is held comes first, and wins ties, as its indices are smaller
            best, places = torch.cat([values, best]), torch.cat([indices, places + seen])
            values, order = top_k(best, min(k, len(best)))
            indices = places[order]
        else:
            values, indices = best, places
        seen += scores.shape[0]
    if k > seen:
        raise ValueError(f"topk_scores: k must be at most the number of instances, {seen}, got {k}")
    return values, indices


@register_fake("lada_ext::entropy")
def _(logits: Tensor, base: float = 2.0) -> Tensor:
    del base
    return logits.new_empty(logits.shape[:-1], dtype=score_dtype(logits))


@register_fake("lada_ext::entropy_backward")
def _(grad: Tensor, logits: Tensor, base: float) -> Tensor:
    del grad, base
    return logits.new_empty(logits.shape)


@register_fake("lada_ext::bald")
def _(logits: Tensor, base: float = 2.0) -> Tensor:
    del base
    return logits.new_empty(logits.shape[1:-1], dtype=score_dtype(logits))


@register_fake("lada_ext::bald_backward")
def _(grad: Tensor, logits: Tensor, base: float) -> Tensor:
    del grad, base
    return logits.new_empty(logits.shape)


@register_fake("lada_ext::top_k")
def _(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return scores.new_empty((k,), dtype=score_dtype(scores)), scores.new_empty((k,), dtype=torch.int64)


def _fake_score(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[:-1], dtype=score_dtype(logits))


def _fake_score_backward(grad: Tensor, logits: Tensor) -> Tensor:
    del grad
    return logits.new_empty(logits.shape)


for _op in ("variation_ratio", "margin"):
    register_fake(f"lada_ext::{_op}")(_fake_score)
    register_fake(f"lada_ext::{_op}_backward")(_fake_score_backward)

for _op in ("entropy", "variation_ratio", "margin"):
    register_rows(_op)
register_rows("bald", leading=1)
register_one_by_one("top_k")
