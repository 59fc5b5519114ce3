"""The processes that torchrun starts: each scores its own shards, and only the best of each are sent to the first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process among `count`; alone, nothing is sent."""

    rank: int = 0
    count: int = 1

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """On rank 0 the values of all ranks, elsewhere none."""
        if self.count == 1:
            return [value]
        values = [None] * self.count if self.rank == 0 else None
        dist.gather_object(value, values)
        return values or []


@contextmanager
def ranks() -> Iterator[Ranks]:
    """What torchrun says in the environment, or one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    dist.init_process_group("gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
