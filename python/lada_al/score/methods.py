"""Scores that look at one item's logits and no more, so that a pool can stream past them."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import torch
from torch import Tensor

import lada_ext
from lada_al.errors import UsageError

METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": lada_ext.entropy,
    "var-ratio": lada_ext.variation_ratio,
}


def check(method: str) -> None:
    if method not in METHODS:
        raise UsageError(f"--method of a whole pool must be one of {', '.join(METHODS)}, got '{method}'")


@torch.no_grad()
def columns(method: str, logits: Tensor) -> dict[str, pa.Array]:
    """Score, and entropy in bits, of each row of logits, both float32."""
    entropy = lada_ext.entropy(logits)
    score = entropy if method == "entropy" else METHODS[method](logits)
    return {"score": pa.array(score.float().cpu().numpy()), "entropy": pa.array(entropy.float().cpu().numpy())}
