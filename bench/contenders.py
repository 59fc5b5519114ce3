"""What a case is made of: sets of arguments to go round, gradients to take, functions to compile.

On CUDA a case owns so many sets of arguments that they exceed the L2 cache several times, and its last results are
held as long, so that every call reads and writes memory that has left the cache, as in real use. On the CPU there is
one set.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.harness import OURS, Case

Arguments = tuple[Any, ...]
Make = Callable[[torch.Generator], Arguments]
Op = Callable[..., Any]
MOST_SETS = 256  # of arguments so small that their time is that of the launch


def op_case(
    family: str,
    name: str,
    device: str,
    make: Make,
    contenders: Mapping[str, Op],
    definition: Op,
    bytes_moved: int,
    wrt: Sequence[int] = (),
    checked: Sequence[str] = (OURS, "eager"),
    tolerance: float = 1e-4,
) -> Case:
    """A case whose contenders all take the arguments that `make` returns.

    With `wrt` they run forward and backward: the gradients to the arguments at these places, where the last argument is
    the gradient of the (first) result. Each contender in `checked` is compared with `definition` in float64.
    """
    sets = argument_sets(make, device, bytes_moved)
    if wrt:
        contenders = {contender: forward_and_backward(op, wrt) for contender, op in contenders.items()}
        definition = forward_and_backward(definition, wrt)

    def check() -> None:
        expected = definition(*map(as_double, sets[0]))
        for contender in checked:
            actual = contenders[contender](*sets[0])
            named = partial("{}: {}".format, contender)
            torch.testing.assert_close(as_double(actual), expected, rtol=tolerance, atol=tolerance, msg=named)

    return Case(family, name, {c: rotated(op, sets) for c, op in contenders.items()}, check, bytes_moved)


def argument_sets(make: Make, device: str, bytes_moved: int) -> list[Arguments]:
    """Sets of arguments, made on the CPU from the generator and moved; sets of `bytes_moved` each exceed the L2."""
    generator = torch.Generator().manual_seed(0)
    count = 1
    if device == "cuda":
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        count = max(2, min(MOST_SETS, -(-3 * cache // max(1, bytes_moved))))
    return [tuple(_moved(value, device) for value in make(generator)) for _ in range(count)]


def rotated(op: Op, sets: Sequence[Arguments]) -> Callable[[], object]:
    """Calls `op` with the next set each time."""
    turn = itertools.cycle(sets)
    held: deque[object] = deque(maxlen=len(sets) - 1)

    def call() -> object:
        result = op(*next(turn))
        held.append(result)
        return result

    return call


def forward_and_backward(op: Op, wrt: Sequence[int]) -> Callable[..., tuple[Tensor, ...]]:
    """Of an op's arguments and the gradient of its (first) result: the gradients to those arguments `wrt` it uses."""

    def step(*arguments: Any) -> tuple[Tensor, ...]:
        *inputs, grad = arguments
        result = op(*inputs)
        first = result[0] if isinstance(result, tuple) else result
        return torch.autograd.grad(first, [inputs[i] for i in wrt], grad, allow_unused=True)

    return step


def compiled(op: Op) -> Op:
    """torch.compile for exactly these sizes; it compiles at the first call, which is never timed."""
    return torch.compile(op, dynamic=False)


def as_double(value: Any) -> Any:
    """Floating tensors, also those in a tuple, in float64 and with their need of a gradient; the rest as it is."""
    if isinstance(value, tuple):
        return tuple(map(as_double, value))
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double().requires_grad_(value.requires_grad)
    return value


def _moved(value: Any, device: str) -> Any:
    return value.detach().to(device).requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
