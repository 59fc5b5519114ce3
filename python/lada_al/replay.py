"""Steps of training on a GPU as CUDA graphs: what a step launches is recorded once for each shape, and replayed.

A step on ten labels launches hundreds of small kernels, and launching them takes longer than running them. A replay is
one launch. It is for steps that launch the same each time; whether those of a run do is for `train.Learner.replayed`.
"""

from __future__ import annotations

import os
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


class Recorder:
    """Makes steps on one device replayed ones, until one cannot be recorded: then all go on as they are, for good, with
    one warning."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._works = device, can_record(device)

    def replayed(self, step: Step) -> Step:
        return Replayed(step, self) if self._works else step

    def recorded(self, step: Step, inputs: tuple[Tensor, ...]) -> Step:
        """The step as a recording for inputs of these shapes, or as it is."""
        if not self._works:
            return step
        try:
            return _Recording(step, inputs, self._device)
        except RuntimeError as error:
            self._works = False
            warnings.warn(f"training without CUDA graphs: {error}", ReplayWarning, stacklevel=2)
            return step


class Replayed:
    """A step that is recorded when a shape comes for the fourth time, and replayed from then on.

    What the step reads and writes beside its arguments, weights, statistics, the optimiser's state, has to stay where
    it is.
    """

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self._step, self._recorder = step, recorder
        self._seen: Counter[tuple[torch.Size, ...]] = Counter()
        self._recordings: dict[tuple[torch.Size, ...], Step] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        shapes = tuple(value.shape for value in inputs)
        self._seen[shapes] += 1
        if self._seen[shapes] > WARM and shapes not in self._recordings:
            self._recordings[shapes] = self._recorder.recorded(self._step, inputs)
        return self._recordings.get(shapes, self._step)(*inputs)


class _Recording:
    """One step of given shapes; its inputs are copied to where the recorded one found them."""

    def __init__(self, step: Step, inputs: tuple[Tensor, ...], device: torch.device) -> None:
        self._inputs = [value.clone() for value in inputs]
        self._replay = record(lambda: step(*self._inputs), device)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for place, value in zip(self._inputs, inputs, strict=True):
            place.copy_(value)
        return self._replay().clone()


def can_record(device: torch.device) -> bool:
    return device.type == "cuda"


def ops_wait() -> bool:
    """Whether lada_ext's ops look at values on the device, which cannot be recorded."""
    return os.environ.get("LADA_EXT_CHECK") == "1"


def record(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """What the step launches, without running it; each call of the result runs it, and returns the same memory."""
    with torch.cuda.device(device):
        before = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
                result = step()
        finally:
            torch.cuda.set_stream(before)  # torch leaves its own one current where recording failed

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
