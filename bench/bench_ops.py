"""Every op against eager torch and torch.compile of the same definition, forward, or forward and backward.

`make bench`. Each case is checked against the reference in float64 before it is timed; groups name the case, and the
relative column of pytest-benchmark is the ratio to the fastest. `full` beside them writes the output's bytes and
nothing else: no op that makes a new output can be faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext
from lada_ext import reference

CONTENDERS = ["lada_ext", "eager", "compile", "full"]


def eager_entropy(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1) / math.log(2)


def eager_mix(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    del tau
    weight = lam[..., None]
    return weight * a[:, None] + (1 - weight) * b[:, None]


def eager_mix_with_draw(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    drawn = torch.distributions.Beta(tau, tau).rsample((lam.shape[1],)).t()
    return eager_mix(a, b, tau, drawn)


def eager_affine(image: Tensor, theta: Tensor) -> Tensor:
    return F.grid_sample(image, F.affine_grid(theta, list(image.shape), align_corners=False), align_corners=False)


def logits(rows: int, classes: int) -> list[Tensor]:
    return [torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))]


def pairs(count: int, features: int, samples: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, count, features, generator=g)
    tau = torch.rand(count, generator=g) + 0.2
    return [a, b, tau, lada_ext.beta_sample(tau, samples, lada_ext.make_key(0))]


def images(*shape: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=g), torch.eye(2, 3) + 0.1 * torch.randn(shape[0], 2, 3, generator=g)]


def our_mix(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    return lada_ext.beta_mix(a, b, tau, lam.shape[1], lada_ext.make_key(0))[0]


# case: inputs, how many of them need gradients, ours, eager, what torch.compile takes, the definition in float64
Case = tuple[
    list[Tensor], int, Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]
]
CASES: dict[str, Callable[[], Case]] = {
    "entropy 100000x10": lambda: (
        logits(100_000, 10), 1, lada_ext.entropy, eager_entropy, eager_entropy, reference.entropy,
    ),
    "entropy 20000x1000": lambda: (
        logits(20_000, 1000), 1, lada_ext.entropy, eager_entropy, eager_entropy, reference.entropy,
    ),
    "beta_mix P=500 N=5 D=16384": lambda: (
        pairs(500, 16384, 5), 3, our_mix, eager_mix_with_draw, eager_mix, eager_mix,
    ),
    "affine_sample 256x3x32x32": lambda: (
        images(256, 3, 32, 32), 2, lada_ext.affine_sample, eager_affine, eager_affine, reference.affine_sample,
    ),
    "affine_sample 256x64x32x32": lambda: (
        images(256, 64, 32, 32), 2, lada_ext.affine_sample, eager_affine, eager_affine, reference.affine_sample,
    ),
}  # fmt: skip


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("name", CASES)
def test_speed(name: str, direction: str, contender: str, benchmark: Any) -> None:
    inputs, with_gradient, ours, eager, to_compile, definition = CASES[name]()
    expected = definition(*(t.double() for t in inputs))
    torch.testing.assert_close(ours(*inputs).double(), expected, rtol=1e-3, atol=1e-3)
    torch.compiler.reset()  # a case of other sizes is not to make this one dynamic
    functions = {"lada_ext": ours, "eager": eager, "compile": torch.compile(to_compile), "full": None}
    function = functions[contender]
    needs = direction == "forward+backward"
    leaves = [t.requires_grad_(needs and i < with_gradient) for i, t in enumerate(inputs)]
    ones = torch.ones(expected.shape)

    def step() -> None:
        if function is None:
            torch.full(expected.shape, 1.0)
            return
        out = function(*leaves)
        if needs:
            torch.autograd.grad(out, [t for t in leaves if t.requires_grad], ones, allow_unused=True)

    benchmark.group = f"{name} {direction}"
    benchmark.pedantic(step, warmup_rounds=3, rounds=15)
