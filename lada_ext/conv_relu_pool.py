"""Convolution, ReLU and 2 x 2 max-pooling in one pass: the blocks that the paper's policy networks are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lada_ext._library import check_tensor, register_fake
from lada_ext._vmap import Dims, one_by_one

_ops = torch.ops.lada_ext


def conv_relu_pool(image: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0) -> Tensor:
    """``max_pool2d(relu(conv2d(image, weight, bias, padding=padding)), 2)``, as pi_phi (Eq. 9) and STN's f_tau begin.

    On the CPU an op: nothing between is written, and the backward pass does the quarter of the products that pooling
    leaves. On other devices it is that composition, with its errors. `lada_ext.nn.ConvReluPool` takes the faster one.

    Args:
        image: (B, C, H, W) in float64, float32, float16 or bfloat16; fastest in the memory format channels_last.
        weight: (O, C, KH, KW), same dtype. Under autocast the wider dtype of both is taken.
        bias: (O,), same dtype, or None.
        padding: zeros around the image, on each side.

    Returns:
        (B, O, (H + 2 padding - KH + 1) // 2, (W + 2 padding - KW + 1) // 2) with the dtype of `image`, channels_last.
        Sums are in float32, or float64 for float64. Differentiable once, in `image`, `weight` and `bias`; bitwise
        repeatable with any number of threads. NaN is the greatest of its window, as in torch.

    Raises:
        TypeError: the dtypes are not floating or differ.
        ValueError: a shape is wrong, `padding` is negative, or no window of 2 x 2 results is whole.
    """
    check_tensor("conv_relu_pool", "image", image)
    if image.device.type in ("cpu", "meta"):
        return _ops.conv_relu_pool(image, weight, bias, padding)[0]
    return F.max_pool2d(F.relu(F.conv2d(image, weight, bias, padding=padding)), 2)


def _pooled(image: Tensor, weight: Tensor, padding: int, dtype: torch.dtype) -> Tensor:
    rows, columns = ((image.shape[i] + 2 * padding - weight.shape[i] + 1) // 2 for i in (2, 3))
    shape = image.shape[0], weight.shape[0], rows, columns
    return torch.empty(shape, dtype=dtype, device=image.device, memory_format=torch.channels_last)


@register_fake("lada_ext::conv_relu_pool")
def _(image: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0) -> tuple[Tensor, Tensor]:
    del bias
    return _pooled(image, weight, padding, image.dtype), _pooled(image, weight, padding, torch.uint8)


@register_fake("lada_ext::conv_relu_pool_backward")
def _(
    grad: Tensor, image: Tensor, weight: Tensor, where: Tensor, padding: int, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    del grad, where, padding
    like_image = torch.empty(image.shape, dtype=image.dtype, device=image.device, memory_format=torch.channels_last)
    return (
        like_image if needed[0] else image.new_empty(0),
        weight.new_empty(weight.shape if needed[1] else (0,)),
        weight.new_empty(weight.shape[0] if needed[2] else 0),
    )


def _vmap(info: Any, dims: Dims, *args: Any) -> tuple[Any, Any]:
    return one_by_one(_ops.conv_relu_pool, info.batch_size, dims, args)


torch.library.register_vmap("lada_ext::conv_relu_pool", _vmap)
