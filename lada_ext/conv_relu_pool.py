"""Convolution, ReLU and 2 x 2 pooling in one pass: the blocks that the paper's policy networks are made of."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lada_ext._library import check_tensor, register_fake
from lada_ext._vmap import Dims, fold, lack_axes, one_by_one, pairs_of, unfold

_ops = torch.ops.lada_ext
Pool = Literal["max", "mean"]


def conv_relu_pool(
    image: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0, pool: Pool = "max"
) -> Tensor:
    """``max_pool2d(relu(conv2d(image, weight, bias, padding=padding)), 2)``, as pi_phi (Eq. 9) and STN's f_tau begin.

    On the CPU an op: nothing between is written, and the backward pass leaves out products that are 0, three quarters
    of them or more behind max-pooling. On other devices it is that composition, with its errors.

    Args:
        image: (B, C, H, W) in float64, float32, float16 or bfloat16; fastest in the memory format channels_last.
        weight: (O, C, KH, KW), same dtype. Under autocast the wider dtype of both is taken.
        bias: (O,), same dtype, or None.
        padding: zeros around the image, on each side.
        pool: "max", or "mean" for ``avg_pool2d``.

    Returns:
        (B, O, (H + 2 padding - KH + 1) // 2, (W + 2 padding - KW + 1) // 2) with the dtype of `image`, channels_last.
        Sums are in float32, or float64 for float64. Differentiable once, in `image`, `weight` and `bias`; bitwise
        repeatable with any number of threads. NaN is the greatest of its window, and of equals the first one gets the
        gradient, as in torch; but products that are left out are 0 where torch's are NaN, because what a gradient of 0
        meets in `image` is infinite or NaN.

    Raises:
        TypeError: the dtypes are not floating or differ.
        ValueError: a shape is wrong, `padding` is negative, no window of 2 x 2 results is whole, or `pool` is neither.
    """
    check_tensor("conv_relu_pool", "image", image)
    check_tensor("conv_relu_pool", "weight", weight)
    check_pool("conv_relu_pool", pool)
    if image.device.type in ("cpu", "meta"):
        return _ops.conv_relu_pool(image, weight, bias, padding, pool == "mean")[0]
    return pooled(F.relu(F.conv2d(image, weight, bias, padding=padding)), pool)


def check_pool(op: str, pool: str) -> None:
    """Refuses what is no kind of pooling."""
    if pool not in get_args(Pool):
        raise ValueError(f"{op}: pool must be 'max' or 'mean', got {pool!r}")


def pooled(x: Tensor, pool: Pool) -> Tensor:
    """Windows of 2 x 2, by torch."""
    return F.max_pool2d(x, 2) if pool == "max" else F.avg_pool2d(x, 2)


def _like_pooled(image: Tensor, weight: Tensor, padding: int, dtype: torch.dtype) -> Tensor:
    rows, columns = ((image.shape[i] + 2 * padding - weight.shape[i] + 1) // 2 for i in (2, 3))
    shape = image.shape[0], weight.shape[0], rows, columns
    return torch.empty(shape, dtype=dtype, device=image.device, memory_format=torch.channels_last)


@register_fake("lada_ext::conv_relu_pool")
def _(
    image: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0, mean: bool = False
) -> tuple[Tensor, Tensor]:
    del bias, mean
    return _like_pooled(image, weight, padding, image.dtype), _like_pooled(image, weight, padding, torch.uint8)


@register_fake("lada_ext::conv_relu_pool_backward")
def _(
    grad: Tensor, image: Tensor, weight: Tensor, where: Tensor, padding: int, mean: bool, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    del grad, where, padding, mean
    like_image = torch.empty(image.shape, dtype=image.dtype, device=image.device, memory_format=torch.channels_last)
    return (
        like_image if needed[0] else image.new_empty(0),
        weight.new_empty(weight.shape if needed[1] else (0,)),
        weight.new_empty(weight.shape[0] if needed[2] else 0),
    )


def _vmap(info: Any, dims: Dims, image: Tensor, *rest: Any) -> tuple[Any, Any]:
    """One call for maps over images; a call each for maps over weights."""
    if any(dim is not None for dim in dims[1:]) or lack_axes([image], dims[:1]):
        return one_by_one(_ops.conv_relu_pool, info.batch_size, dims, (image, *rest))
    images = fold(image, dims[0], info.batch_size)
    return unfold(_ops.conv_relu_pool(images, *rest), info.batch_size, pairs_of(image, dims[0]))


torch.library.register_vmap("lada_ext::conv_relu_pool", _vmap)
