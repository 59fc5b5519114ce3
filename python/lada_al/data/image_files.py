"""The images of a data set from image files, wherever they are stored: in folders (own.py) or in Parquet (parquet.py).

They are of one size, or are scaled and cut to one; right way up, with eight bits a channel; grey if all of them are.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lada_al.errors import UsageError
from lada_al.pools.decode import Limits, UnreadableError, open_image


def stacked(files: Iterable[tuple[str, bytes]], size: int | None, limits: Limits) -> Tensor:
    """(M, 1 or 3, H, W) uint8.

    Args:
        files: where each is stored, as errors name it, and its bytes.
        size: height and width that images are brought to; None for images that are of one size.
        limits: what is too large to be decoded, and how bright white is.

    Raises:
        UsageError: naming the first file that cannot be read as an image, or is of another size than the first.
    """
    images: list[Image.Image] = []
    first = ""
    for where, stored in files:
        image = _opened(where, stored, limits)
        images.append(image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
        first = first or where
        if images[-1].size != images[0].size:
            (width, height), (first_width, first_height) = images[-1].size, images[0].size
            raise UsageError(
                f"{where} is {width} x {height} pixels, {first} {first_width} x {first_height}; "
                "--dataset own --set image_size=N makes all of them N x N"
            )
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    return channels_first(np.stack([np.asarray(image.convert(mode)) for image in images]))


def channels_first(pixels: np.ndarray) -> Tensor:
    """(M, H, W), (M, H, W, 1 or 3) or (M, 1 or 3, H, W) to the last."""
    images = torch.from_numpy(pixels)
    if images.dim() == 3:
        return images[:, None]
    return images.movedim(-1, 1).contiguous() if images.shape[-1] in (1, 3) else images


def _opened(where: str, stored: bytes, limits: Limits) -> Image.Image:
    try:
        image = open_image(stored, limits)
    except UnreadableError as error:
        raise UsageError(f"{where}: cannot be read as an image: {error}") from error
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
