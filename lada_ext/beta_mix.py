"""Mixing with lam ~ Beta(tau, tau): an exact sampler for every tau, fused with the interpolation it is drawn for.

lam of pair p, sample n is a pure function of (key, index[p], n, tau[p]); it does not depend on the batch around it, the
number of threads or the device. The gradient to tau is the implicit (optimal mass transport) one of the paper's
Section 3.3.1, accurate to float precision for every tau > 0. Its autograd is csrc/autograd.cpp.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lada_ext._library import check_tensor, for_each, register_fake, score_dtype
from lada_ext._vmap import Dims, fold, fold_index, fold_pool, lack_axes, one_by_one, pairs_of, unfold

Gradient = Literal["implicit", "pathwise"]
Mixed = tuple[Tensor, Tensor]
_ops = torch.ops.lada_ext


def beta_sample(
    tau: Tensor | float,
    n: int,
    key: Tensor,
    index: Tensor | None = None,
    *,
    grad: Gradient = "implicit",
    log_tau: bool = False,
) -> Tensor:
    """Draws lam ~ Beta(tau, tau), n times for each pair.

    Args:
        tau: (P,) or (P, 1) concentrations, positive, in float64, float32, float16 or bfloat16; or one number for all
            pairs, of which there are as many as `index` names, or one.
        n: number of draws for each pair.
        key: int64[2] from `make_key`, on the device of tau.
        index: (P,) int64, what names each pair in the random stream; default 0, 1, ..., P - 1.
        grad: which derivative to tau: "implicit", at a fixed value of the CDF; or "pathwise", at fixed uniform numbers.
            Both are unbiased; the variance of the implicit one is never larger.
        log_tau: `tau` holds log tau, any number above -inf, and the gradient is that to log tau, which stays bounded.

    Returns:
        lam, (P, n) in float32, or float64 for float64 tau. Both use the same random bits, so they agree to rounding.
        Differentiable once, in `tau`. tau = inf gives 1/2.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or `grad` is wrong, or on the CPU a tau is not positive (the first is named). On CUDA such
            a tau gives NaN for its pair alone; LADA_EXT_CHECK=1 in the environment makes it raise.
    """
    check_tensor("beta_sample", "key", key)
    if index is not None:
        check_tensor("beta_sample", "index", index)
    pairs = 1 if index is None or index.dim() == 0 else index.shape[0]
    taus = for_each("beta_sample", tau, pairs, torch.float32, key.device)
    return _ops.beta_sample(taus, n, key, index, grad, log_tau)


def beta_mix(
    a: Tensor,
    b: Tensor,
    tau: Tensor | float,
    n: int,
    key: Tensor,
    index: Tensor | None = None,
    *,
    grad: Gradient = "implicit",
    log_tau: bool = False,
    out: Mixed | None = None,
) -> Mixed:
    """h_mix^n = lam^n a + (1 - lam^n) b with lam^n ~ Beta(tau, tau), Eq. 10 of the paper.

    For small tau, lam or 1 - lam underflows to 0, and 0 times an infinite feature is NaN: logits of -inf are for
    `mixed_pair_score`, which keeps both weights positive.

    Args:
        a: (P, ...) features or images in float64, float32, float16 or bfloat16, of any strides. Rows that lie apart, or
            repeat, are read where they are.
        b: like `a`. Under autocast its dtype may differ, but with `out`; the wider one is taken.
        tau: (P,) or (P, 1) concentrations, positive, or one number for all pairs.
        n: number of mixtures of each pair.
        key: int64[2] from `make_key`, on the device of a.
        index: (P,) int64, what names each pair in the random stream; default 0, 1, ..., P - 1.
        grad, log_tau: see `beta_sample`.
        out: (mixed, lam) to be written into, of just the shapes, dtypes and strides that the results would have; no
            gradients then.

    Returns:
        mixed, (P, n, ...) with the dtype of `a`, channels last where `a` is; and lam, (P, n) in float32, or float64 for
        float64 features. Differentiable once, in a, b and tau; a gradient that is not needed is neither computed nor
        allocated.

    Raises:
        TypeError: a dtype is wrong, or `out` is no pair of tensors.
        ValueError: a shape, a stride of `out` or `grad` is wrong, or on the CPU a tau is not positive (see
            `beta_sample`).
    """
    check_tensor("beta_mix", "a", a)
    check_tensor("beta_mix", "key", key)
    taus = for_each("beta_mix", tau, a.shape[0] if a.dim() else 1, score_dtype(a), a.device)
    if out is None:
        mixed, lam = _ops.beta_mix(a, b, taus, n, key, index, grad, log_tau)
        return mixed, lam
    check_gradient("beta_mix", grad)
    results = _tensors_of("beta_mix", out)
    _ops.beta_mix.out(a, b, taus, n, key, index, log_tau, mixed=results[0], lam=results[1])
    return results


def beta_mix_pairs(
    h: Tensor,
    pairs: Tensor,
    tau: Tensor | float,
    n: int,
    key: Tensor,
    index: Tensor | None = None,
    *,
    grad: Gradient = "implicit",
    log_tau: bool = False,
    out: Mixed | None = None,
) -> Mixed:
    """`beta_mix` of the rows ``h[pairs[:, 0]]`` and ``h[pairs[:, 1]]``, which are read in place.

    Args:
        h: (M, ...) features or images.
        pairs: (P, 2) int64, rows of h. A row may occur in several pairs; their gradients to it are summed, always in
            the same order.
        tau, n, key, index, grad, log_tau, out: as in `beta_mix`.

    Returns:
        mixed, (P, n, ...), and lam, (P, n), as in `beta_mix`. Differentiable once, in h and tau.

    Raises:
        TypeError, ValueError: as `beta_mix`; ValueError, too, if on the CPU a row does not exist (the first is named).
            On CUDA a pair of rows that do not exist gives NaN.
    """
    check_tensor("beta_mix_pairs", "h", h)
    check_tensor("beta_mix_pairs", "pairs", pairs)
    check_tensor("beta_mix_pairs", "key", key)
    taus = for_each("beta_mix_pairs", tau, pairs.shape[0] if pairs.dim() else 1, score_dtype(h), h.device)
    if out is None:
        mixed, lam = _ops.beta_mix_pairs(h, pairs, taus, n, key, index, grad, log_tau)
        return mixed, lam
    check_gradient("beta_mix_pairs", grad)
    results = _tensors_of("beta_mix_pairs", out)
    _ops.beta_mix_pairs.out(h, pairs, taus, n, key, index, log_tau, mixed=results[0], lam=results[1])
    return results


def beta_logit_grad(x: Tensor, tau: Tensor) -> Tensor:
    """dx/dtau at a fixed value of the CDF of Beta(tau, tau), for the logit x = log(lam / (1 - lam)).

    Args:
        x: logits, any shape.
        tau: concentrations, positive; same shape and dtype.

    Returns:
        Like `x`; odd in x, exactly 0 at x = 0, finite for every x that is not NaN. Relative error at most 1e-6 in
        float32 and 1e-10 in float64. Not differentiable.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: the shapes differ, or on the CPU a tau is not positive.
    """
    check_tensor("beta_logit_grad", "x", x)
    check_tensor("beta_logit_grad", "tau", tau)
    return _ops.beta_logit_grad(x, tau)


def check_gradient(op: str, grad: str) -> None:
    if grad not in get_args(Gradient):
        raise ValueError(f"{op}: grad must be 'implicit' or 'pathwise', got {grad!r}")


def _tensors_of(op: str, out: Mixed) -> Mixed:
    if not isinstance(out, tuple | list) or len(out) != 2:
        size = f" of {len(out)}" if isinstance(out, tuple | list) else ""
        raise TypeError(f"{op}: out must be a pair of tensors, (mixed, lam), got {type(out).__name__}{size}")
    for name, tensor in zip(("mixed", "lam"), out, strict=True):
        check_tensor(op, f"{name} of out", tensor)
    return out


def _order_of(rows: Tensor) -> torch.memory_format:
    """In which order the features of a row lie in memory, as csrc/beta_mix/beta_mix.cpp decides it."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(rows.dim())
    one = rows[:1]
    if last is None or one.is_contiguous() or not one.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


def _like_rows(features: Tensor | None, grad_mixed: Tensor | None, rows: int, channels_last: bool) -> Tensor:
    """The gradient to the rows of `features`; without them it has the type and the shape of those of grad_mixed."""
    if features is not None:
        return torch.empty_like(features, memory_format=_order_of(features))
    assert grad_mixed is not None
    shape, order = (rows, *grad_mixed.shape[2:]), torch.contiguous_format
    if channels_last:
        order = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    return torch.empty(shape, dtype=grad_mixed.dtype, device=grad_mixed.device, memory_format=order)


def _like_mixed(rows: Tensor, pairs: int, n: int) -> Mixed:
    shape = (pairs * n, *rows.shape[1:])
    flat = torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=_order_of(rows))
    return flat.view(pairs, n, *rows.shape[1:]), rows.new_empty((pairs, n), dtype=score_dtype(rows))


@register_fake("lada_ext::beta_logit_grad")
def _(x: Tensor, tau: Tensor) -> Tensor:
    del tau
    return x.new_empty(x.shape)


@register_fake("lada_ext::beta_sample")
def _(tau: Tensor, n: int, *_: Any) -> Tensor:
    return tau.new_empty((tau.shape[0], n), dtype=score_dtype(tau))


@register_fake("lada_ext::beta_sample_backward")
def _(grad_lam: Tensor, tau: Tensor, *_: Any) -> Tensor:
    del grad_lam
    return tau.new_empty(tau.shape)


@register_fake("lada_ext::beta_mix")
def _(a: Tensor, b: Tensor, tau: Tensor, n: int, *_: Any) -> Mixed:
    del b, tau
    return _like_mixed(a, a.shape[0], n)


@register_fake("lada_ext::beta_mix_pairs")
def _(h: Tensor, pairs: Tensor, tau: Tensor, n: int, *_: Any) -> Mixed:
    del tau
    return _like_mixed(h, pairs.shape[0], n)


for _name in ("beta_mix.out", "beta_mix_pairs.out"):
    register_fake(f"lada_ext::{_name}")(lambda *args, **out: None)


@register_fake("lada_ext::beta_mix_backward")
def _(
    grad_mixed: Tensor | None,
    grad_lam: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    tau: Tensor,
    key: Tensor,
    index: Tensor | None,
    grad: str,
    log_tau: bool,
    needed: list[bool],
    channels_last: bool = False,
) -> tuple[Tensor, ...]:
    del grad_lam, b, key, index, grad, log_tau
    grads = [_like_rows(a, grad_mixed, tau.shape[0], channels_last) for _ in "ab"]
    grads.append(tau.new_empty(tau.shape))
    return tuple(g if need else g.new_empty(0) for g, need in zip(grads, needed, strict=True))


@register_fake("lada_ext::beta_mix_pairs_backward")
def _(
    grad_mixed: Tensor | None,
    grad_lam: Tensor | None,
    h: Tensor | None,
    pairs: Tensor,
    tau: Tensor,
    key: Tensor,
    index: Tensor | None,
    grad: str,
    log_tau: bool,
    needed: list[bool],
    rows: int = 0,
    channels_last: bool = False,
) -> Mixed:
    del grad_lam, pairs, key, index, grad, log_tau
    grad_h = _like_rows(h, grad_mixed, rows, channels_last)
    return grad_h if needed[0] else grad_h.new_empty(0), tau.new_empty(tau.shape if needed[1] else 0)


def _vmap_sample(
    info: Any, dims: Dims, tau: Tensor, n: int, key: Tensor, index: Tensor | None = None, *options: Any
) -> tuple[Any, Any]:
    args, dims, batch = (tau, n, key, index, *options), [*dims, None], info.batch_size
    if dims[2] is not None or lack_axes([tau, index], [dims[0], dims[3]]):
        return one_by_one(_ops.beta_sample, batch, dims[: len(args)], args)
    taus, pairs = fold(tau, dims[0], batch), pairs_of(tau, dims[0])
    names = fold_index(index, dims[3], batch, pairs, taus.device)
    return unfold(_ops.beta_sample(taus, n, key, names, *options), batch, pairs)


def _vmap_mix(
    info: Any, dims: Dims, a: Tensor, b: Tensor, tau: Tensor, n: int, key: Tensor, index: Tensor | None = None,
    *options: Any
) -> tuple[Any, Any]:  # fmt: skip
    args, dims, batch = (a, b, tau, n, key, index, *options), [*dims, None], info.batch_size
    if dims[4] is not None or lack_axes([a, b, tau, index], [*dims[:3], dims[5]]):
        return one_by_one(_ops.beta_mix, batch, dims[: len(args)], args)
    a, b, taus = (fold(t, d, batch) for t, d in zip((a, b, tau), dims[:3], strict=True))
    pairs = pairs_of(tau, dims[2])
    names = fold_index(index, dims[5], batch, pairs, taus.device)
    return unfold(_ops.beta_mix(a, b, taus, n, key, names, *options), batch, pairs)


def _vmap_mix_pairs(
    info: Any, dims: Dims, h: Tensor, pairs: Tensor, tau: Tensor, n: int, key: Tensor, index: Tensor | None = None,
    *options: Any
) -> tuple[Any, Any]:  # fmt: skip
    args, dims, batch = (h, pairs, tau, n, key, index, *options), [*dims, None], info.batch_size
    lacks = lack_axes([h, tau, index], [dims[0], dims[2], dims[5]]) or lack_axes([pairs], dims[1:2], 2)
    if dims[4] is not None or lacks:
        return one_by_one(_ops.beta_mix_pairs, batch, dims[: len(args)], args)
    h, pairs = fold_pool(h, dims[0], pairs, dims[1], batch)
    taus, count = fold(tau, dims[2], batch), pairs_of(tau, dims[2])
    names = fold_index(index, dims[5], batch, count, taus.device)
    return unfold(_ops.beta_mix_pairs(h, pairs, taus, n, key, names, *options), batch, count)


def _vmap_logit_grad(info: Any, dims: Dims, *args: Tensor) -> tuple[Tensor, int]:
    """Element by element."""
    x, tau = (
        a.expand(info.batch_size, *a.shape) if d is None else a.movedim(d, 0) for a, d in zip(args, dims, strict=True)
    )
    return _ops.beta_logit_grad(x, tau), 0


torch.library.register_vmap("lada_ext::beta_logit_grad", _vmap_logit_grad)
torch.library.register_vmap("lada_ext::beta_sample", _vmap_sample)
torch.library.register_vmap("lada_ext::beta_mix", _vmap_mix)
torch.library.register_vmap("lada_ext::beta_mix_pairs", _vmap_mix_pairs)
