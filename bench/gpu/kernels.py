"""The CUDA kernels there are, read from the sources, and what each of them is made of."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\(")
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Kernel:
    """A `__global__` function and the file it is in."""

    name: str
    file: Path

    @property
    def sources(self) -> list[Path]:
        """The family's launches and all they include: a change elsewhere cannot change what runs."""
        return _with_includes(sorted(self.file.parent.glob("*_cuda.cu")))

    @property
    def digest(self) -> str:
        """Of the sources; it tells whether they are what they were when the kernel was verified."""
        total = hashlib.sha256()
        for path in self.sources:
            total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return total.hexdigest()[:16]


def kernels(csrc: Path = ROOT / "csrc") -> list[Kernel]:
    """Every kernel, by family and then in the order of its file."""
    found = []
    for file in sorted(csrc.glob("*/*.cuh")):
        text = file.read_text()
        names = KERNEL.findall(text)
        if len(names) != text.count("__global__"):
            raise ValueError(f"{file}: a kernel is to begin '__global__ void [__launch_bounds__(...)] name('")
        found += [Kernel(name, file) for name in names]
    return found


def _with_includes(files: list[Path]) -> list[Path]:
    seen: dict[Path, None] = {}
    while files:
        file = files.pop(0).resolve()
        if file not in seen and file.exists():
            seen[file] = None
            files += [file.parent / name for name in INCLUDE.findall(file.read_text())]
    return sorted(seen)
