"""What the ops on images share in Python."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lada_ext._library import score_dtype

Numbers = Tensor | Sequence[float]


def check_pair(op: str, normalize: object) -> None:
    if not isinstance(normalize, tuple | list) or len(normalize) != 2:
        size = f" of {len(normalize)}" if isinstance(normalize, tuple | list) else ""
        raise TypeError(f"{op}: normalize must be a pair (mean, std), got {type(normalize).__name__}{size}")


def constants(
    op: str, image: Tensor, normalize: tuple[Numbers, Numbers] | None
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Mean and standard deviation of the channels, on the image's device and in the type of its arithmetic."""
    if normalize is None:
        return None, None
    check_pair(op, normalize)
    mean, std = (torch.as_tensor(numbers, dtype=score_dtype(image), device=image.device) for numbers in normalize)
    for name, tensor in (("mean", mean), ("std", std)):
        if tensor.requires_grad:
            raise ValueError(f"{op}: {name} of normalize is a constant and cannot require a gradient")
    return mean, std


def empty_images(image: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Like the ops' own results: channels last if the image has them last."""
    memory_format = torch._prims_common.suggest_memory_format(image)
    return torch.empty(shape, dtype=dtype, device=image.device, memory_format=memory_format)
