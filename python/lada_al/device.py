"""The device that a setting or an option names, and how much it is given at a time."""

from __future__ import annotations

import torch

from lada_al.errors import UsageError, first_line

CACHED_IMAGES = 100  # a CPU keeps what one layer makes of them until the next reads it


def find_device(name: str) -> torch.device:
    """The device of this name; `auto` is a GPU if there is one.

    Raises:
        UsageError: there is none of this name, or it cannot be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(f"device '{name}' cannot be used: {first_line(error)}") from error
    if device.type == "meta":
        raise UsageError(f"device '{name}' cannot be used: it holds no numbers; expected auto, cpu, cuda or cuda:N")
    return device


def at_a_time(batch: int, device: torch.device) -> int:
    """Of `batch` images, how many go through a network at once if no gradients are wanted."""
    return min(batch, CACHED_IMAGES) if device.type == "cpu" else batch
