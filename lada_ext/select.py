"""Which rows of a pool to label together: k-center greedy, BADGE, and the consistency score of CAL.

The selections are exact, but lazy: a row's distance to the nearest pick can only fall, so what was computed some picks
ago is an upper bound, and a row is looked at again only when its bound says that it could be the next pick.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lada_ext._library import check_tensor, register_fake, score_dtype
from lada_ext._vmap import Dims, lack_axes, one_by_one, register_one_by_one


def k_center_greedy(features: Tensor, centers: Tensor, k: int) -> Tensor:
    """Farthest-first picks: k times the row that is farthest from all centers and from the rows picked before.

    The greedy 2-approximation of the k-center problem in Euclidean distance: the Coreset baseline of the paper
    (Sener and Savarese 2018).

    Args:
        features: (M, D) in float64, float32, float16 or bfloat16; any strides.
        centers: (L, D) with the dtype of `features`: what is covered from the start, such as the labelled rows. With
            L = 0 the first pick is the row of greatest norm.
        k: number of picks, at most M.

    Returns:
        (k,) int64, distinct rows of `features` in the order of the picks. Ties go to the lower row. Memory beyond the
        inputs is O(M + k). On CUDA nothing waits for the device. Not differentiable.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or k is wrong; or on the CPU a row's squared norm is not finite (the first is named). On
            CUDA such a row is picked last, and such a center covers nothing; LADA_EXT_CHECK=1 in the environment
            makes it raise.
    """
    check_tensor("k_center_greedy", "features", features)
    check_tensor("k_center_greedy", "centers", centers)
    return torch.ops.lada_ext.k_center_greedy(features, centers, k)


def badge_select(features: Tensor, logits: Tensor, k: int, key: Tensor) -> Tensor:
    """BADGE: k-means++ seeding over the gradients that the last layer would get (Ash et al. 2020).

    The embedding of row i is g_i = q_i (x) h_i, with h_i its features and q_i = softmax(logits_i) - onehot(argmax). The
    first pick is the row of greatest norm; each next one is drawn, without replacement, with probability in
    proportion to the squared distance to the nearest pick. g is never formed:
    |g_i - g_j|^2 = |q_i|^2 |h_i|^2 + |q_j|^2 |h_j|^2 - 2 (q_i . q_j) (h_i . h_j), clamped at 0.

    Args:
        features: (M, D), what the last linear layer sees, in float64, float32, float16 or bfloat16; any strides.
        logits: (M, C) with the dtype of `features`. A logit of -inf is probability zero.
        k: number of picks, at most M.
        key: int64[2] from `make_key`, on the device of features.

    Returns:
        (k,) int64, distinct rows in the order of the picks: a pure function of the inputs, the same on CPU and CUDA but
        for rounding. Where every remaining distance is 0 the draw is uniform. Memory beyond the inputs is O(M C + k).
        Not differentiable.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or k is wrong; or on the CPU an embedding's squared norm is not finite (the first is named).
            On CUDA such a row is picked last; LADA_EXT_CHECK=1 in the environment makes it raise.
    """
    for name, value in (("features", features), ("logits", logits), ("key", key)):
        check_tensor("badge_select", name, value)
    return torch.ops.lada_ext.badge_select(features, logits, k, key)


def consistency_variance(logits: Tensor) -> Tensor:
    """The score of CAL (Gao et al. 2020): sum over classes of the variance of p_c over the views of an instance.

    Args:
        logits: (V, M, C), of V views of each of M instances, in float64, float32, float16 or bfloat16; any strides. A
            logit of -inf is probability zero.

    Returns:
        (M,) in float32, or float64 for float64 logits. The variance divides by V, as the authors' does, so that one
        view scores 0; it is at most 1 - 1/C. An instance with a row that is all -inf, or holds NaN or +inf, gives NaN.
        Differentiable once, in `logits`.

    Raises:
        TypeError: `logits` is not of a floating dtype.
        ValueError: `logits` has not three axes, or no view or no class.
    """
    check_tensor("consistency_variance", "logits", logits)
    return torch.ops.lada_ext.consistency_variance(logits)


@register_fake("lada_ext::k_center_greedy")
def _(features: Tensor, centers: Tensor, k: int) -> Tensor:
    del centers
    return features.new_empty((k,), dtype=torch.int64)


@register_fake("lada_ext::badge_select")
def _(features: Tensor, logits: Tensor, k: int, key: Tensor) -> Tensor:
    del logits, key
    return features.new_empty((k,), dtype=torch.int64)


@register_fake("lada_ext::consistency_variance")
def _(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[1:2], dtype=score_dtype(logits))


@register_fake("lada_ext::consistency_variance_backward")
def _(grad: Tensor, logits: Tensor) -> Tensor:
    del grad
    return logits.new_empty(logits.shape)


@torch.library.register_vmap("lada_ext::consistency_variance")
def _(info: Any, dims: Dims, logits: Tensor) -> tuple[Tensor, int]:
    """Instances of all maps, one map after another."""
    op, batch = torch.ops.lada_ext.consistency_variance, info.batch_size
    if lack_axes([logits], dims, 3):
        return one_by_one(op, batch, dims, [logits])
    assert dims[0] is not None
    maps = logits.movedim(dims[0], 1)
    return op(maps.flatten(1, 2)).unflatten(0, maps.shape[1:3]), 0


for _op in ("k_center_greedy", "badge_select"):
    register_one_by_one(_op)
