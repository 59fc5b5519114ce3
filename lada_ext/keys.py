"""Keys: randomness as data. A random op is a pure function of its inputs and a key, so nothing has hidden state."""

from __future__ import annotations

import torch
from torch import Tensor


def make_key(seed: int | torch.Generator | None = None, device: torch.device | str = "cpu") -> Tensor:
    """A key for the random ops, int64[2] on `device`.

    ``key[0]`` is the 64-bit key of the Philox4x32-10 generator; the low 32 bits of ``key[1]`` name one of its streams.

    Args:
        seed: an int (any Python int from -2^63 to 2^64 - 1, stream 0), a torch.Generator to draw from, or None to draw
            from the default generator of `device`, so that ``torch.manual_seed`` governs it.
        device: where the key lives; it must be the device of the op's other inputs.

    Raises:
        TypeError: `seed` is of another type.
        ValueError: an int `seed` is out of range.
    """
    if isinstance(seed, bool) or not (seed is None or isinstance(seed, int | torch.Generator)):
        raise TypeError(f"make_key: seed must be an int, a torch.Generator or None, got {type(seed).__name__}")
    if isinstance(seed, int):
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"make_key: seed must lie in [-2^63, 2^64), got {seed}")
        signed = seed - 2**64 if seed >= 2**63 else seed
        return torch.tensor([signed, 0], dtype=torch.int64, device=device)
    source = device if seed is None else seed.device
    return torch.randint(-(2**63), 2**63 - 1, (2,), dtype=torch.int64, device=source, generator=seed).to(device)
