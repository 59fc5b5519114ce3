"""The spatial transformer in one op: an image sampled under an affine map, without a grid in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lada_ext._images import Numbers, constants, empty_images
from lada_ext._library import check_tensor, register_fake


def affine_sample(
    image: Tensor,
    theta: Tensor,
    size: Sequence[int] | None = None,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    normalize: tuple[Numbers, Numbers] | None = None,
) -> Tensor:
    """``F.grid_sample(image, F.affine_grid(theta, size))``: f_S(x, f_T(G; nu)), Eq. 3 of the paper.

    Args:
        image: (B, channels, H, W) in float64, float32, float16, bfloat16, or in uint8, which is read as image / 255.
        theta: (B, 2, 3) affine maps from output to input coordinates in [-1, 1], or (B, K, 2, 3) for K maps an image,
            in any of the floating dtypes.
        size: (h, w) of the output; default that of the image.
        mode: "bilinear", "nearest" or "bicubic".
        padding_mode: "zeros", "border" or "reflection".
        align_corners: whether -1 and 1 are the centres (True) or the outer edges (False) of the corner pixels.
        normalize: (mean, std), each (channels,): samples (image - mean) / std; zeros of the padding stay zeros. Tensors
            on the device of the image need no copy.

    Returns:
        (B, channels, h, w), or (B, K, channels, h, w), with the dtype of `image`, float32 for uint8; channels last if
        `image` is. A pixel whose coordinates are not finite is NaN where torch's is: with zero padding except for
        "nearest", and for "bicubic". Differentiable once, in `image` and `theta`, with torch's subgradients; a gradient
        that is not needed is not computed. Arithmetic is in float32 (float64 for float64), also under autocast. On CUDA
        the gradient to the image is bitwise repeatable only under ``torch.use_deterministic_algorithms(True)``.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or an option is wrong, or a std is not positive (on CUDA only with LADA_EXT_CHECK=1).
    """
    check_tensor("affine_sample", "image", image)
    check_tensor("affine_sample", "theta", theta)
    if isinstance(size, int):
        raise TypeError(f"affine_sample: size must be a height and a width, got {size}")
    height_width = list(image.shape[-2:] if size is None else size)
    mean, std = constants("affine_sample", image, normalize)
    return torch.ops.lada_ext.affine_sample(image, theta, height_width, mode, padding_mode, align_corners, mean, std)


@register_fake("lada_ext::affine_sample")
def _(
    image: Tensor,
    theta: Tensor,
    size: list[int],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    del mode, padding_mode, align_corners, mean, std
    channels, leading = image.shape[1], theta.shape[:-2]
    dtype = torch.float32 if image.dtype == torch.uint8 else image.dtype
    out = empty_images(image, (math.prod(leading), channels, *size), dtype)
    return out.view(*leading, channels, *size) if len(leading) == 2 else out


@register_fake("lada_ext::affine_sample_backward")
def _(
    grad: Tensor,
    image: Tensor,
    theta: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    mean: Tensor | None,
    std: Tensor | None,
    needed: list[bool],
) -> tuple[Tensor, Tensor]:
    del grad, mode, padding_mode, align_corners, mean, std
    grad_image = empty_images(image, image.shape, image.dtype) if needed[0] else image.new_empty((0,))
    return grad_image, theta.new_empty(theta.shape if needed[1] else (0,))


def _batched(tensor: Tensor, dim: int | None, count: int) -> Tensor:
    """(count, B, ...) of a tensor with its vmapped axis at `dim`, or without one."""
    return tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _refuse_batched_constants(dims: Sequence[int | None]) -> None:
    if any(dim is not None for dim in dims):
        raise ValueError("affine_sample: vmap over mean or std is not supported")


@torch.library.register_vmap("lada_ext::affine_sample")
def _(
    info: Any,
    in_dims: tuple[int | None, ...],
    image: Tensor,
    theta: Tensor,
    size: list[int],
    *options: Any,
) -> tuple[Tensor, int]:
    """Maps of an image that is not vmapped become its K maps, so that it is not copied."""
    image_dim, theta_dim = in_dims[:2]
    _refuse_batched_constants([dim for dim in in_dims[6:8] if not isinstance(dim, list)])
    op = torch.ops.lada_ext.affine_sample
    thetas = _batched(theta, theta_dim, info.batch_size)
    if image_dim is None:
        several = thetas.movedim(0, 1)  # (B, V, 2, 3), or (B, V, K, 2, 3)
        out = op(image, several.reshape(len(image), math.prod(several.shape[1:-2]), 2, 3), size, *options)
        return out.unflatten(1, several.shape[1:-2]), 1
    images = _batched(image, image_dim, info.batch_size)
    out = op(images.flatten(0, 1), thetas.flatten(0, 1), size, *options)
    return out.unflatten(0, images.shape[:2]), 0


@torch.library.register_vmap("lada_ext::affine_sample_backward")
def _(
    info: Any,
    in_dims: tuple[int | None, ...],
    grad: Tensor,
    image: Tensor,
    theta: Tensor,
    *options: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    _refuse_batched_constants([dim for dim in in_dims[6:8] if not isinstance(dim, list)])
    tensors = [
        _batched(tensor, dim, info.batch_size) for tensor, dim in zip((grad, image, theta), in_dims[:3], strict=True)
    ]
    shape = tensors[1].shape[:2]
    grads = torch.ops.lada_ext.affine_sample_backward(*(t.flatten(0, 1) for t in tensors), *options)
    needed = options[-1]
    whole = tuple(g.unflatten(0, shape) if need else g.new_empty((info.batch_size, 0))
                  for g, need in zip(grads, needed, strict=True))  # fmt: skip
    return (whole[0], whole[1]), (0, 0)
