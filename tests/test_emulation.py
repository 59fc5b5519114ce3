"""The CUDA kernels, compiled for the host, under the ordinary tests of the ops; and proof that errors would show."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
EMULATION = ROOT / "tests" / "emulation"
DETECTORS = ["plain", "asan", "tsan"]
PRELOADED = {"plain": [], "asan": ["libasan.so", "libstdc++.so.6"], "tsan": ["libtsan.so"]}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "TSAN_OPTIONS": "halt_on_error=1:atexit_sleep_ms=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
# pythonpath= keeps the built package from shadowing the emulated one; with capture=sys the report of a detector that
# ends the process is not lost
CHILD_OPTIONS = ["-p", "child", "-p", "no:cacheprovider", "-o", "pythonpath=", "--capture=sys", "-x", "-v"]


def broken_kernels() -> list[tuple[str, str, str]]:
    """(kernel, detector, report) as the files of the folder declare them."""
    text = "".join(path.read_text() for path in sorted((EMULATION / "broken").glob("*.h")))
    return re.findall(r'^CASE\((\w+), "(\w+)", "([^"]+)"', text, re.MULTILINE)


def cuda_headers() -> Path | None:
    """The folder of NVIDIA's headers: the toolkit's, or that of the packages that a CUDA build of torch brings."""
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    setup = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = setup
    spec.loader.exec_module(setup)
    home = setup.find_cuda_home()
    packages = importlib.util.find_spec("nvidia")
    folders = [home / "include"] if home else []
    for package in (packages.submodule_search_locations or []) if packages else []:
        folders += sorted(Path(package).glob("*/include"))
    return next((f for f in folders if (f / "cuda_fp16.h").exists() and (f / "cuda_runtime.h").exists()), None)


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """In the folder of the tests, where no lada_ext shadows the emulated one."""
    return subprocess.run(
        command,
        cwd=EMULATION.parent,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder with the emulated libraries and the programs of the broken kernels."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("the emulation needs Linux on x86-64")
    if shutil.which("cmake") is None or shutil.which("ninja") is None or shutil.which("g++") is None:
        pytest.skip("the emulation needs cmake, ninja and g++")
    headers = cuda_headers()
    if headers is None:
        pytest.skip("the emulation needs NVIDIA's headers: a CUDA toolkit or a CUDA build of torch")
    folder = ROOT / "build" / f"emulation-{sys.implementation.cache_tag}-torch{torch.__version__}"
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += ["-DCMAKE_CXX_COMPILER=g++", "-DLADA_EXT_EMULATION=ON", f"-DLADA_EXT_CUDA_INCLUDE={headers}"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of pytest-xdist come here
        for command in (configure, ["cmake", "--build", str(folder), "-j", os.environ.get("MAX_JOBS", "2")]):
            done = run(command)
            assert done.returncode == 0, done.stdout[-4000:]
    return folder


@pytest.mark.parametrize(("kernel", "detector", "report"), broken_kernels())
def test_broken_kernel_is_caught(built: Path, kernel: str, detector: str, report: str) -> None:
    done = run([str(built / detector / f"broken_{detector}"), kernel, "broken"], **OPTIONS)
    assert done.returncode not in (0, 2)
    assert re.search(report, done.stdout), done.stdout


@pytest.mark.parametrize("kernel", [kernel for kernel, _, _ in broken_kernels()])
def test_corrected_kernel_is_accepted(built: Path, kernel: str) -> None:
    for detector in DETECTORS:
        done = run([str(built / detector / f"broken_{detector}"), kernel, "correct"], **OPTIONS)
        assert done.returncode == 0, f"{detector}: {done.stdout}"


def emulated_package(built: Path, detector: str, folder: Path) -> Path:
    """A folder to import lada_ext from, with the emulated library in place of the built one."""
    package = folder / "lada_ext"
    package.mkdir()
    for source in (ROOT / "lada_ext").glob("*.py"):
        (package / source.name).symlink_to(source)
    (package / "_C.so").symlink_to(built / detector / "_C.so")
    return folder


def kernels_of(library: Path) -> set[str]:
    """The kernels that a library holds, one for each set of template arguments."""
    symbols = subprocess.run(["nm", "-C", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(void lada::cuda::\w+_kernel<.*\))$", symbols, re.MULTILINE))


@pytest.mark.apart
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("detector", DETECTORS)
def test_kernels_under_the_tests_of_the_ops(built: Path, detector: str, tmp_path: Path) -> None:
    families = sorted({path.parent.name for path in (ROOT / "csrc").glob("*/*_kernels.cuh")})
    files = [path.name for family in families for path in sorted((ROOT / "tests").glob(f"test_{family}*.py"))]
    launched = tmp_path / "launched.txt"
    compiler_libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in PRELOADED[detector]
    ]
    done = run(
        [sys.executable, "-m", "pytest", *CHILD_OPTIONS, *files],
        PYTHONPATH=os.pathsep.join([str(emulated_package(built, detector, tmp_path)), str(EMULATION)]),
        LD_PRELOAD=" ".join(compiler_libraries),
        OMP_NUM_THREADS="1",
        LADA_EMULATION=detector,
        LADA_EMULATION_LAUNCHED=str(launched),
        **OPTIONS,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    held = kernels_of(built / detector / "_C.so")
    assert len(held) > len(families)
    missed = held - set(launched.read_text().splitlines())
    assert not missed, "no test launched " + "\n".join(sorted(missed))
