"""Batches out of a pool of bytes: taken, cropped, mirrored and normalised in one pass over the pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lada_ext._images import Numbers, constants, empty_images
from lada_ext._library import check_tensor, register_fake
from lada_ext._vmap import Dims, fold, lack_axes, one_by_one, pairs_of, unfold


def take_images(
    images: Tensor,
    index: Tensor,
    key: Tensor | None = None,
    *,
    padding: int = 0,
    mirror: bool = False,
    normalize: tuple[Numbers, Numbers] | None = None,
) -> Tensor:
    """``(images[index] / 255 - mean) / std`` in float32; with a key, of random windows of the padded images.

    Args:
        images: (M, channels, H, W) uint8: the pool.
        index: (B,) int64 rows of it.
        key: int64[2], see `make_key`; or None, where nothing is random. What is drawn for a row depends on the key and
            the row's number alone, so it does not depend on the batch.
        padding: a window of H x W is cut out of the image with this many black pixels around it, each place with the
            same probability.
        mirror: half of the windows are mirrored left to right.
        normalize: (mean, std), each (channels,). Tensors on the device of the images need no copy.

    Returns:
        (B, channels, H, W) float32, channels last if `images` is; without gradient.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or an option is wrong, padding or mirror comes without a key, or on the CPU a row does not
            exist or a std is not positive. On CUDA (without LADA_EXT_CHECK=1) a row that does not exist is NaN.
    """
    check_tensor("take_images", "images", images)
    check_tensor("take_images", "index", index)
    mean, std = constants("take_images", images, normalize)
    return torch.ops.lada_ext.take_images(images, index, key, padding, mirror, mean, std)


@register_fake("lada_ext::take_images")
def _(
    images: Tensor,
    index: Tensor,
    key: Tensor | None = None,
    padding: int = 0,
    mirror: bool = False,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    del key, padding, mirror, mean, std
    return empty_images(images, (index.shape[0], *images.shape[1:]), torch.float32)


@torch.library.register_vmap("lada_ext::take_images")
def _(info: Any, dims: Dims, images: Tensor, index: Tensor, *rest: Any) -> tuple[Any, Any]:
    """Batches of one pool are one batch; a call each for maps over pools or keys."""
    op, batch = torch.ops.lada_ext.take_images, info.batch_size
    if any(dim is not None for dim in (dims[0], *dims[2:])) or lack_axes([index], dims[1:2]):
        return one_by_one(op, batch, dims, (images, index, *rest))
    return unfold(op(images, fold(index, dims[1], batch), *rest), batch, pairs_of(index, dims[1]))
