"""The processes that torchrun starts, and all that they tell each other.

Scoring: each process takes its own shards, and only the best of each are sent to the first. Training: all processes
hold the same pool, keys and weights and draw the same random numbers; each takes its part of every batch, its losses
are what the part adds to the batch's mean, and gradients and the sums of batch normalisation are added up. So what is
bought is what one process would buy, up to rounding. The first process alone writes and speaks, and its purchases are
everybody's.

torch's DistributedDataParallel adds up what goes through one module's forward. A step here goes through parts of
several modules, labelled and virtual instances one after the other, so gradients are sent after it, in one message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lada_al.errors import UsageError

T = TypeVar("T")

# The others wait for the first while it reads data and writes the report; one that dies is noticed at once.
PATIENCE = timedelta(hours=2)


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

    def on_first(self, f: Callable[[], T]) -> T:
        """f() of rank 0, sent to all. If it raises there, the others end without a word.

        They end as if all were well, because torchrun kills all when one fails, and the first has something to say.
        """
        if self.count == 1:
            return f()
        sent: list[Any] = [None]
        try:
            if self.is_first:
                sent = [(f(),)]
        finally:
            dist.broadcast_object_list(sent)
        if sent[0] is None:
            raise SystemExit(0)
        value: T = sent[0][0]
        return value

    def of_first(self, value: T) -> T:
        """The value that rank 0 has."""
        return self.on_first(lambda: value)

    def part(self, items: int) -> slice:
        """Our share of a batch; it may be empty."""
        return slice(self.rank * items // self.count, (self.rank + 1) * items // self.count)

    def mean(self, values: Tensor, items: int) -> Tensor:
        """What `values` of our part of a batch of `items` add to the mean over the batch."""
        if self.count == 1:
            return values.mean()
        part = self.part(items)
        return values.mean() * ((part.stop - part.start) / items) if len(values) else values.sum()

    def every_nth(self, items: Sequence[T]) -> Sequence[T]:
        """Our share of items that have nothing to do with each other."""
        return items[self.rank :: self.count]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, in the place of the value."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def whole(self, values: Tensor) -> Tensor:
        """The rows of all ranks, of which `values` are ours, in their order; only ours have a gradient."""
        if self.count == 1:
            return values
        lengths = torch.zeros(self.count, dtype=torch.int64)
        lengths[self.rank] = len(values)
        counts = self.sum(lengths).tolist()
        start = sum(counts[: self.rank])
        stop = start + len(values)
        rows = values.new_zeros(sum(counts), *values.shape[1:])
        rows[start:stop] = values.detach()
        self.sum(rows)
        return torch.cat([rows[:start], values, rows[stop:]])

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Adds up the gradients of all ranks, whose parameters are the same ones.

        A parameter that no loss of the step has to do with has no gradient anywhere, and the optimiser passes it by.
        """
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))


_ours = Ranks()


def ours() -> Ranks:
    """This process, inside `ranks()` or alone. A process group of the caller's own is not meant."""
    return _ours


@contextmanager
def ranks() -> Iterator[Ranks]:
    """What torchrun says in the environment, or one process. Where there are GPUs enough, each process takes one.

    Entered again inside, it is the same.
    """
    global _ours  # noqa: PLW0603 - as torch's process group, there is one for a process
    if not _by_torchrun() or _ours.count > 1:
        yield _ours
        return
    if gpu_each():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu_each() else "gloo", timeout=PATIENCE)
    _ours = Ranks(dist.get_rank(), dist.get_world_size())
    try:
        yield _ours
    finally:
        _ours = Ranks()
        dist.destroy_process_group()


def gpu_each() -> bool:
    """Whether this machine has a GPU for each of its processes."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) <= torch.cuda.device_count()


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
        mean, variance, count = _statistics(x)
        self._remember(mean.detach(), (variance * count / (count - 1)).detach())
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C,) over batch, height and width of all ranks' x (B, C, H, W), and the count of values.

    Each rank sends its count, mean and sum of squared deviations, in one message; those of all follow from them
    without the cancellation of E[x^2] - E[x]^2.
    """
    our, channels = ours(), x.shape[1]
    count = x.numel() // channels
    mean = x.sum((0, 2, 3)) / max(count, 1)
    squares = (x - mean[:, None, None]).square().sum((0, 2, 3))
    sent = torch.cat([mean, squares, mean.new_tensor([float(count)])])
    rows = _Sum.apply(torch.stack([sent if rank == our.rank else torch.zeros_like(sent) for rank in range(our.count)]))
    means, squares, counts = rows[:, :channels], rows[:, channels:-1], rows[:, -1:]
    of_all = (counts * means).sum(0) / counts.sum()
    deviations = squares + counts * (means - of_all).square()
    return of_all, deviations.sum(0) / counts.sum(), counts.sum()


class _Sum(torch.autograd.Function):
    """The sum over ranks. The losses of all of them are made of it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return ours().sum(value.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return ours().sum(gradients[0].clone(memory_format=torch.contiguous_format))
