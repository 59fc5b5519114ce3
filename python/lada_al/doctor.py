"""What was built, and what runs here."""

from __future__ import annotations

import platform
import sys

import torch

import lada_ext


def facts() -> dict[str, str]:
    build = lada_ext.build_info()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cuda = f"{build['cuda']} for {build['cuda_architectures']}" if build["cuda"] else "not built"
    return {
        "lada_ext": lada_ext.__version__,
        "built for torch": build["torch"],
        "running torch": torch.__version__,
        "compiler": build["compiler"],
        "CUDA kernels": cuda,
        "OpenMP": str(build["openmp"]),
        "debug build": str(build["debug"]),
        "Python": sys.version.split()[0],
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        "GPUs": ", ".join(gpus) or "none",
    }
