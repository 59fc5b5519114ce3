"""Clocks: how long a call takes, what memory it needs, and how fast this machine copies, on the CPU and on CUDA."""

from __future__ import annotations

import ctypes
import gc
import math
import re
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import lada_ext

Function = Callable[[], object]
SAMPLE_SECONDS = 1e-3  # a sample repeats short calls until it lasts this long
MOST_CALLS = 100
KERNEL = re.compile(r"lada::cuda::(?:\(anonymous namespace\)::)?(\w+_kernel)\b")
COPY_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}  # of the source; far more than any cache


class Plan(NamedTuple):
    """How a function is sampled: calls in a row, and the host's seconds for one, as first seen."""

    calls: int
    host_seconds: float


class Clock(ABC):
    """What a device can tell of a call."""

    device_has_a_queue: bool

    def __init__(self, device: str) -> None:
        count = COPY_BYTES[device] // 4
        self.source = torch.ones(count, device=device)
        self.target = torch.zeros(count, device=device)

    @abstractmethod
    def sample(self, function: Function, plan: Plan) -> tuple[float, float]:
        """Seconds of a call, on the device and on the host."""

    @abstractmethod
    def peak_bytes(self, function: Function) -> int | None:
        """The most memory a call holds at once beside what was there before, its results included; None if unknown."""

    def kernels(self, function: Function) -> set[str]:
        """Kernels of the library that a call launches."""
        del function
        return set()

    def plan(self, function: Function) -> Plan:
        """For a function that is warm."""
        seconds, host_seconds = self.sample(function, Plan(1, SAMPLE_SECONDS))
        return Plan(min(MOST_CALLS, math.ceil(SAMPLE_SECONDS / seconds)), host_seconds)

    def copy_bandwidth(self) -> float:
        """Bytes a second of a plain copy, read and written both counted."""
        seconds, _ = self.sample(self._copy, Plan(1, SAMPLE_SECONDS))
        return 2 * self.source.nbytes / seconds

    def _copy(self) -> Tensor:
        return self.target.copy_(self.source)


class CpuClock(Clock):
    """Wall clock; memory is the high-water mark of resident pages, which sees every allocation of the process."""

    device_has_a_queue = False

    def sample(self, function: Function, plan: Plan) -> tuple[float, float]:
        start = time.perf_counter()
        for _ in range(plan.calls):
            function()
        seconds = (time.perf_counter() - start) / plan.calls
        return seconds, seconds

    def peak_bytes(self, function: Function) -> int | None:
        """The kernel counts pages in batches, so that differences under about 1 MiB mean nothing."""
        if sys.platform != "linux":
            return None
        peaks = []
        for _ in range(3):
            before = _forget_free_pages()
            if before is None:
                return None
            function()
            peaks.append(_resident_bytes("VmHWM") - before)
        return max(0, round(statistics.median(peaks)))


def _forget_free_pages() -> int | None:
    """Gives freed memory back, so that a call has to fault in all it uses; returns the resident bytes then."""
    gc.collect()
    lada_ext.release_memory()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is None:
        return None
    trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    except OSError:  # not offered by every kernel
        return None
    return _resident_bytes("VmRSS")


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


class CudaClock(Clock):
    """CUDA events around calls that wait in the queue behind a pause, so that the host's share is not in their time."""

    device_has_a_queue = True

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.cycles_a_second = 1.0
        self.cycles_a_second = 1e7 / self._seconds_of(lambda: torch.cuda._sleep(10_000_000))

    def sample(self, function: Function, plan: Plan) -> tuple[float, float]:
        pause = 2 * plan.calls * plan.host_seconds
        host_seconds = 0.0

        def calls() -> None:
            nonlocal host_seconds
            start = time.perf_counter()
            for _ in range(plan.calls):
                function()
            host_seconds = time.perf_counter() - start

        seconds = self._seconds_of(calls, pause)
        return seconds / plan.calls, host_seconds / plan.calls

    def _seconds_of(self, queue: Function, pause: float = 0.0) -> float:
        torch.cuda.synchronize()
        torch.cuda._sleep(int(pause * self.cycles_a_second))
        self.begin.record()
        queue()
        self.end.record()
        self.end.synchronize()
        return self.begin.elapsed_time(self.end) / 1e3

    def peak_bytes(self, function: Function) -> int | None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = function()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        del result
        return peak

    def kernels(self, function: Function) -> set[str]:
        return launched_kernels(function)


def launched_kernels(function: Function) -> set[str]:
    """CUDA kernels of the library that a call launches, as the profiler sees them."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        function()
        torch.cuda.synchronize()
    return {name for event in profile.events() for name in KERNEL.findall(event.name)}


@cache
def clock_of(device: str) -> Clock:
    return CudaClock(device) if device == "cuda" else CpuClock(device)
