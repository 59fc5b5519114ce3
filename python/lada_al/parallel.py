"""One run trained by the processes that torchrun starts: all that the rest of the loop need not know of it.

Every process draws the same random numbers and sees the same lists of indices, and takes its `part` of each batch. A
loss is a `mean` over the whole batch of which a process has the terms of its part, scaled such that the average of the
gradients over the processes, made before each step of an optimiser (`together`), is the gradient of one process. The
weights are then the same everywhere, so scores are, and a purchase is the first process's. Alone, nothing is done.

DistributedDataParallel averages what goes through one module's forward. A step here goes through parts of several
modules, the labelled and the virtual instances one after the other, so the gradients are averaged after them, as one
tensor.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lada_al.errors import UsageError

if TYPE_CHECKING:
    from lada_al.run.config import Config

T = TypeVar("T")

# Others wait for the first while it reads data and writes the report; a process that dies is noticed at once.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """This process among `count`."""

    rank: int = 0
    count: int = 1


_ours = Processes()


@contextmanager
def processes() -> Iterator[Processes]:
    """What torchrun says in the environment, or one process. On a machine with GPUs each process takes one.

    It has to be entered to train together: a process group of the caller's own changes nothing here. Entered again
    inside, it is the same.
    """
    global _ours  # noqa: PLW0603 - like torch's process group, there is one for a process
    if not _by_torchrun() or _ours.count > 1:
        yield _ours
        return
    backend = "gloo"
    if _gpu_each():
        torch.cuda.set_device(_local("RANK"))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    _ours = Processes(dist.get_rank(), dist.get_world_size())
    try:
        yield _ours
    finally:
        _ours = Processes()
        dist.destroy_process_group()


def _by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _local(name: str) -> int:
    return int(os.environ[f"LOCAL_{name}"])


def _gpu_each() -> bool:
    """Whether this machine has a GPU for each of its processes."""
    return _local("WORLD_SIZE") <= torch.cuda.device_count()


def check(config: Config, device: torch.device) -> None:
    """Refuses what several processes cannot train as one process does.

    Raises:
        UsageError: naming the setting, what was expected and what came.
    """
    count, chosen = _ours.count, config.chosen
    if count == 1:
        return
    if device.type == "cuda" and not _gpu_each():
        gpus, here = torch.cuda.device_count(), _local("WORLD_SIZE")
        raise UsageError(
            f"device {config.device}: a machine with {gpus} GPUs runs {gpus} processes at most, got {here}"
        )
    if device.type == "cuda" and device.index is not None:
        raise UsageError(f"device must be auto, cuda or cpu: each process takes a GPU of its own; got {config.device}")
    sizes = {"batch": config.batch}
    if chosen.learn:
        sizes["policy_batch"] = config.policy_batch
    if chosen.semi_supervised:
        sizes["pi_batch"] = config.pi_batch
    if chosen.augmentation is not None:
        arity = chosen.augmentation.arity
        query = min([config.query, *config.schedule])
        sizes["query" if arity == 1 else "query, in pairs,"] = query // arity
    for name, size in sizes.items():
        if size < count:
            raise UsageError(f"{name} must be at least the number of processes of torchrun, {count}, got {size}")
    whole_batches = chosen.acquisition.dropout or (
        chosen.augmentation is not None and chosen.augmentation.whole_batches
    )
    if whole_batches or config.adamixup_mean_label:
        what = f"method {config.method}" if whole_batches else "adamixup_mean_label"
        raise UsageError(f"{what} draws or averages over whole batches, so it trains in one process, not in {count}")


def refuse(command: str) -> None:
    """For a command that has processes of its own."""
    if _by_torchrun():
        raise UsageError(f"{command} starts processes of its own; torchrun is for lada run and lada score")


def on_first(f: Callable[[], T]) -> T:
    """f() of the first process, sent to all. If it raises there, the others end without a word.

    They end as if all were well, because torchrun kills all when one fails, and the first has something to say.
    """
    if _ours.count == 1:
        return f()
    sent: list[Any] = [None]
    try:
        if _ours.rank == 0:
            sent = [(f(),)]
    finally:
        dist.broadcast_object_list(sent, src=0)
    if sent[0] is None:
        raise SystemExit(0)
    value: T = sent[0][0]
    return value


def of_first(value: T) -> T:
    """The first process's value, sent to all."""
    return on_first(lambda: value)


def part(length: int) -> slice:
    """This process's part of `length` things; sizes differ by one at most, so some are empty where there are few."""
    rank, count = _ours.rank, _ours.count
    return slice(length * rank // count, length * (rank + 1) // count)


def every_nth(things: Sequence[T]) -> Sequence[T]:
    """The share of this process of independent things."""
    return things[_ours.rank :: _ours.count]


def share(mine: int, length: int) -> float:
    """What a mean over `mine` of `length` things weighs, so that the average over processes is the mean over all."""
    return mine * _ours.count / length


def mean(values: Tensor, length: int) -> Tensor:
    """The mean over `length` things of which `values` (mine, ...) are the `part`: equal to it on average."""
    if _ours.count == 1:
        return values.mean()
    return values.sum() * (_ours.count / (length * math.prod(values.shape[1:])))


def total(value: Tensor) -> Tensor:
    """The sum over processes, without gradients."""
    if _ours.count > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
    return value


def average(value: Tensor) -> Tensor:
    """The average over processes, without gradients."""
    return total(value) / _ours.count


def whole(values: Tensor, length: int) -> Tensor:
    """All `length` rows of which `values` are the `part`. A function of them has the same value in every process; on
    average over processes its gradient is right."""
    if _ours.count == 1:
        return values
    mine = part(length)
    before, after = (values.new_zeros(rows, *values.shape[1:]) for rows in (mine.start, length - mine.stop))
    out: Tensor = _Sum.apply(torch.cat([before, values, after]))
    return out


def together(optimizer: torch.optim.Optimizer) -> None:
    """Gradients are averaged over processes before each step of the optimiser."""
    if _ours.count > 1:
        optimizer.register_step_pre_hook(_average_gradients)


def _average_gradients(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    del args, kwargs
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= _ours.count
    for gradient, averaged in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


class _Sum(torch.autograd.Function):
    """The sum over processes. Each of them makes a loss of it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that in training normalises by the statistics of the whole batch, over all processes.

    torch's SyncBatchNorm does the same and does not run on a CPU. Alone, and in evaluation, it is torch's BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        if _ours.count == 1 or not self.training:
            return super().forward(x)
        mean, variance, count = _statistics(x)
        self._remember(mean.detach(), (variance * count / (count - 1)).detach())
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C,) over batch, height and width of all processes' x (B, C, H, W), and the count of values.

    Each process sends its count, mean and sum of squared deviations, from which those of all follow without the
    cancellation of E[x^2] - E[x]^2.
    """
    channels = x.shape[1]
    count = x.numel() // channels
    mean = x.sum((0, 2, 3)) / max(count, 1)
    squares = (x - mean[:, None, None]).square().sum((0, 2, 3))
    sent = torch.cat([mean, squares, mean.new_tensor([float(count)])])
    rows = whole(sent[None], _ours.count)
    means, squares, counts = rows[:, :channels], rows[:, channels:-1], rows[:, -1:]
    all_values = counts.sum()
    together = (counts * means).sum(0) / all_values
    deviations = squares + counts * (means - together).square()
    return together, deviations.sum(0) / all_values, all_values
