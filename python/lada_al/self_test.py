"""Whether every op of lada_ext still computes, on this machine, what its definition in lada_ext.reference says.

Each op is called once on small random inputs, in float32 and with its gradients, and its definition in float64. Indices
that an op returns must be the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lada_ext
from lada_ext import reference

TOLERANCE = 1e-5
SAMPLES = 3

Make = Callable[[torch.Generator], list[Tensor]]


@dataclass(frozen=True)
class Result:
    """Largest error of an op's results and gradients in float32 against the reference in float64, relative to the
    largest value of each; infinite where an index differs or a result is NaN."""

    op: str
    device: str
    error: float

    @property
    def ok(self) -> bool:
        return self.error <= TOLERANCE


@dataclass(frozen=True)
class Case:
    """Inputs, of which those in floating point are differentiated where the results can be; the op; its definition."""

    inputs: Make
    op: Callable[..., Any]
    definition: Callable[..., Any]


def self_test() -> list[Result]:
    """Every op with its gradients, on the CPU and on each kind of GPU that kernels were built for."""
    devices = ["cpu"]
    if torch.cuda.is_available() and lada_ext.build_info()["cuda"]:
        devices.append("cuda")
    return [Result(op, device, _error(case, device)) for device in devices for op, case in CASES.items()]


def _error(case: Case, device: str) -> float:
    inputs = [t.to(device) for t in case.inputs(torch.Generator().manual_seed(0))]
    with torch.backends.cudnn.flags(allow_tf32=False):  # torch's convolutions round to ten bits by default
        actual = _results(case.op, inputs, torch.float32)
    expected = _results(case.definition, inputs, torch.float64)
    return max(_difference(a, e) for a, e in zip(actual, expected, strict=True))


def _difference(actual: Tensor, expected: Tensor) -> float:
    if not expected.is_floating_point():
        return 0.0 if torch.equal(actual, expected) else math.inf
    error = float((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1))
    return math.inf if math.isnan(error) else error


def _results(f: Callable[..., Any], inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    arguments = [t.to(dtype, copy=True).requires_grad_() if t.is_floating_point() else t for t in inputs]
    out = f(*arguments)
    results = list(out) if isinstance(out, tuple) else [out]
    if results[0].requires_grad:
        results[0].sum().backward()
    gradients = [t.grad for t in arguments if t.grad is not None]
    return [t.detach() for t in (*results, *gradients)]


def _normal(*shapes: tuple[int, ...]) -> Make:
    return lambda g: [torch.randn(*shape, generator=g) for shape in shapes]


def _uniform(*shape: int) -> Make:
    return lambda g: [torch.rand(*shape, generator=g)]


def _positive(*shape: int) -> Make:
    return lambda g: [torch.rand(*shape, generator=g) + 0.2]


def _below(limit: int, *shape: int) -> Make:
    return lambda g: [torch.randint(limit, shape, generator=g)]


def _image_and_theta(g: torch.Generator) -> list[Tensor]:
    theta = torch.eye(2, 3) + 0.1 * torch.randn(4, 2, 3, generator=g)
    return [torch.randn(4, 3, 9, 11, generator=g), theta]


def _together(*parts: Make) -> Make:
    return lambda g: [t for part in parts for t in part(g)]


def _key(g: torch.Generator) -> list[Tensor]:
    del g
    return [lada_ext.make_key(7)]


def _same(name: str, inputs: Make, *options: Any) -> Case:
    """An op that is called as its definition is."""
    op, definition = getattr(lada_ext, name), getattr(reference, name)
    return Case(inputs, lambda *t: op(*t, *options), lambda *t: definition(*t, *options))


CASES = {
    "entropy": _same("entropy", _normal((300, 10))),
    "variation_ratio": _same("variation_ratio", _normal((300, 10))),
    "margin": _same("margin", _normal((300, 10))),
    "bald": _same("bald", _normal((5, 60, 10))),
    "top_k": Case(
        _normal((300,)),
        lambda scores: lada_ext.top_k(scores.detach(), 20),
        lambda scores: reference.top_k(scores.detach(), 20),
    ),
    "topk_scores": Case(
        _normal((300, 10)),
        lambda z: lada_ext.topk_scores(z.split(70), 20),
        lambda z: reference.top_k(reference.entropy(z.detach()), 20),
    ),
    "pair_score": _same("pair_score", _normal((50, 10), (50, 10), (50, SAMPLES, 10)), 0.5),
    "indexed_pair_score": _same(
        "indexed_pair_score", _together(_normal((30,)), _below(30, 50, 2), _normal((50, SAMPLES, 10)))
    ),
    "mixed_pair_score": Case(
        _together(_normal((30, 10)), _below(30, 50, 2), _positive(50), _key),
        lambda z, pairs, tau, key: lada_ext.mixed_pair_score(z, pairs, tau, SAMPLES, key),
        lambda z, pairs, tau, key: reference.mixed_pair_score(z, pairs, tau, SAMPLES, key, bits=32),
    ),
    "top_pairs": Case(
        _normal((40, 10)),
        lambda z: lada_ext.top_pairs(z.detach(), 20)[:2],
        lambda z: reference.top_pairs(z.detach(), 20, *lada_ext.beta_nodes(1.0, 5)),
    ),
    "beta_logit_grad": Case(
        _together(_normal((200,)), _positive(200)),
        lambda x, tau: lada_ext.beta_logit_grad(x.detach(), tau.detach()),
        lambda x, tau: reference.beta_logit_grad(x.detach(), tau.detach()),
    ),
    "beta_sample": Case(
        _together(_positive(200), _key),
        lambda tau, key: lada_ext.beta_sample(tau, SAMPLES, key),
        lambda tau, key: reference.beta_sample(tau, SAMPLES, key, bits=32),
    ),
    "beta_mix": Case(
        _together(_normal((40, 33), (40, 33)), _positive(40), _key),
        lambda a, b, tau, key: lada_ext.beta_mix(a, b, tau, SAMPLES, key),
        lambda a, b, tau, key: reference.beta_mix(a, b, tau, SAMPLES, key, bits=32),
    ),
    "beta_mix_pairs": Case(
        _together(_normal((30, 33)), _below(30, 40, 2), _positive(40), _key),
        lambda h, pairs, tau, key: lada_ext.beta_mix_pairs(h, pairs, tau, SAMPLES, key),
        lambda h, pairs, tau, key: reference.beta_mix_pairs(h, pairs, tau, SAMPLES, key, bits=32),
    ),
    "relu_mix_logits": Case(
        _together(_normal((40, 33), (40, 33), (10, 33)), _uniform(40, SAMPLES)),
        lambda a, b, weight, lam: lada_ext.relu_mix_logits(a.detach(), b.detach(), lam, weight.detach()),
        lambda a, b, weight, lam: reference.relu_mix_logits(a.detach(), b.detach(), lam, weight.detach()),
    ),
    "conv_relu_pool": _same("conv_relu_pool", _normal((20, 8, 12, 10), (6, 8, 5, 5), (6,)), 2),
    "mix_labels": _same("mix_labels", _together(_below(10, 40), _below(10, 40), _uniform(40, SAMPLES)), 10),
    "soft_cross_entropy": _same(
        "soft_cross_entropy",
        _together(_normal((40, SAMPLES, 10)), _below(10, 40), _below(10, 40), _uniform(40, SAMPLES)),
    ),
    "affine_sample": _same("affine_sample", _image_and_theta),
    "take_images": Case(
        _together(lambda g: [torch.randint(256, (30, 3, 9, 11), generator=g).byte()], _below(30, 20), _key),
        lambda images, index, key: lada_ext.take_images(images, index, key, padding=2, mirror=True),
        lambda images, index, key: reference.take_images(images, index, key, padding=2, mirror=True),
    ),
    "k_center_greedy": _same("k_center_greedy", _normal((200, 16), (5, 16)), 20),
    "badge_select": Case(
        _together(_normal((200, 16), (200, 10)), _key),
        lambda features, logits, key: lada_ext.badge_select(features.detach(), logits.detach(), 20, key),
        lambda features, logits, key: reference.badge_select(features.detach(), logits.detach(), 20, key),
    ),
    "consistency_variance": _same("consistency_variance", _normal((4, 60, 10))),
}
