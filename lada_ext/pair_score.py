"""The look-ahead score of pairs, Eq. 13: of given mixtures, of mixtures of logits, and the best of all pairs of a pool.

Where the mixed layer feeds the last linear layer, the logits of a mixture are the mixture of the logits,
lam z_i + (1 - lam) z_j. A pair then costs N C exponentials and no run of the network, and the argmax of Eq. 13 over all
pairs of a pool, which the paper approximates by one random matching, can be computed.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lada_ext._library import check_tensor, for_each, register_fake, require_op, score_dtype
from lada_ext._vmap import (
    Dims,
    fold,
    fold_index,
    fold_pool,
    lack_axes,
    one_by_one,
    pairs_of,
    register_folded,
    register_one_by_one,
    unfold,
)


def pair_score(logits_a: Tensor, logits_b: Tensor, mixed: Tensor, gamma: float = 1.0, score: str = "entropy") -> Tensor:
    """f_acq(x_i) + f_acq(x'_i) + gamma / N * sum_n f_acq(h_mix^n), Eq. 13 of the paper.

    Args:
        logits_a: (P, C) logits of x_i, in float64, float32, float16 or bfloat16.
        logits_b: (P, C) logits of x'_i, same dtype. Under autocast the widest of the three is taken.
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
    for name, value in (("logits_a", logits_a), ("logits_b", logits_b), ("mixed", mixed)):
        check_tensor("pair_score", name, value)
    return torch.ops.lada_ext.pair_score(logits_a, logits_b, mixed, gamma, score)


def indexed_pair_score(own: Tensor, pairs: Tensor, mixed: Tensor, gamma: float = 1.0, score: str = "entropy") -> Tensor:
    """Eq. 13 of pairs of a pool whose own scores are computed once, by `entropy` or `variation_ratio`.

    Args:
        own: (M,) scores of the pool, in the unit and dtype of the result.
        pairs: (P, 2) int64, rows of `own`.
        mixed: (P, N, C), gamma, score: as in `pair_score`.

    Returns:
        (P,), as `pair_score` does. Differentiable once, in `own` and `mixed`; on CUDA the gradient to `own` may differ
        in its last bits from call to call, unless ``torch.use_deterministic_algorithms(True)``.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong, or `score` is unknown, or on the CPU a pair names no row (the first is named). On
            CUDA such a pair is NaN; LADA_EXT_CHECK=1 in the environment makes it raise.
    """
    for name, value in (("own", own), ("pairs", pairs), ("mixed", mixed)):
        check_tensor("indexed_pair_score", name, value)
    return torch.ops.lada_ext.indexed_pair_score(own, pairs, mixed, gamma, score)


def mixed_pair_score(
    logits: Tensor,
    pairs: Tensor,
    tau: Tensor | float,
    n: int,
    key: Tensor,
    gamma: float = 1.0,
    score: str = "entropy",
    index: Tensor | None = None,
) -> Tensor:
    """Eq. 13 where the mixed layer feeds the last linear layer: draws lam ~ Beta(tau, tau), mixes and scores in one.

    Equals ``pair_score(a, b, beta_mix(a, b, tau, n, key, index)[0], gamma, score)`` for ``a, b = logits[pairs]``, but
    where lam or 1 - lam underflows to 0, as it does for small tau: a logit of -inf times 0 is NaN in that composition,
    while here a weight is never below the smallest normal number, so that the class stays impossible.

    Args:
        logits: (M, C) logits of the pool, in float64, float32, float16 or bfloat16.
        pairs: (P, 2) int64, rows of `logits`.
        tau: (P,) or (P, 1) concentrations, positive, or one number for all pairs.
        n: number of draws for each pair, 1 <= N < 2^31. On the CPU each thread holds those of 64 pairs, at most 1.5 KiB
            for each of the n.
        key: int64[2] from `make_key`, on the device of logits.
        gamma: weight of the look-ahead term.
        score: "entropy" (bits) or "variation_ratio".
        index: (P,) int64, what names each pair in the random stream; default 0, 1, ..., P - 1.

    Returns:
        (P,) in float32, or float64 for float64 logits; NaN for a pair with an invalid row (see `entropy`), and on the
        CPU for one with a mixed logit above 2.3e38, or 1.2e308 in float64.
        Differentiable once, in `logits` and `tau` (implicit gradient); a gradient that is not needed is not computed.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong, or `score` is unknown, or on the CPU a pair names no row or a tau is not positive
            (the first is named). On CUDA such a pair is NaN; LADA_EXT_CHECK=1 in the environment makes it raise.
    """
    check_tensor("mixed_pair_score", "logits", logits)
    check_tensor("mixed_pair_score", "pairs", pairs)
    check_tensor("mixed_pair_score", "key", key)
    taus = for_each("mixed_pair_score", tau, pairs.shape[0] if pairs.dim() else 1, score_dtype(logits), logits.device)
    return torch.ops.lada_ext.mixed_pair_score(logits, pairs, taus, n, key, gamma, score, index)


def beta_nodes(tau: float, n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the mean over lam ~ Beta(tau, tau): exact for polynomials of degree below 2 n.

    Gauss-Jacobi quadrature as the eigenvalue problem of Golub and Welsch (1969), for the weight
    (lam (1 - lam))^(tau - 1).

    Args:
        tau: the concentration, from 1e-12 to 1e150.
        n: how many nodes, at least 1.

    Returns:
        nodes (n,) in (0, 1), ascending and symmetric about 1/2, and weights (n,) with sum 1, positive but for
        underflow; float64 on the CPU.

    Raises:
        TypeError: n is not an int.
        ValueError: tau or n is not in its range.
    """
    if not isinstance(n, Integral | torch.SymInt):
        raise TypeError(f"beta_nodes: n must be an int, got {type(n).__name__}")
    if not 1e-12 <= tau <= 1e150:
        raise ValueError(f"beta_nodes: tau must lie in [1e-12, 1e150], got {tau}")
    if n < 1:
        raise ValueError(f"beta_nodes: n must be at least 1, got {n}")
    k = torch.arange(2, max(2, n), dtype=torch.float64, device="cpu")
    squares = k * (k + 2 * tau - 2) / ((2 * k + 2 * tau - 3) * (2 * k + 2 * tau - 1))
    first = torch.tensor([1 / (2 * tau + 1)], dtype=torch.float64, device="cpu")[: n - 1]
    off_diagonal = torch.cat([first, squares]).sqrt()
    x, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    weights = vectors[0] ** 2
    nodes, weights = (1 + (x - x.flip(0)) / 2) / 2, weights + weights.flip(0)
    return nodes, weights / weights.sum()


class TopPairs(NamedTuple):
    """The result of `top_pairs`."""

    scores: Tensor
    """(k,), best first; float32, or float64 for float64 logits."""
    pairs: Tensor
    """(k, 2) int64, each with the smaller index first."""
    evaluated: Tensor
    """Scorings as a fraction of all pairs; float64, no axes. Pairs of the best rows, which give the bound, are scored
    twice, so it is a little above 1 where nothing can be skipped; on CUDA all pairs may be, where more of them are
    above that bound than can be kept at once."""


def top_pairs(
    logits: Tensor,
    k: int,
    tau: float = 1.0,
    n_nodes: int = 5,
    gamma: float = 1.0,
    score: str = "entropy",
    disjoint: bool = False,
    nodes: tuple[Tensor, Tensor] | None = None,
    prune: bool = True,
) -> TopPairs:
    """The k best of all M (M - 1) / 2 pairs by Eq. 13, exactly, with the mean over lam ~ Beta(tau, tau) by quadrature.

    Pairs are skipped only where a bound shows that they cannot be among the k best: no mixture scores more than log2 C
    bits, or 1 - 1/C. Memory is O(M C + k). On CUDA the host waits for the result.

    Args:
        logits: (M, C) logits of the pool, in float64, float32, float16 or bfloat16.
        k: how many pairs.
        tau: concentration, for `beta_nodes`.
        n_nodes: number of nodes, for `beta_nodes`.
        gamma: weight of the look-ahead term.
        score: "entropy" (bits) or "variation_ratio".
        disjoint: take pairs greedily, best first, so that no image is in two of them.
        nodes: (lam, weights), each (n,) float64 on the CPU, in place of `beta_nodes(tau, n_nodes)`: another rule, or
            samples with equal weights. A rule that is not symmetric under lam -> 1 - lam is made so, as pairs have no
            order.
        prune: False scores every pair; it changes the time and `evaluated`, not the pairs.

    Returns:
        TopPairs(scores, pairs, evaluated). Ties go to the smaller first index, then the smaller second. Pairs with an
        invalid row (see `entropy`) come last, with NaN.

    Raises:
        TypeError: `logits` is not of a floating dtype.
        ValueError: there are fewer than k pairs, or an option is wrong.
    """
    check_tensor("top_pairs", "logits", logits)
    if nodes is not None and len(nodes) != 2:
        raise ValueError(f"top_pairs: nodes must be (lam, weights), got {len(nodes)} of them")
    lam, weights = beta_nodes(float(tau), n_nodes) if nodes is None else nodes
    for name, value in (("lam", lam), ("weights", weights)):
        check_tensor("top_pairs", f"{name} of nodes", value)
    if lam.dim() != 1 or lam.shape != weights.shape:
        shapes = f"{tuple(lam.shape)} and {tuple(weights.shape)}"
        raise ValueError(f"top_pairs: lam and weights of nodes must both have shape (n,), got {shapes}")
    return TopPairs(*torch.ops.lada_ext.top_pairs(logits.detach(), k, lam, weights, gamma, score, disjoint, prune))


@register_fake("lada_ext::pair_score")
def _(logits_a: Tensor, logits_b: Tensor, mixed: Tensor, gamma: float = 1.0, score: str = "entropy") -> Tensor:
    del logits_b, mixed, gamma, score
    return logits_a.new_empty(logits_a.shape[:1], dtype=score_dtype(logits_a))


@register_fake("lada_ext::pair_score_backward")
def _(
    grad: Tensor, logits_a: Tensor, logits_b: Tensor, mixed: Tensor, gamma: float, score: str, needed: list[bool]
) -> tuple[Tensor, ...]:
    del grad, gamma, score
    logits = (logits_a, logits_b, mixed)
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip(logits, needed, strict=True))


@register_fake("lada_ext::indexed_pair_score")
def _(own: Tensor, pairs: Tensor, mixed: Tensor, gamma: float = 1.0, score: str = "entropy") -> Tensor:
    del mixed, gamma, score
    return own.new_empty(pairs.shape[:1])


@register_fake("lada_ext::indexed_pair_score_backward")
def _(
    grad: Tensor, own: Tensor, pairs: Tensor, mixed: Tensor, gamma: float, score: str, needed: list[bool]
) -> tuple[Tensor, ...]:
    del grad, pairs, gamma, score
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip((own, mixed), needed, strict=True))


@register_fake("lada_ext::mixed_pair_score")
def _(
    logits: Tensor,
    pairs: Tensor,
    tau: Tensor,
    n: int,
    key: Tensor,
    gamma: float = 1.0,
    score: str = "entropy",
    index: Tensor | None = None,
) -> Tensor:
    del tau, n, key, gamma, score, index
    return logits.new_empty(pairs.shape[:1], dtype=score_dtype(logits))


@register_fake("lada_ext::mixed_pair_score_backward")
def _(
    grad: Tensor,
    logits: Tensor,
    pairs: Tensor,
    tau: Tensor,
    n: int,
    key: Tensor,
    gamma: float,
    score: str,
    index: Tensor | None,
    needed: list[bool],
) -> tuple[Tensor, ...]:
    del grad, pairs, n, key, gamma, score, index
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip((logits, tau), needed, strict=True))


require_op("lada_ext::top_pairs")


@torch.library.register_fake("lada_ext::top_pairs")  # not our own: nodes are on the CPU wherever the logits are
def _(
    logits: Tensor, k: int, nodes: Tensor, weights: Tensor, gamma: float, score: str, disjoint: bool, prune: bool
) -> tuple[Tensor, Tensor, Tensor]:
    del gamma, score, disjoint, prune
    if not logits.is_meta and (nodes.is_meta or weights.is_meta):
        raise RuntimeError(f"top_pairs: nodes must be on the CPU, got meta, with logits on {logits.device}")
    scores = logits.new_empty((k,), dtype=score_dtype(logits))
    return scores, logits.new_empty((k, 2), dtype=torch.int64), logits.new_empty((), dtype=torch.float64)


def _vmap_indexed(
    info: Any, dims: Dims, own: Tensor, pairs: Tensor, mixed: Tensor, *options: Any
) -> tuple[Tensor, int]:
    op, batch = torch.ops.lada_ext.indexed_pair_score, info.batch_size
    if lack_axes([own, mixed], [dims[0], dims[2]]) or lack_axes([pairs], dims[1:2], 2):
        return one_by_one(op, batch, dims, (own, pairs, mixed, *options))
    scores, ends = fold_pool(own, dims[0], pairs, dims[1], batch)
    return unfold(op(scores, ends, fold(mixed, dims[2], batch), *options), batch, pairs_of(pairs, dims[1]))


def _vmap_mixed(
    info: Any, dims: Dims, logits: Tensor, pairs: Tensor, tau: Tensor, n: int, key: Tensor, gamma: float = 1.0,
    score: str = "entropy", index: Tensor | None = None
) -> tuple[Tensor, int]:  # fmt: skip
    op, batch, dims = torch.ops.lada_ext.mixed_pair_score, info.batch_size, [*dims, None, None, None][:8]
    lacks = lack_axes([logits, tau, index], [dims[0], dims[2], dims[7]]) or lack_axes([pairs], dims[1:2], 2)
    if dims[4] is not None or lacks:
        return one_by_one(op, batch, dims, (logits, pairs, tau, n, key, gamma, score, index))
    rows, ends = fold_pool(logits, dims[0], pairs, dims[1], batch)
    count = pairs_of(pairs, dims[1])
    names = fold_index(index, dims[7], batch, count, pairs.device)
    return unfold(op(rows, ends, fold(tau, dims[2], batch), n, key, gamma, score, names), batch, count)


register_folded("pair_score", tensors=3)
torch.library.register_vmap("lada_ext::indexed_pair_score", _vmap_indexed)
torch.library.register_vmap("lada_ext::mixed_pair_score", _vmap_mixed)
register_one_by_one("top_pairs")
