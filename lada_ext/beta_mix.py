"""Mixing with lam ~ Beta(tau, tau): an exact sampler for every tau, fused with the interpolation it is drawn for.

lam of pair p, sample n is a pure function of (key, index[p], n, tau[p]); it does not depend on the batch around it, the
number of threads or the device. The gradient to tau is the implicit (optimal mass transport) one of the paper's
Section 3.3.1, accurate to float precision for every tau > 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lada_ext._library import forbid_double_backward, score_dtype


def beta_sample(tau: Tensor, n: int, key: Tensor, index: Tensor | None = None) -> Tensor:
    """Draws lam ~ Beta(tau, tau), n times for each pair.

    Args:
        tau: (P,) concentrations, positive, in float64, float32, float16 or bfloat16.
        n: number of draws for each pair.
        key: int64[2] from `make_key`, on the device of tau.
        index: (P,) int64, what names each pair in the random stream; default 0, 1, ..., P - 1.

    Returns:
        lam, (P, n) in float32, or float64 for float64 tau. Both use the same random bits, so they agree to rounding.
        Differentiable once, in `tau`: implicit gradient. tau = inf gives 1/2.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong, or on the CPU a tau is not positive (the first is named). On CUDA such a tau gives
            NaN for its pair alone; LADA_EXT_CHECK=1 in the environment makes it raise.
    """
    return torch.ops.lada_ext.beta_sample(tau, n, key, index)


def beta_mix(
    a: Tensor, b: Tensor, tau: Tensor | float, n: int, key: Tensor, index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """h_mix^n = lam^n a + (1 - lam^n) b with lam^n ~ Beta(tau, tau), Eq. 10 of the paper.

    Args:
        a: (P, ...) features or images in float64, float32, float16 or bfloat16.
        b: like `a`.
        tau: (P,) or (P, 1) concentrations, positive, or one number for all pairs.
        n: number of mixtures of each pair.
        key: int64[2] from `make_key`, on the device of a.
        index: (P,) int64, what names each pair in the random stream; default 0, 1, ..., P - 1.

    Returns:
        mixed, (P, n, ...) with the dtype of `a`, and lam, (P, n) in float32, or float64 for float64 features.
        Differentiable once, in a, b and tau (implicit gradient); a gradient that is not needed is not computed.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong, or on the CPU a tau is not positive (see `beta_sample`).
    """
    mixed, lam = torch.ops.lada_ext.beta_mix(a, b, _tau_of_pairs(tau, a), n, key, index)
    return mixed, lam


def beta_logit_grad(x: Tensor, tau: Tensor) -> Tensor:
    """dx/dtau at a fixed value of the CDF of Beta(tau, tau), for the logit x = log(lam / (1 - lam)).

    Args:
        x: logits, any shape.
        tau: concentrations, positive; same shape and dtype.

    Returns:
        Like `x`; odd in x, exactly 0 at x = 0, finite for every finite x and tau. Relative error at most 1e-6 in
        float32 and 1e-10 in float64. Not differentiable.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: the shapes differ, or on the CPU a tau is not positive.
    """
    return torch.ops.lada_ext.beta_logit_grad(x, tau)


def _tau_of_pairs(tau: Tensor | float, a: Tensor) -> Tensor:
    if not isinstance(tau, Tensor):
        return torch.full(a.shape[:1], float(tau), dtype=score_dtype(a), device=a.device)
    if tau.dim() == 0:
        return tau.expand(a.shape[:1])
    return tau.squeeze(1) if tau.dim() == 2 and tau.shape[1] == 1 else tau


@torch.library.register_fake("lada_ext::beta_logit_grad")
def _(x: Tensor, tau: Tensor) -> Tensor:
    del tau
    return x.new_empty(x.shape)


@torch.library.register_fake("lada_ext::beta_sample")
def _(tau: Tensor, n: int, key: Tensor, index: Tensor | None = None) -> Tensor:
    del key, index
    return tau.new_empty((tau.shape[0], n), dtype=score_dtype(tau))


@torch.library.register_fake("lada_ext::beta_sample_backward")
def _(grad: Tensor, tau: Tensor, key: Tensor, index: Tensor | None) -> Tensor:
    del grad, key, index
    return tau.new_empty(tau.shape)


@torch.library.register_fake("lada_ext::beta_mix")
def _(a: Tensor, b: Tensor, tau: Tensor, n: int, key: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
    del b, key, index
    mixed = a.new_empty((a.shape[0], n, *a.shape[1:]))
    return mixed, tau.new_empty((a.shape[0], n), dtype=score_dtype(a))


@torch.library.register_fake("lada_ext::beta_mix_backward")
def _(
    grad_mixed: Tensor,
    grad_lam: Tensor,
    a: Tensor,
    b: Tensor,
    tau: Tensor,
    key: Tensor,
    index: Tensor | None,
    needed: list[bool],
) -> tuple[Tensor, ...]:
    del grad_mixed, grad_lam, key, index
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip((a, b, tau), needed, strict=True))


def _save_sample(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    tau, _, key, index = inputs
    ctx.save_for_backward(tau, key, index)


def _sample_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return torch.ops.lada_ext.beta_sample_backward(grad, *ctx.saved_tensors), None, None, None


def _save_mix(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    del output
    a, b, tau, _, key, index = inputs
    ctx.save_for_backward(a, b, tau, key, index)


def _mix_backward(ctx: Any, grad_mixed: Tensor, grad_lam: Tensor) -> tuple[Tensor | None, ...]:
    needed = list(ctx.needs_input_grad[:3])
    grads = torch.ops.lada_ext.beta_mix_backward(grad_mixed, grad_lam, *ctx.saved_tensors, needed)
    return *(g if need else None for g, need in zip(grads, needed, strict=True)), None, None, None


torch.library.register_autograd("lada_ext::beta_sample", _sample_backward, setup_context=_save_sample)
torch.library.register_autograd("lada_ext::beta_mix", _mix_backward, setup_context=_save_mix)
for _op in ("beta_logit_grad", "beta_sample_backward", "beta_mix_backward"):
    forbid_double_backward(f"lada_ext::{_op}")
