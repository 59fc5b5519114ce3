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
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: int = 0,
    pool: Pool = "max",
    pairs: Tensor | None = None,
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
        pairs: (P, 2) int64, or None. If given, pairs of images are convolved, the channels of one beside those of the
            other, as pi_phi looks at them: ``cat([image[pairs[:, 0]], image[pairs[:, 1]]], 1)``, of which C is the
            number of channels. On the CPU they are read in place, unless `image` requires a gradient.

    Returns:
        (B, O, (H + 2 padding - KH + 1) // 2, (W + 2 padding - KW + 1) // 2) with the dtype of `image`, channels_last.
        Sums are in float32, or float64 for float64. Differentiable once, in `image`, `weight` and `bias`; bitwise
        repeatable with any number of threads. NaN is the greatest of its window, and of equals the first one gets the
        gradient, as in torch; but products that are left out are 0 where torch's are NaN, because what a gradient of 0
        meets in `image` is infinite or NaN.

    Raises:
        TypeError: the dtypes are not floating or differ, or `pairs` is not int64.
        ValueError: a shape is wrong, `padding` is negative, no window of 2 x 2 results is whole, `pool` is neither, or
            `pairs` names an image that is not there.
    """
    check_tensor("conv_relu_pool", "image", image)
    check_tensor("conv_relu_pool", "weight", weight)
    check_pool("conv_relu_pool", pool)
    if pairs is not None and torch.is_grad_enabled() and image.requires_grad:
        image, pairs = side_by_side(image, pairs), None
    if image.device.type in ("cpu", "meta"):
        return _ops.conv_relu_pool(image, weight, bias, padding, pool == "mean", pairs)[0]
    return pooled(F.relu(F.conv2d(side_by_side(image, pairs), weight, bias, padding=padding)), pool)


def _check_pairs(pairs: Tensor) -> None:
    """As the op does. Which images there are, `index_select` says."""
    check_tensor("conv_relu_pool", "pairs", pairs)
    if pairs.dtype != torch.int64:
        raise TypeError(f"conv_relu_pool: pairs must have dtype int64, got {pairs.dtype}")
    if pairs.dim() != 2 or pairs.shape[1] != 2:
        raise ValueError(f"conv_relu_pool: pairs must have shape (P, 2), got {list(pairs.shape)}")


def check_pool(op: str, pool: str) -> None:
    """Refuses what is no kind of pooling."""
    if pool not in get_args(Pool):
        raise ValueError(f"{op}: pool must be 'max' or 'mean', got {pool!r}")


def side_by_side(image: Tensor, pairs: Tensor | None) -> Tensor:
    """The channels of pairs of images as those of one, (P, 2 C, H, W), in the memory format that `image` has; without
    pairs the images."""
    if pairs is None:
        return image
    _check_pairs(pairs)
    if image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last):
        whole = image.permute(0, 2, 3, 1)  # pieces of memory, which index_select copies as such
        return torch.cat([whole.index_select(0, end) for end in pairs.unbind(1)], 3).permute(0, 3, 1, 2)
    return torch.cat([image.index_select(0, end) for end in pairs.unbind(1)], 1)


def pooled(x: Tensor, pool: Pool) -> Tensor:
    """Windows of 2 x 2, by torch."""
    return F.max_pool2d(x, 2) if pool == "max" else F.avg_pool2d(x, 2)


def _like_pooled(image: Tensor, weight: Tensor, padding: int, pairs: Tensor | None, dtype: torch.dtype) -> Tensor:
    rows, columns = ((image.shape[i] + 2 * padding - weight.shape[i] + 1) // 2 for i in (2, 3))
    shape = (image if pairs is None else pairs).shape[0], weight.shape[0], rows, columns
    return torch.empty(shape, dtype=dtype, device=image.device, memory_format=torch.channels_last)


@register_fake("lada_ext::conv_relu_pool")
def _(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: int = 0,
    mean: bool = False,
    pairs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    del bias, mean
    result, where = (_like_pooled(image, weight, padding, pairs, dtype) for dtype in (image.dtype, torch.uint8))
    return result, where


@register_fake("lada_ext::conv_relu_pool_backward")
def _(
    grad: Tensor,
    image: Tensor,
    weight: Tensor,
    where: Tensor,
    padding: int,
    mean: bool,
    needed: list[bool],
    pairs: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    del grad, where, padding, mean, pairs
    like_image = torch.empty(image.shape, dtype=image.dtype, device=image.device, memory_format=torch.channels_last)
    return (
        like_image if needed[0] else image.new_empty(0),
        weight.new_empty(weight.shape if needed[1] else (0,)),
        weight.new_empty(weight.shape[0] if needed[2] else 0),
    )


def _vmap(info: Any, dims: Dims, image: Tensor, *rest: Any) -> tuple[Any, Any]:
    """One call for maps over images; a call each for maps over weights, or where there are pairs."""
    pairs = rest[4] if len(rest) > 4 else None
    if pairs is not None or any(dim is not None for dim in dims[1:]) or lack_axes([image], dims[:1]):
        return one_by_one(_ops.conv_relu_pool, info.batch_size, dims, (image, *rest))
    images = fold(image, dims[0], info.batch_size)
    return unfold(_ops.conv_relu_pool(images, *rest), info.batch_size, pairs_of(image, dims[0]))


torch.library.register_vmap("lada_ext::conv_relu_pool", _vmap)
