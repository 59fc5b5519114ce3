"""Eq. 13 from the logits of the ends and the mixtures of pairs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import lada_ext
from bench.bench_scores import eager_entropy
from bench.contenders import compiled, op_case
from bench.harness import Case
from lada_ext import reference

PAIRS, SAMPLES, CLASSES = 20_000, 5, 10


def eager_pair_score(logits_a: Tensor, logits_b: Tensor, mixed: Tensor) -> Tensor:
    return eager_entropy(logits_a) + eager_entropy(logits_b) + eager_entropy(mixed).mean(-1)


def logits(g: torch.Generator) -> tuple[Tensor, ...]:
    rows = torch.randn(PAIRS, 2 + SAMPLES, CLASSES, generator=g)
    return tuple(t.contiguous() for t in (rows[:, 0], rows[:, 1], rows[:, 2:]))


def logits_and_grad(g: torch.Generator) -> tuple[Tensor, ...]:
    return *(t.requires_grad_() for t in logits(g)), torch.randn(PAIRS, generator=g)


def cases(device: str) -> Iterator[Case]:
    contenders = {
        "lada_ext": lada_ext.pair_score,
        "eager": eager_pair_score,
        "torch.compile": compiled(eager_pair_score),
    }
    name, pair_bytes = f"pair_score P={PAIRS} N={SAMPLES} C={CLASSES}", 4 * (2 + SAMPLES) * CLASSES
    yield op_case(
        "pair_score", name, device, logits, contenders, reference.pair_score, bytes_moved=PAIRS * (pair_bytes + 4)
    )
    yield op_case(
        "pair_score",
        f"{name}, forward + backward",
        device,
        logits_and_grad,
        contenders,
        reference.pair_score,
        bytes_moved=PAIRS * (3 * pair_bytes + 8),
        wrt=[0, 1, 2],
    )
