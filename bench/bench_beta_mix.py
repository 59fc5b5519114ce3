"""Mixing with lam ~ Beta(tau, tau). Eager torch draws with torch.distributions; torch.compile is given lam, since it
does not trace that sampler."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import lada_ext
from bench.contenders import compiled, op_case
from bench.harness import Case
from lada_ext import reference

PAIRS, SAMPLES, FEATURES = 500, 5, 16384
KEY = 0


def ours(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    return lada_ext.beta_mix(a, b, tau, lam.shape[1], lada_ext.make_key(KEY, a.device))[0]


def eager(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    drawn = torch.distributions.Beta(tau, tau, validate_args=False).rsample((lam.shape[1],)).t()
    return mix(a, b, tau, drawn)


def mix(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    del tau
    weight = lam[..., None]
    return weight * a[:, None] + (1 - weight) * b[:, None]


def definition(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    return reference.beta_mix(a, b, tau, lam.shape[1], lada_ext.make_key(KEY, a.device), bits=32)[0]


def features(g: torch.Generator) -> tuple[Tensor, ...]:
    a, b = torch.randn(2, PAIRS, FEATURES, generator=g)
    tau = torch.rand(PAIRS, generator=g) + 0.2
    return a, b, tau, lada_ext.beta_sample(tau, SAMPLES, lada_ext.make_key(KEY))


def features_and_grad(g: torch.Generator) -> tuple[Tensor, ...]:
    tensors = (t.detach().requires_grad_() for t in features(g))
    return *tensors, torch.randn(PAIRS, SAMPLES, FEATURES, generator=g)


def cases(device: str) -> Iterator[Case]:
    name, feature_bytes = f"P={PAIRS} N={SAMPLES} D={FEATURES}", 4 * PAIRS * FEATURES
    contenders = {"lada_ext": ours, "eager": eager, "torch.compile, lam given": compiled(mix)}
    yield op_case(
        "beta_mix", name, device, features, contenders, definition, (2 + SAMPLES) * feature_bytes, checked=["lada_ext"]
    )
    yield op_case(
        "beta_mix",
        f"{name}, forward + backward",
        device,
        features_and_grad,
        contenders,
        definition,
        bytes_moved=(6 + 2 * SAMPLES) * feature_bytes,  # a, b twice and their gradients, mixtures and theirs
        wrt=[0, 1, 2, 3],  # lam where it is given, else tau
        checked=["lada_ext"],
        tolerance=1e-2,
    )
