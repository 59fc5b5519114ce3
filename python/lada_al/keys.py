"""Randomness as data: every draw of a run gets its key from (seed, purpose, round), so no generator state is saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import lada_ext

Purpose = Literal[
    "initial set",
    "network weights",
    "candidates",
    "layer",
    "policy weights",
    "policy batches",
    "policy samples",
    "score samples",
    "pick",
    "acquisition weights",
    "acquisition batches",
    "acquisition samples",
    "training batches",
    "training crops",
    "virtual samples",
    "virtual pairs",
]


@dataclass(frozen=True)
class Keys:
    """The randomness of one run. Equal seeds give equal draws, whatever was drawn before."""

    seed: int

    def key(self, purpose: Purpose, round: int, step: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """A key for the random ops of lada_ext: int64[2] on `device`."""
        return lada_ext.make_key(self._number(purpose, round, step), device)

    def generator(self, purpose: Purpose, round: int, step: int = 0) -> torch.Generator:
        """A CPU generator for permutations and choices."""
        return torch.Generator().manual_seed(self._number(purpose, round, step))

    @contextmanager
    def scope(self, purpose: Purpose, round: int) -> Iterator[None]:
        """torch's global generators are seeded inside the block and put back after it, on every device."""
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(self._number(purpose, round, 0))
            yield

    def _number(self, purpose: Purpose, round: int, step: int) -> int:
        text = f"{self.seed}/{purpose}/{round}/{step}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1  # manual_seed takes 63 bits
