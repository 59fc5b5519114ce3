"""The machine code of every CUDA kernel keeps its budget; and the report would notice if it did not."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def sass() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sass_report", ROOT / "bench" / "sass_report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_kernels_keep_their_budget(sass: ModuleType) -> None:
    try:
        kernels = sass.report()
    except sass.MissingToolError as reason:
        pytest.skip(str(reason))
    assert {kernel.arch for kernel in kernels} == set(sass.ARCHITECTURES)
    assert sass.breaches(kernels, sass.read_budget()) == []


def test_each_breach_is_reported(sass: ModuleType) -> None:
    good = sass.Kernel(
        name="copy_kernel",
        arguments="float, 256",
        arch="90",
        registers=32,
        stack=0,
        spill_bytes=0,
        shared=0,
        threads=256,
        occupancy=1.0,
        fp64=0,
        widest_load=16,
        widest_store=16,
        loads="16B:1",
        stores="16B:1",
        shared_loads="",
        atomics=0,
    )
    budget = {"copy_kernel": {"memory_bound": "yes", "min_occupancy": "0.5", "open": ""}}
    assert sass.breaches([good], budget) == []
    for change, words in [
        ({"spill_bytes": 8}, "spills 8 bytes"),
        ({"fp64": 2}, "2 FP64 instructions"),
        ({"widest_load": 4, "widest_store": 4}, "no 16-byte access"),
        ({"occupancy": 0.25}, "occupancy 0.25 is under 0.5"),
        ({"name": "other_kernel"}, "no line in"),
    ]:
        assert any(words in line for line in sass.breaches([dataclasses.replace(good, **change)], budget))
    spilling = dataclasses.replace(good, spill_bytes=8)
    known = {"copy_kernel": {**budget["copy_kernel"], "open": "spill"}}
    assert sass.breaches([spilling], known) == []
    assert sass.breaches([good], known) == ["copy_kernel: no longer open: spill"]
    in_float64 = dataclasses.replace(good, arguments="double, 256", spill_bytes=8, fp64=100)
    assert sass.breaches([in_float64], budget) == []


def test_widths_and_fp64_are_read_from_opcodes(sass: ModuleType) -> None:
    assert [sass.width(o) for o in ("LDG.E.128.CONSTANT", "LDG.E.U16", "STG.E.64", "LDG.E", "LDG.E.S8")] == [
        16,
        2,
        8,
        4,
        1,
    ]
    assert all(map(sass.is_fp64, ("DFMA", "DADD", "F2F.F32.F64", "MUFU.RCP64H", "I2F.F64", "DSETP.GT.AND")))
    assert not any(map(sass.is_fp64, ("FFMA", "LDG.E.64", "IMAD.WIDE.U32", "F2F.F16.F32", "DEPBAR.LE")))


def test_occupancy(sass: ModuleType) -> None:
    assert sass.occupancy(registers=32, threads=256, shared=0, arch="90") == 1.0
    assert sass.occupancy(registers=64, threads=256, shared=0, arch="90") == 0.5
    assert sass.occupancy(registers=16, threads=256, shared=100 << 10, arch="90") == 0.25
