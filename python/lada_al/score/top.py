"""The exact top k of scores that come in parts. Equal scores go by position, so the order of the parts is no matter."""

from __future__ import annotations

import numpy as np


class Top:
    """The `k` best so far, in order: `scores` and `positions`. NaN, which stands for no score, is never among them."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.scores, self.positions = np.empty(0), np.empty(0, np.int64)

    def add(self, scores: np.ndarray, positions: np.ndarray) -> None:
        least = self.scores[-1] if len(self.scores) == self.k else -np.inf
        near = np.flatnonzero(scores >= least)  # few, once the best are found; False for NaN
        scores = np.concatenate([self.scores, scores[near]])
        positions = np.concatenate([self.positions, positions[near]])
        order = np.lexsort((positions, -scores))[: self.k]
        self.scores, self.positions = scores[order], positions[order]
