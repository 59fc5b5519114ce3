"""Steps of training on a GPU as CUDA graphs: what a step launches is recorded once for each shape, and replayed.

A step on ten labels launches hundreds of small kernels, and launching them takes longer than running them. A replay is
one launch. It is for steps that launch the same each time; whether those of a run do is for `train.Learner.replayed`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

# Takes tensors, trains on them, and returns a tensor without a gradient.
Step = Callable[..., Tensor]

WARM = 3  # steps of a shape before one is recorded: in the first, libraries choose algorithms and optimisers make room


class ReplayWarning(UserWarning):
    """Steps are launched kernel by kernel, although they should be replayed."""


class Replayed:
    """A step that is recorded when a shape comes for the fourth time, and replayed from then on.

    What the step reads and writes beside its arguments, weights, statistics, the optimiser's state, has to stay where
    it is. A step that cannot be recorded goes on as it is, with a warning.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._seen: Counter[tuple[torch.Size, ...]] = Counter()
        self._recordings: dict[tuple[torch.Size, ...], Step] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        shapes = tuple(value.shape for value in inputs)
        self._seen[shapes] += 1
        if self._seen[shapes] > WARM and shapes not in self._recordings:
            self._recordings[shapes] = self._recorded(inputs)
        return self._recordings.get(shapes, self._step)(*inputs)

    def _recorded(self, inputs: tuple[Tensor, ...]) -> Step:
        try:
            return _Recording(self._step, inputs)
        except RuntimeError as error:
            warnings.warn(f"training without CUDA graphs: {error}", ReplayWarning, stacklevel=2)
            return self._step


class _Recording:
    """One step of given shapes; its inputs are copied to where the recorded one found them."""

    def __init__(self, step: Step, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [torch.empty_like(value) for value in inputs]
        self._replay = record(lambda: step(*self._inputs))

    def __call__(self, *inputs: Tensor) -> Tensor:
        for place, value in zip(self._inputs, inputs, strict=True):
            place.copy_(value)
        return self._replay().clone()


def can_record(device: torch.device) -> bool:
    return device.type == "cuda"


def record(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """What the step launches, without running it; each call of the result runs it, and returns the same memory."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
