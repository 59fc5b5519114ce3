"""The spatial transformer in one op: an image sampled under an affine map, without a grid in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lada_ext._library import forbid_double_backward


def affine_sample(
    image: Tensor,
    theta: Tensor,
    size: Sequence[int] | None = None,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """``F.grid_sample(image, F.affine_grid(theta, size))``: f_S(x, f_T(G; nu)), Eq. 3 of the paper.

    Args:
        image: (B, channels, H, W) in float64, float32, float16 or bfloat16.
        theta: (B, 2, 3) affine maps from output to input coordinates in [-1, 1], or (B, K, 2, 3) for K maps an image.
        size: (h, w) of the output; default that of the image.
        mode: "bilinear" or "nearest".
        padding_mode: "zeros", "border" or "reflection".
        align_corners: whether -1 and 1 are the centres (True) or the outer edges (False) of the corner pixels.

    Returns:
        (B, channels, h, w), or (B, K, channels, h, w), with the dtype of `image`. A pixel whose coordinates are not
        finite is NaN. Differentiable once, in `image` and `theta`, with torch's subgradients. On CUDA the gradient to
        the image is bitwise repeatable only under ``torch.use_deterministic_algorithms(True)``.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or an option is wrong.
    """
    height_width = list(image.shape[-2:] if size is None else size)
    return torch.ops.lada_ext.affine_sample(image, theta, height_width, mode, padding_mode, align_corners)


@torch.library.register_fake("lada_ext::affine_sample")
def _(
    image: Tensor,
    theta: Tensor,
    size: list[int],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    del mode, padding_mode, align_corners
    return image.new_empty((*theta.shape[:-2], image.shape[1], *size))


@torch.library.register_fake("lada_ext::affine_sample_backward")
def _(
    grad: Tensor,
    image: Tensor,
    theta: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    needed: list[bool],
) -> tuple[Tensor, ...]:
    del grad, mode, padding_mode, align_corners
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip((image, theta), needed, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    image, theta, _, *ctx.options = inputs
    ctx.save_for_backward(image, theta)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = list(ctx.needs_input_grad[:2])
    grads = torch.ops.lada_ext.affine_sample_backward(grad, *ctx.saved_tensors, *ctx.options, needed)
    return *(g if need else None for g, need in zip(grads, needed, strict=True)), None, None, None, None


torch.library.register_autograd("lada_ext::affine_sample", _backward, setup_context=_save)
forbid_double_backward("lada_ext::affine_sample_backward")
