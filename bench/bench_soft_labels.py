"""Labels of mixtures, and their cross entropy, against soft targets made of one-hot ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext
from bench.contenders import Arguments, compiled, op_case
from bench.harness import Case
from lada_ext import reference

PAIRS, SAMPLES, CLASSES = 10_000, 5, 100


def ours(logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor) -> Tensor:
    return lada_ext.soft_cross_entropy(logits, y_a, y_b, lam, "none")


def eager_labels(y_a: Tensor, y_b: Tensor, lam: Tensor) -> Tensor:
    one_hot_a, one_hot_b = (F.one_hot(y, CLASSES)[:, None] for y in (y_a, y_b))
    return lam[..., None] * one_hot_a + (1 - lam[..., None]) * one_hot_b


def eager(logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor) -> Tensor:
    return -(eager_labels(y_a, y_b, lam) * logits.log_softmax(-1)).sum(-1)


def definition(logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor) -> Tensor:
    return reference.soft_cross_entropy(logits, y_a, y_b, lam, "none")


def labels(g: torch.Generator) -> Arguments:
    y_a, y_b = torch.randint(0, CLASSES, (2, PAIRS), generator=g)
    return y_a, y_b, torch.rand(PAIRS, SAMPLES, generator=g)


def logits_and_labels(g: torch.Generator) -> Arguments:
    return torch.randn(PAIRS, SAMPLES, CLASSES, generator=g), *labels(g)


def with_gradient(g: torch.Generator) -> Arguments:
    logits, *rest = logits_and_labels(g)
    return logits.requires_grad_(), *rest, torch.randn(PAIRS, SAMPLES, generator=g)


def cases(device: str) -> Iterator[Case]:
    rows, name = PAIRS * SAMPLES, f"soft_cross_entropy {PAIRS} x {SAMPLES} x {CLASSES}"
    contenders = {"lada_ext": ours, "eager": eager, "torch.compile": compiled(eager)}
    yield op_case(
        "soft_labels",
        f"mix_labels {PAIRS} x {SAMPLES} x {CLASSES}",
        device,
        labels,
        {
            "lada_ext": lambda y_a, y_b, lam: lada_ext.mix_labels(y_a, y_b, lam, CLASSES),
            "eager": eager_labels,
            "torch.compile": compiled(eager_labels),
        },
        lambda y_a, y_b, lam: reference.mix_labels(y_a, y_b, lam, CLASSES),
        bytes_moved=4 * rows * (CLASSES + 1),
    )
    yield op_case(
        "soft_labels", name, device, logits_and_labels, contenders, definition, bytes_moved=4 * rows * (CLASSES + 2)
    )
    yield op_case(
        "soft_labels",
        f"{name}, forward + backward",
        device,
        with_gradient,
        contenders,
        definition,
        bytes_moved=4 * rows * (3 * CLASSES + 4),  # logits twice and their gradient
        wrt=[0],
    )
