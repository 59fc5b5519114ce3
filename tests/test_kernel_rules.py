"""The rules that device code keeps so that it can run, and be checked, on a host (docs/kernels.md says why)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.gpu.kernels import kernels

CSRC = Path(__file__).parent.parent / "csrc"
DEVICE_FILES = sorted([*CSRC.rglob("*.cuh"), *CSRC.rglob("*.cu")])
# pattern -> (why not, the one file that may)
FORBIDDEN = {
    r"#\s*include\s*[<\"](torch|ATen|c10)/": ("torch's headers cost 45 s a file and do not belong in kernels", None),
    r"<<<": ("launch through launch()", "launch.cuh"),
    r"\b__shared__\b": ("declare shared memory with SHARED_ARRAY", "device.cuh"),
    r"\bextern\b": ("dynamic shared memory has no bounds to check", None),
    r"\b(cub|thrust|cooperative_groups|nvcuda)\b": ("libraries of device code cannot run on a host", None),
    r"\basm\b": ("inline PTX cannot run on a host", None),
    r"\b__constant__\b": ("pass small tables as arguments or constexpr", None),
    r"\b__activemask\b": ("name the lanes that take part", None),
    r"\b__threadfence\w*\b": ("blocks do not wait for one another; use a second launch", None),
    r"\bvolatile\b|\b__nanosleep\b": ("blocks do not wait for one another; use a second launch", None),
    r"\b(__h(add|sub|mul|fma|div|neg|max|min)2?(_\w+)?|hexp|hlog|hsqrt|__half2)\b": (
        "half types are for storage: widen, compute, narrow",
        None,
    ),
    r"\b__(expf|logf|log2f|powf|sinf|cosf|tanf|sincosf|fdividef|frcp_\w+|fsqrt_\w+)\b": (
        "approximate maths is not in the contract",
        None,
    ),
    r"\btex(1D|2D|3D)\b|\bsurf2D\w*\b|\b__ldcg\b|\b__stcs\b": ("no textures, no cache hints", None),
}


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def breaches(name: str, text: str) -> list[str]:
    code = without_comments(text)
    return [
        f"{name}: {match[0]}: {why}"
        for pattern, (why, allowed) in FORBIDDEN.items()
        if name != allowed
        for match in re.finditer(pattern, code)
    ]


@pytest.mark.parametrize("path", DEVICE_FILES, ids=lambda path: path.name)
def test_device_code_keeps_the_rules(path: Path) -> None:
    assert breaches(path.name, path.read_text()) == []


# What each rule finds, in the order of FORBIDDEN.
EXAMPLES = [
    "#include <torch/extension.h>",
    "kernel<<<1, 32>>>(x);",
    "__shared__ float row[32];",
    "extern float* row;",
    "cub::WarpReduce<float> reduce;",
    'asm("trap;");',
    "__constant__ float table[4];",
    "unsigned m = __activemask();",
    "__threadfence();",
    "while (*static_cast<volatile int*>(flag) == 0) {}",
    "half c = __hadd(a, b);",
    "float y = __expf(x);",
    "float y = __ldcg(x);",
]


@pytest.mark.parametrize(("pattern", "line"), [*zip(FORBIDDEN, EXAMPLES, strict=True)])
def test_each_rule_finds_what_it_forbids(pattern: str, line: str) -> None:
    """And no other rule does."""
    (found,) = breaches("family_kernels.cuh", line)
    assert found.endswith(f": {FORBIDDEN[pattern][0]}")
    assert re.search(pattern, line)


def test_rules_leave_comments_alone() -> None:
    assert breaches("family_kernels.cuh", "// no asm, no __threadfence here\nint x;") == []


def test_kernels_are_named_and_placed_alike() -> None:
    found = [
        (kernel, path.name)
        for path in DEVICE_FILES
        for kernel in re.findall(
            r"__global__[^;{]*?\b(\w+)\s*\((?!\s*kThreads)[^()]*\)\s*{", without_comments(path.read_text())
        )
    ]
    assert len(found) == len(kernels())
    assert all(kernel.endswith("_kernel") and file.endswith("_kernels.cuh") for kernel, file in found), found
