"""The sources stay within C++17, as which the oldest torch that is supported builds extensions."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

CSRC = Path(__file__).parent.parent / "csrc"
LOOPS = sorted(CSRC.rglob("*_cpu.cpp"))  # of torch they include c10's number types alone
SOURCES = sorted(path for kind in ("*.h", "*.cuh", "*.cpp", "*.cu") for path in CSRC.rglob(kind))
LATER = re.compile(
    r"#\s*include\s*<(bit|span|ranges|concepts|numbers|format|compare|source_location)>|"
    r"\bstd::(bit_cast|count[lr]_(zero|one)|popcount|span|ranges|numbers|remove_cvref_t|\w+_for_overwrite)\b|"
    r"\b(requires|consteval|constinit|concept)\b|<=>|\[\[(un)?likely\]\]"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_later_words(path: Path) -> None:
    code = re.sub(r"//[^\n]*|\"[^\"\n]*\"", "", path.read_text())
    assert [match[0] for match in LATER.finditer(code)] == []


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.name)
def test_loops_compile(path: Path) -> None:
    """Only their syntax and types are looked at."""
    include = Path(torch.__file__).parent / "include"
    options = ["-std=c++17", "-fsyntax-only", "-fopenmp", "-Wno-unknown-pragmas", f"-I{include}"]
    run = subprocess.run(["g++", *options, str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


def test_the_words_are_found() -> None:
    for code in ("#include <bit>", "std::bit_cast<float>(x)", "a <=> b", "std::make_unique_for_overwrite<int[]>(3)"):
        assert LATER.search(code)
