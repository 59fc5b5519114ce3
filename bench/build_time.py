"""How long the extension takes to build: CPU only, with CUDA, and after a change in the kernels of each family.

    python -m bench.build_time [--out bench/results/build_time.csv]

Builds a copy of the sources in a temporary folder with this environment's torch and writes one line a build.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.results import provenance

ROOT = Path(__file__).parent.parent
PARTS = ["csrc", "lada_ext", "python", "setup.py", "pyproject.toml", "README.md"]
ORIGIN = ["torch", "host", "commit"]


def build(folder: Path, force_cuda: str) -> float:
    environment = {**os.environ, "FORCE_CUDA": force_cuda}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def measure() -> list[tuple[str, float]]:
    results = []
    with tempfile.TemporaryDirectory() as name:
        for label, force_cuda in (("CPU only, full", "0"), ("with CUDA, full", "1")):
            folder = Path(name) / label.split(",")[0].replace(" ", "-")
            folder.mkdir()
            for part in PARTS:
                source = ROOT / part
                copy = shutil.copytree if source.is_dir() else shutil.copy
                copy(source, folder / part)
            results.append((label, build(folder, force_cuda)))
        for kernel in sorted(folder.glob("csrc/*/*_kernels.cuh")):
            kernel.write_text(kernel.read_text() + "\n")
            results.append((f"with CUDA, after a change in {kernel.name}", build(folder, "1")))
        results.append(("with CUDA, nothing changed", build(folder, "1")))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV file to write")
    arguments = parser.parse_args()
    origin = provenance("cpu")
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", "default")
    rows = [
        [label, f"{seconds:.1f}", architectures, *(origin[name] for name in ORIGIN)] for label, seconds in measure()
    ]
    header = ["build", "seconds", "architectures", *ORIGIN]
    for row in [header, *rows]:
        print(", ".join(row))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    main()
