"""What the compiler made of every CUDA kernel: registers, spills, occupancy, widths of accesses, FP64 instructions.

    python bench/sass_report.py [--csv FILE]

compiles each .cu of csrc/ for sm_80 and sm_90, reads the machine code, prints a table and exits with 1 if a kernel
breaks its budget. bench/sass_budget.csv states for each kernel whether memory bounds it (then one of its versions for
each storage type has to load or store 16 bytes at a time; others serve odd sizes) and the least theoretical occupancy
on sm_90; besides, no float32 or half kernel may spill registers or execute an FP64 instruction. What a kernel is known
to breach stands in the column `open`, as words (spill, fp64, narrow, occupancy); a word that is no longer true is a
breach itself. Needs nvcc and nvdisasm (a package that torch depends on, triton, has one).
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUDGET = ROOT / "bench" / "sass_budget.csv"
ARCHITECTURES = ("80", "90")
# Of a streaming multiprocessor of either architecture: registers, threads, blocks; shared memory differs.
REGISTERS, THREADS, BLOCKS, SHARED = 65536, 2048, 32, {"80": 164 << 10, "90": 228 << 10}
RESERVED_SHARED = 1024  # of every block


class MissingToolError(Exception):
    """A tool of the CUDA toolkit is not here."""


@dataclass
class Kernel:
    """One kernel with one set of template arguments on one architecture."""

    name: str
    arguments: str
    arch: str
    registers: int
    stack: int
    spill_bytes: int
    shared: int
    threads: int
    occupancy: float
    fp64: int
    widest_load: int
    widest_store: int
    loads: str
    stores: str
    shared_loads: str
    atomics: int

    @property
    def storage(self) -> str:
        """The first template argument."""
        return self.arguments.split(",")[0]

    @property
    def is_float64(self) -> bool:
        return "double" in self.arguments


def tool(name: str) -> Path:
    """nvcc, nvdisasm or cuobjdump: on PATH, of CUDA_HOME, or of the triton package."""
    spec = importlib.util.find_spec("triton")
    folders = (
        [Path(folder) / "backends/nvidia/bin" for folder in (spec.submodule_search_locations or [])] if spec else []
    )
    found = shutil.which(name) or next((str(f / name) for f in folders if (f / name).exists()), None)
    if found is None:
        raise MissingToolError(f"{name} is neither on PATH nor in the triton package")
    return Path(found)


def compile_for_all(source: Path, folder: Path) -> str:
    """Writes a cubin for each architecture into `folder` and returns what ptxas says."""
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHITECTURES]
    command = [tool("nvcc"), *targets, "-O3", "-std=c++17", "-c", source, "-o", folder / "object.o", "-Xptxas", "-v"]
    said = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if said.returncode != 0:
        raise RuntimeError(f"nvcc {source.name}: {said.stderr[-2000:]}")
    subprocess.run([tool("cuobjdump"), "-xelf", "all", "object.o"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return said.stderr


def first_number(text: str, pattern: str) -> int:
    """What the group of the pattern matches first; 0 if nothing does."""
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def ptxas_facts(text: str) -> Iterator[tuple[str, str, dict[str, int]]]:
    """(mangled name, architecture, registers / stack / spill_bytes / shared) of each kernel."""
    for block in text.split("Compiling entry function ")[1:]:
        head = re.match(r"'(\w+)' for 'sm_(\d+)'", block)
        assert head is not None
        yield (
            head[1],
            head[2],
            {
                "registers": first_number(block, r"Used (\d+) registers"),
                "stack": first_number(block, r"(\d+) bytes stack frame"),
                "spill_bytes": first_number(block, r"(\d+) bytes spill stores")
                + first_number(block, r"(\d+) bytes spill loads"),
                "shared": first_number(block, r"(\d+) bytes smem"),
            },
        )


def max_threads(cubin: Path) -> dict[str, int]:
    """The launch bound of each kernel."""
    text = subprocess.run([tool("cuobjdump"), "-elf", cubin], capture_output=True, text=True, check=True).stdout
    sections = re.split(r"^\.nv\.info\.", text, flags=re.MULTILINE)[1:]
    bounds = {}
    for section in sections:
        found = re.search(r"EIATTR_MAX_THREADS\s+Format:.*\s+Value:\s+0x([0-9a-f]+)", section)
        if found:
            bounds[section.split()[0]] = int(found[1], 16)
    return bounds


def width(opcode: str) -> int:
    """Bytes that a load or store moves a thread."""
    suffix = re.search(r"\.[US]?(8|16|64|128)\b", opcode)
    return int(suffix[1]) // 8 if suffix else 4


def is_fp64(opcode: str) -> bool:
    return bool(re.match(r"(DADD|DMUL|DFMA|DSETP|DMMA|MUFU\.\w*64H)|.*\.F64", opcode))


def counted(widths: Counter[int]) -> str:
    return " ".join(f"{bytes_}B:{count}" for bytes_, count in sorted(widths.items(), reverse=True))


def occupancy(registers: int, threads: int, shared: int, arch: str) -> float:
    """The part of a multiprocessor's threads that can be resident, as CUDA's occupancy calculator counts."""
    warps = -(-threads // 32)
    registers_of_warp = -(-registers * 32 // 256) * 256
    by_registers = (REGISTERS // registers_of_warp // 4 * 4) // warps if registers else BLOCKS
    by_shared = SHARED[arch] // (shared + RESERVED_SHARED)
    return min(BLOCKS, THREADS // (warps * 32), by_registers, by_shared) * warps * 32 / THREADS


def instructions(cubin: Path) -> dict[str, list[str]]:
    """Opcodes of each function."""
    text = subprocess.run([tool("nvdisasm"), "-json", cubin], capture_output=True, text=True, check=True).stdout
    return {
        function["function-name"]: [instruction["opcode"] for instruction in function["sass-instructions"]]
        for function in json.loads(text)[1]
    }


def demangled(names: list[str]) -> list[str]:
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def kernels_of(source: Path) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = list(ptxas_facts(compile_for_all(source, folder)))
        cubins = {re.findall(r"sm_(\d+)", path.name)[-1]: path for path in folder.glob("*.cubin")}
        code = {arch: instructions(path) for arch, path in cubins.items()}
        bounds = {arch: max_threads(path) for arch, path in cubins.items()}
    kernels = []
    for (mangled, arch, fact), readable in zip(facts, demangled([m for m, _, _ in facts]), strict=True):
        named = re.search(r"(\w+)<(.*)>\(", readable) or re.search(r"(\w+)()\(", readable)
        assert named is not None, readable
        opcodes = code[arch][mangled]
        loads = Counter(width(o) for o in opcodes if o.startswith("LDG"))
        stores = Counter(width(o) for o in opcodes if o.startswith("STG"))
        threads = bounds[arch].get(mangled, 1024)
        kernels.append(
            Kernel(
                name=named[1],
                arguments=named[2],
                arch=arch,
                threads=threads,
                occupancy=occupancy(fact["registers"], threads, fact["shared"], arch),
                fp64=sum(is_fp64(o) for o in opcodes),
                widest_load=max(loads, default=0),
                widest_store=max(stores, default=0),
                loads=counted(loads),
                stores=counted(stores),
                shared_loads=counted(Counter(width(o) for o in opcodes if o.startswith("LDS"))),
                atomics=sum(o.startswith(("ATOM", "RED")) for o in opcodes),
                **fact,
            )
        )
    return kernels


def report() -> list[Kernel]:
    sources = sorted((ROOT / "csrc").glob("*/*.cu"))
    with ThreadPoolExecutor(2) as pool:
        return [kernel for kernels in pool.map(kernels_of, sources) for kernel in kernels]


def read_budget() -> dict[str, dict[str, str]]:
    with BUDGET.open() as file:
        return {row["kernel"]: row for row in csv.DictReader(file)}


@dataclass(frozen=True)
class Breach:
    kernel: str
    kind: str
    text: str


def all_breaches(kernels: list[Kernel], budget: dict[str, dict[str, str]]) -> list[Breach]:
    """Every way in which a kernel with a line in the budget breaks it."""
    found = []
    for kernel in kernels:
        label = f"{kernel.name}<{kernel.arguments}> on sm_{kernel.arch}"
        if kernel.is_float64 or kernel.name not in budget:
            continue
        floor = budget[kernel.name]["min_occupancy"]
        if kernel.spill_bytes:
            found.append(Breach(kernel.name, "spill", f"{label}: spills {kernel.spill_bytes} bytes"))
        if kernel.fp64:
            found.append(Breach(kernel.name, "fp64", f"{label}: {kernel.fp64} FP64 instructions"))
        if kernel.arch == "90" and kernel.occupancy < float(floor):
            text = f"{label}: occupancy {kernel.occupancy:.2f} is under {floor}"
            found.append(Breach(kernel.name, "occupancy", text))
    return found + narrow_kernels([k for k in kernels if budget.get(k.name, {}).get("memory_bound") == "yes"])


def narrow_kernels(memory_bound: list[Kernel]) -> list[Breach]:
    """Kernels and storage types of which no version moves 16 bytes at a time."""
    widest: dict[tuple[str, str, str], int] = {}
    for k in memory_bound:
        key = (k.name, k.storage, k.arch)
        widest[key] = max(widest.get(key, 0), k.widest_load, k.widest_store)
    return [
        Breach(name, "narrow", f"{name}<{storage}, ...> on sm_{arch}: memory-bound, but no 16-byte access")
        for (name, storage, arch), bytes_ in widest.items()
        if bytes_ < 16
    ]


def breaches(kernels: list[Kernel], budget: dict[str, dict[str, str]]) -> list[str]:
    """What is over budget and not known to be, what is in the budget and is not so, in words."""
    names = {kernel.name for kernel in kernels}
    found = all_breaches(kernels, budget)
    known = {(name, kind) for name, row in budget.items() for kind in row["open"].split()}
    return [
        *(f"{name}: in the budget, but no such kernel" for name in sorted(set(budget) - names)),
        *(f"{name}: no line in {BUDGET.name}" for name in sorted(names - set(budget))),
        *(breach.text for breach in found if (breach.kernel, breach.kind) not in known),
        *(
            f"{n}: no longer open: {kind}"
            for n, kind in sorted(known - {(b.kernel, b.kind) for b in found})
            if n in names
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    kernels = report()
    for k in kernels:
        print(
            f"{k.name}<{k.arguments}> sm_{k.arch}: {k.registers} registers, {k.spill_bytes} B spilled, "
            f"{k.shared} B shared, {k.threads} threads, occupancy {k.occupancy:.2f}, {k.fp64} FP64, "
            f"loads {k.loads or '-'}, stores {k.stores or '-'}, atomics {k.atomics}"
        )
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(kernels[0])))
            writer.writeheader()
            writer.writerows(asdict(kernel) for kernel in kernels)
    found = breaches(kernels, read_budget())
    for line in found:
        print(f"over budget: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
