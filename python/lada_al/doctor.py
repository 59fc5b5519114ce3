"""What was built, what runs here, and whether every op still computes what its definition says."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import lada_ext
from lada_al import models
from lada_al.augment.stn import LocalisationNet
from lada_al.pair_net import PairNet
from lada_ext import reference

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Result:
    """Largest error of an op's results and gradients in float32 against the reference in float64, relative to the
    largest value of each."""

    op: str
    device: str
    error: float

    @property
    def ok(self) -> bool:
        return self.error <= TOLERANCE


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


def self_test() -> list[Result]:
    """Every op with its gradients, on the CPU and on each kind of GPU that kernels were built for."""
    devices = ["cpu"]
    if torch.cuda.is_available() and lada_ext.build_info()["cuda"]:
        devices.append("cuda")
    return [Result(op, device, _error(op, device)) for device in devices for op in _CASES]


def _error(op: str, device: str) -> float:
    make, options, reference_options = _CASES[op]
    inputs = [t.to(device) for t in make(torch.Generator().manual_seed(0))]
    actual = _results(getattr(lada_ext, op), [t.float() for t in inputs], options, device)
    expected = _results(getattr(reference, op), [t.double() for t in inputs], {**options, **reference_options}, device)
    return max(
        float((a.double() - e).abs().max() / e.abs().max().clamp(min=1)) for a, e in zip(actual, expected, strict=True)
    )


def _results(f: Callable[..., Any], inputs: list[Tensor], options: dict[str, Any], device: str) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    options = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in options.items()}
    out = f(*leaves, **options)
    first: Tensor = out[0] if isinstance(out, tuple) else out
    first.sum().backward()
    return [first.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def _normal(*shapes: tuple[int, ...]) -> Callable[[torch.Generator], list[Tensor]]:
    return lambda g: [torch.randn(*shape, generator=g) for shape in shapes]


def _pairs_and_tau(g: torch.Generator) -> list[Tensor]:
    return [*_normal((40, 33), (40, 33))(g), torch.rand(40, generator=g) + 0.2]


def _image_and_theta(g: torch.Generator) -> list[Tensor]:
    theta = torch.eye(2, 3) + 0.1 * torch.randn(4, 2, 3, generator=g)
    return [torch.randn(4, 3, 9, 11, generator=g), theta]


_KEY = {"n": 3, "key": lada_ext.make_key(7)}
_CASES: dict[str, tuple[Callable[[torch.Generator], list[Tensor]], dict[str, Any], dict[str, Any]]] = {
    "entropy": (_normal((300, 10)), {}, {}),
    "variation_ratio": (_normal((300, 10)), {}, {}),
    "pair_score": (_normal((50, 10), (50, 10), (50, 5, 10)), {"gamma": 0.5}, {}),
    "beta_sample": (lambda g: [torch.rand(200, generator=g) + 0.2], _KEY, {"bits": 32}),
    "beta_mix": (_pairs_and_tau, _KEY, {"bits": 32}),
    "affine_sample": (_image_and_theta, {}, {}),
}
