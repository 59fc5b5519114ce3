"""The pytest plugin of an emulation run: the ordinary op tests, over the CUDA kernels compiled for the host.

It keeps the tests that take the `device` fixture and are not marked heavy. Every call of an op is repeated with other
orders of the threads, other bytes in uninitialised memory, few blocks and 64-bit indices, and has to give the same bits.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lada_ext import _C

EMULATOR = ctypes.CDLL(_C.__file__)
EMULATOR.on_host_launched.restype = ctypes.c_char_p
LIBC = ctypes.CDLL(None)
M_PERTURB = -6  # mallopt: new memory is filled with the complement of this byte
MANY = 2**30

# (order of threads: forward, reverse, random; poison byte; cap on the blocks of a grid; where 64-bit indices begin)
Setting = tuple[int, int, int, int]
SETTINGS: dict[str, list[Setting]] = {
    "plain": [
        (0, 0xFE, MANY, MANY),
        (0, 0x7F, 1, MANY),
        (1, 0xFE, 2, 0),
        (1, 0x7F, MANY, MANY),
        (2, 0xFE, MANY, 0),
        (2, 0x7F, 3, MANY),
    ],
    "asan": [(0, 0xFE, MANY, MANY), (2, 0x7F, 3, 0)],
    "tsan": [(2, 0x7F, 3, MANY)],
}[os.environ["LADA_EMULATION"]]
# Ops that sum with float atomics unless torch.use_deterministic_algorithms is on.
ATOMIC = {"lada_ext::affine_sample_backward"}


def configure(order: int, poison: int, max_blocks: int, max_int32_count: int) -> None:
    EMULATOR.on_host_configure(order, poison, ctypes.c_int64(max_blocks), ctypes.c_int64(max_int32_count))
    LIBC.mallopt(M_PERTURB, ~poison & 0xFF)


def tensors(result: Any) -> list[torch.Tensor]:
    return [t for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, torch.Tensor)]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def assert_same(name: str, setting: Setting, first: Any, again: Any) -> None:
    for a, b in zip(tensors(first), tensors(again), strict=True):
        if name in ATOMIC and not torch.are_deterministic_algorithms_enabled():
            largest = float(a.abs().nan_to_num(posinf=0).max()) if a.numel() else 0.0
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4 * largest, equal_nan=True)
        elif not torch.equal(bits(a), bits(b)):
            raise AssertionError(f"{name} differs between {SETTINGS[0]} and {setting} (order, poison, blocks, int32)")


class Replay(TorchDispatchMode):
    """Calls each op of lada_ext once for every setting and compares."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "lada_ext":
            return func(*args, **(kwargs or {}))
        configure(*SETTINGS[0])
        first = func(*args, **(kwargs or {}))
        for setting in SETTINGS[1:]:
            configure(*setting)
            assert_same(func._schema.name, setting, first, func(*args, **(kwargs or {})))
        return first


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = [i for i in items if "device" in getattr(i, "fixturenames", ()) and not i.get_closest_marker("heavy")]
    config.hook.pytest_deselected(items=[i for i in items if i not in set(kept)])
    items[:] = kept


@pytest.fixture(autouse=True)
def replayed() -> Iterator[None]:
    with Replay():
        yield


def pytest_sessionfinish() -> None:
    Path(os.environ["LADA_EMULATION_LAUNCHED"]).write_bytes(EMULATOR.on_host_launched())
