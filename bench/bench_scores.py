"""Predictive entropy of rows of logits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

import lada_ext
from bench.contenders import compiled, op_case
from bench.harness import Case
from lada_ext import reference

SIZES = [(100_000, 10), (50_000, 100), (20_000, 1000)]


def eager_entropy(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1) / math.log(2)


def cases(device: str) -> Iterator[Case]:
    contenders = {"lada_ext": lada_ext.entropy, "eager": eager_entropy, "torch.compile": compiled(eager_entropy)}
    for rows, classes in SIZES:

        def logits(g: torch.Generator, rows: int = rows, classes: int = classes) -> tuple[Tensor]:
            return (torch.randn(rows, classes, generator=g),)

        def logits_and_grad(g: torch.Generator, rows: int = rows, classes: int = classes) -> tuple[Tensor, Tensor]:
            return torch.randn(rows, classes, generator=g).requires_grad_(), torch.randn(rows, generator=g)

        name, row_bytes = f"entropy {rows} x {classes}", 4 * classes
        yield op_case("scores", name, device, logits, contenders, reference.entropy, bytes_moved=rows * (row_bytes + 4))
        yield op_case(
            "scores",
            f"{name}, forward + backward",
            device,
            logits_and_grad,
            contenders,
            reference.entropy,
            bytes_moved=rows * (3 * row_bytes + 8),  # logits twice and their gradient, scores and theirs
            wrt=[0],
        )
