"""What the ops on images share in Python."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lada_ext._library import score_dtype

Numbers = Tensor | Sequence[float]


def constants(op: str, image: Tensor, mean: Numbers, std: Numbers) -> list[Tensor]:
    """Mean and standard deviation of the channels, on the image's device and in the type of its arithmetic."""
    tensors = [torch.as_tensor(numbers, dtype=score_dtype(image), device=image.device) for numbers in (mean, std)]
    for name, tensor in zip(("mean", "std"), tensors, strict=True):
        if tensor.requires_grad:
            raise ValueError(f"{op}: {name} of normalize is a constant and cannot require a gradient")
    return tensors


def empty_images(image: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Like the ops' own results: channels last if the image has them last."""
    memory_format = torch._prims_common.suggest_memory_format(image)
    return torch.empty(shape, dtype=dtype, device=image.device, memory_format=memory_format)
