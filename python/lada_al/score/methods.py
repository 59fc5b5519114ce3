"""Scores that need an item's logits, or those of a pair of neighbours, and no more: a pool can stream past them.

Look-ahead (Eq. 13 under the fixed policy) pairs the items of each step of STEP positions at random, by a hash of their
positions; so pairs do not depend on batches, workers and shards. Mixtures are made of what the last layer sees, where
mixing features is mixing logits: no mixture goes through the network.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

import lada_ext
from lada_al.errors import UsageError
from lada_al.keys import Keys
from lada_al.run.config import Config

STEP = 32
METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": lada_ext.entropy,
    "var-ratio": lada_ext.variation_ratio,
    "margin": lada_ext.margin,
}
LOOK_AHEAD = {"lada-ent-mix-fixed": "entropy", "lada-var-mix-fixed": "variation_ratio"}


def check(method: str) -> None:
    if method not in METHODS and method not in LOOK_AHEAD:
        known = ", ".join([*METHODS, *LOOK_AHEAD])
        raise UsageError(f"--method of a whole pool must be one of {known}, got '{method}'")


def about(method: str) -> dict[str, object]:
    """What decides the scores besides the logits."""
    if method not in LOOK_AHEAD:
        return {"method": method}
    config = Config(method=method)
    numbers = {"tau": config.fixed_tau, "gamma": config.look_ahead_weight, "samples": config.samples}
    return {"method": method, **numbers, "seed": config.seed}


@torch.no_grad()
def table(method: str, first: int, ids: pa.Array, logits: Tensor, errors: list[str | None] | None = None) -> pa.Table:
    """The rows that are kept of items at positions `first`, `first` + 1, ..., where `first` begins a step.

    id, score, entropy in bits, the partner's id and tau (null without look-ahead), and why an item could not be read.
    """
    unread = np.zeros(len(ids), bool) if errors is None else np.array([error is not None for error in errors])
    entropy = lada_ext.entropy(logits)
    partner, tau = pa.nulls(len(ids), ids.type), pa.nulls(len(ids), pa.float32())
    if method in LOOK_AHEAD:
        usable = ~(unread | entropy.isnan().cpu().numpy())
        pairs = matching(first, usable)
        score, index = _pair_scores(method, first, logits, pairs)
        partner = ids.take(pa.array(index, mask=index < 0))
        tau = pa.array(np.full(len(ids), Config(method=method).fixed_tau, np.float32), mask=index < 0)
    else:
        score = entropy if method == "entropy" else METHODS[method](logits)
    columns = {
        "id": ids,
        "score": pa.array(score.float().cpu().numpy(), mask=unread),
        "entropy": pa.array(entropy.float().cpu().numpy(), mask=unread),
        "partner": partner,
        "tau": tau,
        "error": pa.nulls(len(ids), pa.string()) if errors is None else pa.array(errors, pa.string()),
    }
    return pa.table(columns)


def matching(first: int, usable: np.ndarray) -> np.ndarray:
    """(P, 2) pairs of rows of the same step, at random; of an odd number, the last is paired with itself."""
    steps = -(-len(usable) // STEP)
    rows = np.arange(steps * STEP).reshape(steps, STEP)
    padded = np.zeros(steps * STEP, bool)
    padded[: len(usable)] = usable
    out_of_use = ~padded.reshape(steps, STEP)
    draws = _hashed(first + rows) >> np.uint64(1)
    draws[out_of_use] = np.iinfo(np.uint64).max  # behind all others
    order = np.take_along_axis(rows, draws.argsort(axis=1, kind="stable"), axis=1)
    a, b = order[:, ::2], order[:, 1::2]
    left = STEP - out_of_use.sum(1, keepdims=True) - np.arange(0, STEP, 2)  # items not yet in a pair
    b = np.where(left == 1, a, b)
    return np.stack([a[left > 0], b[left > 0]], axis=1)


def _pair_scores(method: str, first: int, logits: Tensor, pairs: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Each row's score, that of its pair, and its partner's row; NaN and -1 for rows in no pair."""
    config = Config(method=method)
    both = torch.from_numpy(pairs).to(logits.device)
    key = Keys(config.seed).key("score samples", 0, device=logits.device)
    of_pair = lada_ext.mixed_pair_score(
        logits, both, config.fixed_tau, config.samples, key, config.look_ahead_weight, LOOK_AHEAD[method],
        index=first + both[:, 0],
    )  # fmt: skip
    score = of_pair.new_full((len(logits),), float("nan"))
    score[both[:, 0]] = of_pair
    score[both[:, 1]] = of_pair
    partner = np.full(len(logits), -1)
    partner[pairs[:, 0]], partner[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    return score, partner


def _hashed(positions: np.ndarray) -> np.ndarray:
    """64 random bits for each position (the finaliser of SplitMix64)."""
    z = (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
