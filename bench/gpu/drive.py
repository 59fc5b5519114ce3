"""Runs every op forward and backward over the named samples of the tests, in every storage type, so that every kernel
is launched: under compute-sanitizer, or to see which kernels an op launches and how large their error is.

    python -m bench.gpu.drive [--device cuda] [--kernels FILE]

An op of the library that was not reached, or with --kernels a kernel, is an error: a new one cannot go undriven.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.gpu.kernels import kernels
from bench.results import ROOT, provenance
from bench.timing import launched_kernels
from lada_ext import beta_nodes

sys.path.insert(0, str(ROOT / "tests"))
from samples import LOGITS, SELECTIONS, TAKEN, cast, generator
from test_dispatch import OPS, PICKS, TAKES, with_gradients

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
COLUMNS = ["kernel", "ops", "error", "sources", "date", "device", "host", "torch", "commit"]


def top_pairs_arguments(logits: Tensor) -> tuple[Any, ...]:
    rows = logits.flatten(0, -2) if logits.dim() > 1 else logits[None]
    k = min(5, len(rows) * (len(rows) - 1) // 2)
    return rows, k, *beta_nodes(0.5, 3), 1.0, "entropy", False, False


# op -> (samples, arguments of the op): those of the tests, and ops that the tests treat by themselves
DRIVEN: dict[str, tuple[dict[str, Any], Callable[..., tuple[Any, ...]]]] = {
    **{op: entry[:2] for op, entry in OPS.items()},
    **{op: (SELECTIONS, order) for op, order in PICKS.items()},
    "beta_logit_grad": (OPS["beta_mix"][0], lambda tau, **_: (tau.log(), tau)),
    "take_images": (TAKEN, TAKES),
    "top_k": (LOGITS, lambda logits: (logits.flatten(), (logits.numel() + 1) // 2)),
    "top_pairs": (LOGITS, top_pairs_arguments),
}


@dataclass(frozen=True)
class Step:
    """One op over one sample; `forward` leaves the results that `backward` needs."""

    op: str
    sample: str
    arguments: tuple[Any, ...]

    def forward(self) -> list[Tensor]:
        results = getattr(torch.ops.lada_ext, self.op)(*self.arguments)
        return list(results) if isinstance(results, tuple | list) else [results]

    def backward(self, results: list[Tensor]) -> list[Tensor]:
        """Gradients to the arguments of the results' sum, each weighted by numbers that differ."""
        differentiable = [r for r in results if r.requires_grad]
        leaves = [a for a in self.arguments if isinstance(a, Tensor) and a.requires_grad]
        if not differentiable:
            return []
        weights = [torch.linspace(0.5, 1.5, r.numel(), dtype=r.dtype).reshape(r.shape) for r in differentiable]
        on_device = [w.to(r.device) for w, r in zip(weights, differentiable, strict=True)]
        grads = torch.autograd.grad(differentiable, leaves, on_device, allow_unused=True)
        return [g for g in grads if g is not None]


class Reached(TorchDispatchMode):
    """Notes the ops of the library that come by, backward ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func.namespace == "lada_ext":
            self.ops.add(func._schema.name.removeprefix("lada_ext::"))
        return func(*args, **(kwargs or {}))


@cache
def registered() -> set[str]:
    """Every op of the library, from its schemas."""
    names = (schema.name for schema in torch._C._jit_get_all_schemas())
    return {name.removeprefix("lada_ext::") for name in names if name.startswith("lada_ext::")}


def steps(device: str, dtype: torch.dtype) -> Iterator[Step]:
    for op, (samples, order) in DRIVEN.items():
        for sample, make in samples.items():
            yield Step(op, sample, _leaves(op, order(**cast(make(generator(sample)), dtype, device))))


def drive(device: str) -> set[str]:
    """Runs everything twice, as it is and deterministically; returns the ops that were reached."""
    with Reached() as reached:
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
            for dtype in DTYPES:
                for step in steps(device, dtype):
                    step.backward(step.forward())
    torch.use_deterministic_algorithms(False)
    if device == "cuda":
        torch.cuda.synchronize()
    return reached.ops


def kernel_rows(device: str) -> list[dict[str, str]]:
    """A row a kernel: the ops that launch it, and the largest error of their results (see `observations`)."""
    ops: dict[str, set[str]] = {}
    errors: dict[str, float] = {}
    for op, names, error in observations(device):
        for name in names:
            ops.setdefault(name, set()).add(op)
            if error is not None:
                errors[name] = max(errors.get(name, 0.0), error)
    origin = {**provenance(device), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    return [
        {
            "kernel": kernel.name,
            "ops": " ".join(sorted(ops.get(kernel.name, ()))),
            "error": f"{errors[kernel.name]:.1e}" if kernel.name in errors else "",
            "sources": kernel.digest,
            **origin,
        }
        for kernel in kernels()
    ]


def observations(device: str) -> Iterator[tuple[str, set[str], float | None]]:
    """Of every step in float32, as it is and deterministically: op, kernels it launched, and largest error.

    The error is that against the same op in float64 on the CPU, for each op's first sample, which is an ordinary one.
    """
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        for step in steps(device, torch.float32):
            (forward, results), (backward, gradients) = observed(step)
            errors: list[float | None] = [None, None]
            if step.sample == next(iter(DRIVEN[step.op][0])):
                exact, exact_gradients = on_cpu_in_double(step)
                errors = [largest_error(results, exact), largest_error(gradients, exact_gradients)]
            yield step.op, forward, errors[0]
            yield f"{step.op}_backward", backward, errors[1]
    torch.use_deterministic_algorithms(False)


def observed(step: Step) -> tuple[tuple[set[str], list[Tensor]], tuple[set[str], list[Tensor]]]:
    """The kernels that the forward and the backward pass launch, and what comes of them."""
    results: list[Tensor] = []
    gradients: list[Tensor] = []
    forward = launched_kernels(lambda: results.extend(step.forward()))
    backward = launched_kernels(lambda: gradients.extend(step.backward(results)))
    return (forward, results), (backward, gradients)


def on_cpu_in_double(step: Step) -> tuple[list[Tensor], list[Tensor]]:
    twin = Step(step.op, step.sample, _leaves(step.op, tuple(map(_exact, step.arguments))))
    results = twin.forward()
    return results, twin.backward(results)


def largest_error(actual: list[Tensor], expected: list[Tensor]) -> float:
    """Of |actual - expected| / (1 + |expected|); infinite if they are not numbers at the same places."""
    largest = 0.0
    for a, e in zip(actual, expected, strict=True):
        got, want = a.detach().double().cpu(), e.detach().double()
        if not torch.equal(got.isfinite(), want.isfinite()):
            return float("inf")
        error = (got - want).abs() / (1 + want.abs())
        largest = max(largest, error[want.isfinite()].max().item() if error.numel() else 0.0)
    return largest


def _leaves(op: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Floating tensors need a gradient if the op has a backward one, but for those that it takes as constants."""
    return with_gradients(arguments, op) if f"{op}_backward" in registered() else arguments


def _exact(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().cpu().double() if value.is_floating_point() else value.cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--kernels", type=Path, help="CSV file to write: kernels, their ops and errors; cuda only")
    chosen = parser.parse_args()
    missing = registered() - drive(chosen.device)
    if missing:
        sys.exit(f"ops that bench/gpu/drive.py does not reach: {', '.join(sorted(missing))}")
    print(f"reached every op of the library: {len(registered())}")
    if chosen.kernels:
        table = kernel_rows(chosen.device)
        with chosen.kernels.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
        never = [row["kernel"] for row in table if not row["ops"]]
        if never:
            sys.exit(f"kernels that bench/gpu/drive.py does not launch: {', '.join(never)}")


if __name__ == "__main__":
    main()
