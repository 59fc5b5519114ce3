"""Seconds of each phase of a round, and progress that people see."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


class Clock:
    """Adds up seconds by phase of work on a device; waits for a GPU before it reads the time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.add(phase, self._now() - start)

    def add(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Meter(Protocol):
    """Shows how far the phase at hand has come."""

    def track(self, phase: str, steps: Sequence[T]) -> Iterable[T]: ...


class NoMeter:
    """Shows nothing."""

    def track(self, phase: str, steps: Sequence[T]) -> Iterable[T]:
        del phase
        return steps
