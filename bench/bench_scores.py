"""Scores of rows of logits: predictive entropy, and BALD of stochastic passes against baal.

A GPU gets more of them, so that a call takes long enough to tell the bandwidth from the launch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

import lada_ext
from bench.contenders import compiled, op_case
from bench.harness import Case
from lada_ext import reference

SIZES = {
    "cpu": [(100_000, 10), (50_000, 100), (20_000, 1000)],
    "cuda": [(5_000_000, 10), (500_000, 128), (64_000, 1000), (1_000, 100_000)],
}
PASSES, CLASSES = 20, 10
INSTANCES = {"cpu": 50_000, "cuda": 500_000}


def eager_entropy(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1) / math.log(2)


def eager_bald(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    mean = p.mean(0)
    of_mean, mean_of = -torch.special.xlogy(mean, mean).sum(-1), -(p * log_p).sum(-1).mean(0)
    return (of_mean - mean_of) / math.log(2)


def bald_of_baal(logits: Tensor) -> object:
    """Of the same array, whose axes it takes as instances, classes, passes. Its result is in nats."""
    from baal.active.heuristics import BALD

    return BALD().get_uncertainties(logits.permute(1, 2, 0))


def cases(device: str) -> Iterator[Case]:
    contenders = {"lada_ext": lada_ext.entropy, "eager": eager_entropy, "torch.compile": compiled(eager_entropy)}
    for rows, classes in SIZES[device]:

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
    instances = INSTANCES[device]
    contenders = {"lada_ext": lada_ext.bald, "eager": eager_bald, "torch.compile": compiled(eager_bald)}
    yield op_case(
        "scores",
        f"bald {PASSES} x {instances} x {CLASSES}",
        device,
        lambda g: (2 * torch.randn(PASSES, instances, CLASSES, generator=g),),
        contenders | ({"baal": bald_of_baal} if device == "cpu" else {}),
        reference.bald,
        bytes_moved=4 * instances * (PASSES * CLASSES + 1),
    )
