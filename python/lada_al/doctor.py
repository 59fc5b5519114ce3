"""What was built, what runs here, and how large the networks are."""

from __future__ import annotations

import platform
import sys

import torch
from torch import nn

import lada_ext
from lada_al import models
from lada_al.augment.stn import LocalisationNet
from lada_al.pair_net import PairNet


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


def parameter_counts() -> list[tuple[str, str, int]]:
    """Sizes of the networks, for the inputs of the paper's Table 1."""
    networks: list[tuple[str, str, nn.Module]] = [
        ("policy network of InfoMixup (pi_phi)", "2 x 64 x 28 x 28 features", PairNet(64, (28, 28))),
        ("localisation network of InfoSTN", "1 x 28 x 28", LocalisationNet(1, 28, 28)),
        ("localisation network of InfoSTN", "3 x 32 x 32", LocalisationNet(3, 32, 32)),
        ("classifier resnet18", "3 x 32 x 32", models.resnet18(3, (32, 32), 10)),
        ("classifier small", "1 x 28 x 28", models.small(1, (28, 28), 10)),
    ]
    return [(name, size, sum(p.numel() for p in net.parameters())) for name, size, net in networks]
