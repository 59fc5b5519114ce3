"""The processes that torchrun starts, and all that they tell each other.

Scoring: each process takes its own shards, and only the best of each are sent to the first. Training: all processes
hold the same pool, keys and weights; each takes its part of every batch, and gradients and the sums of batch
normalisation are added up. So what is bought is what one process would buy, up to rounding. The first process alone
writes, and its purchases are everybody's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce as differentiable_all_reduce

from lada_al.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """This process among `count`; alone, nothing is sent."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """On rank 0 the values of all ranks, elsewhere none."""
        if self.count == 1:
            return [value]
        values = [None] * self.count if self.is_first else None
        dist.gather_object(value, values)
        return values or []

    def of_first(self, value: Any) -> Any:
        """The value that rank 0 has."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def part(self, items: int) -> slice:
        """Our share of a batch; it may be empty."""
        return slice(self.rank * items // self.count, (self.rank + 1) * items // self.count)

    def mean(self, values: Tensor, items: int) -> Tensor:
        """What `values` of our part of a batch of `items` add to the mean over the batch."""
        part = self.part(items)
        return values.mean() * ((part.stop - part.start) / items) if len(values) else values.sum()

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, in the place of the value."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Adds up the gradients of all ranks, whose parameters are the same ones."""
        if self.count == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        for p in trained:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        flat = self.sum(torch.cat([p.grad.flatten() for p in trained if p.grad is not None]))
        for p, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            p.grad = part.view_as(p)


def ours() -> Ranks:
    """This process, inside `ranks()` or alone."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks()


@contextmanager
def ranks() -> Iterator[Ranks]:
    """What torchrun says in the environment, or one process."""
    if not _by_torchrun():
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield ours()
    finally:
        dist.destroy_process_group()


def refuse_torchrun(command: str) -> None:
    """For a command that starts processes of its own."""
    if _by_torchrun():
        raise UsageError(f"{command} starts processes of its own; torchrun is for lada run and lada score")


def _by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def synchronise(net: nn.Module) -> nn.Module:
    """Makes batch normalisation see the batches of all ranks together. Modules stay where they are, as do weights."""
    if ours().count > 1:
        for module in net.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = BatchNormOfAll
    return net


class BatchNormOfAll(nn.BatchNorm2d):
    """nn.BatchNorm2d whose mean and variance are those of the parts of all ranks; torch's own is for GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = float(ours().sum(torch.tensor(float(x.numel() // x.size(1)), dtype=torch.float64)))
        mean = differentiable_all_reduce(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = differentiable_all_reduce(centred.square().sum((0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1
