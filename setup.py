"""Build of the extension module lada_ext._C with torch's own build tools.

CPU code is always built. CUDA code is built too when a CUDA build of torch and a matching nvcc are found; FORCE_CUDA=1
makes anything missing an error and FORCE_CUDA=0 leaves CUDA out. TORCH_CUDA_ARCH_LIST, MAX_JOBS, CUDA_HOME and DEBUG=1
are honoured. The configuration is printed, and lada_ext.build_info() reports it at run time.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from setuptools import setup
from setuptools.command.build import build

try:
    import torch
except ImportError:
    sys.exit(
        "lada-ext is compiled against the torch of your environment, and no torch is importable here.\n"
        "If pip isolated this build, turn that off. In the environment that has (or shall have) torch:\n"
        '    pip install torch torchvision "setuptools>=77" ninja\n'
        "    pip install --no-build-isolation .\n"
    )

ROOT = Path(__file__).parent
DEBUG = os.environ.get("DEBUG") == "1"
# Without a GPU to ask and without TORCH_CUDA_ARCH_LIST: one architecture whose PTX runs on every later one.
DEFAULT_ARCHITECTURES = "8.0+PTX"


def find_cuda_home() -> Path | None:
    """The toolkit folder: CUDA_HOME or CUDA_PATH, else what nvcc says of itself (the one on PATH may be a wrapper)."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            return Path(os.environ[variable])
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        default = Path("/usr/local/cuda")
        return default if (default / "bin/nvcc").exists() else None
    report = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
    folder = re.search(r"^#\$ _HERE_=(.+)$", report.stderr, re.MULTILINE)
    return Path(folder[1]).parent if folder else Path(nvcc).resolve().parent.parent


def nvcc_version(cuda_home: Path) -> str:
    nvcc = cuda_home / "bin" / "nvcc"
    if not nvcc.exists():
        raise FileNotFoundError(f"no nvcc in {nvcc.parent}")
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+\.\d+)", text)
    if release is None:
        raise RuntimeError(f"{nvcc} --version does not name a release")
    return release[1]


def missing_header_folders(cuda_home: Path) -> list[str]:
    """Include folders of the nvidia packages of this environment, if the toolkit lacks headers that torch uses."""
    wanted = ("cuda_runtime_api.h", "cublas_v2.h", "cusparse.h", "cusolverDn.h")
    if all((cuda_home / "include" / header).exists() for header in wanted):
        return []
    spec = importlib.util.find_spec("nvidia")
    packages = [Path(p) for p in spec.submodule_search_locations or []] if spec else []
    return sorted(str(folder) for package in packages for folder in package.glob("*/include"))


@dataclass(frozen=True)
class Cuda:
    home: Path
    version: str
    architectures: str
    extra_includes: list[str]


def find_cuda() -> tuple[Cuda | None, str]:
    """CUDA's configuration, or None and the reason."""
    force = os.environ.get("FORCE_CUDA")
    if force == "0":
        return None, "FORCE_CUDA=0"
    try:
        return _require_cuda(), ""
    except (FileNotFoundError, RuntimeError, subprocess.CalledProcessError) as error:
        if force == "1":
            sys.exit(f"FORCE_CUDA=1, but CUDA code cannot be built: {error}")
        return None, str(error)


def _require_cuda() -> Cuda:
    if torch.version.cuda is None:
        raise RuntimeError(f"torch {torch.__version__} is built without CUDA")
    home = find_cuda_home()
    if home is None:
        raise FileNotFoundError("nvcc not found; set CUDA_HOME")
    version = nvcc_version(home)
    if version.split(".")[0] != torch.version.cuda.split(".")[0]:
        raise RuntimeError(f"nvcc is CUDA {version}, torch {torch.__version__} is built for CUDA {torch.version.cuda}")
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or visible_architectures(home) or DEFAULT_ARCHITECTURES
    return Cuda(home, version, architectures, missing_header_folders(home))


def visible_architectures(cuda_home: Path) -> str:
    """Those of the GPUs here that nvcc knows; for a newer one the newest that it knows, as PTX, which the driver
    compiles."""
    if not torch.cuda.is_available():
        return ""
    text = subprocess.run([cuda_home / "bin" / "nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = sorted((int(major), int(minor)) for major, minor in re.findall(r"compute_(\d+)(\d)\b", text.stdout))
    found = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    names = [f"{major}.{minor}" for major, minor in found if (major, minor) in known]
    newer = [f"{known[-1][0]}.{known[-1][1]}+PTX"] if found[-1] > known[-1] else []
    return ";".join([*names, *newer])


CUDA, WHY_NO_CUDA = find_cuda()
if CUDA:  # torch.utils.cpp_extension reads both when it is imported
    os.environ["CUDA_HOME"] = str(CUDA.home)
    os.environ["TORCH_CUDA_ARCH_LIST"] = CUDA.architectures

from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402


def extension() -> CppExtension:
    sources = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "csrc").rglob("*.cpp"))]
    macros = [("LADA_TORCH_VERSION", f'"{torch.__version__}"')]
    optimise = ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]
    # Nobody reads floating-point exception flags or errno; without them, selects and sqrt become vector instructions.
    no_flags = ["-fno-trapping-math", "-fno-math-errno"]
    flags = {"cxx": [*optimise, *no_flags, "-fopenmp", "-Wall", "-Wno-unknown-pragmas"]}
    link = ["-fopenmp"]
    if CUDA is None:
        return CppExtension(
            "lada_ext._C", sources, define_macros=macros, extra_compile_args=flags, extra_link_args=link
        )
    sources += [str(p.relative_to(ROOT)) for p in sorted((ROOT / "csrc").rglob("*.cu"))]
    macros += [
        ("LADA_WITH_CUDA", None),
        ("LADA_CUDA_VERSION", f'"{CUDA.version}"'),
        ("LADA_CUDA_ARCHITECTURES", f'"{CUDA.architectures}"'),
    ]
    flags["nvcc"] = ["-O0", "-G", "-g"] if DEBUG else ["-O3", "-lineinfo"]
    return CUDAExtension(
        "lada_ext._C",
        sources,
        include_dirs=list(CUDA.extra_includes),
        define_macros=macros,
        extra_compile_args=flags,
        extra_link_args=link,
    )


class FreshBuild(build):
    """Packs what the sources are now, not what an earlier build of these packages left in build/lib."""

    def run(self) -> None:
        for package in {name.split(".")[0] for name in self.distribution.packages}:
            shutil.rmtree(Path(self.build_lib, package), ignore_errors=True)
        super().run()


class BuildExtensionOnce(BuildExtension):
    """Keeps objects in one folder, also for `pip install -e .`, so that ninja recompiles only what changed."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = str(ROOT / "build" / f"objects-{sys.implementation.cache_tag}-torch{torch.__version__}")

    def run(self) -> None:
        cuda = f"CUDA {CUDA.version} at {CUDA.home}, for {CUDA.architectures}" if CUDA else f"no CUDA: {WHY_NO_CUDA}"
        print(f"lada_ext: torch {torch.__version__}; {cuda}; {'debug' if DEBUG else 'release'} build", flush=True)
        if CUDA and CUDA.extra_includes:
            print(f"lada_ext: headers the toolkit lacks come from {', '.join(CUDA.extra_includes)}", flush=True)
        super().run()


if __name__ == "__main__":
    setup(ext_modules=[extension()], cmdclass={"build": FreshBuild, "build_ext": BuildExtensionOnce})
