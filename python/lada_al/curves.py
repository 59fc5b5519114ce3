"""f_integ of a pair as a curve of lam, evaluated at some nodes once and read in between while a policy learns.

The classifier is frozen and the pairs stay the same while a policy is learned, so f_acq of a pair's mixture is a
function of one number. The policy asks for it at `samples` lam in each of its epochs, 50 forward and 50 backward
passes a pair with the authors' numbers; 17 nodes are 15 forward passes, since both ends are known. In between, a cubic
with the nodes' central differences as slopes is read, and its derivative is the gradient of lam.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST_NODES = 3  # slopes at the ends need three values


@dataclass(frozen=True)
class Curves:
    """Of P pairs, at lam = 0, 1 / (K - 1), ..., 1: scores (P, K), and slopes (P, K) for a step from node to node."""

    scores: Tensor
    slopes: Tensor

    @classmethod
    def through(cls, scores: Tensor) -> Curves:
        return cls(scores, torch.gradient(scores, dim=1, edge_order=2)[0])

    def __getitem__(self, pairs: Tensor | slice) -> Curves:
        return Curves(self.scores[pairs], self.slopes[pairs])

    def at(self, lam: Tensor) -> Tensor:
        """Scores (P, N) at lam (P, N) in [0, 1], differentiable in lam."""
        steps = self.scores.shape[1] - 1
        position = steps * lam
        node = position.detach().long().clamp_(max=steps - 1)
        t = position - node
        start, end = self.scores.gather(1, node), self.scores.gather(1, node + 1)
        slope, end_slope = self.slopes.gather(1, node), self.slopes.gather(1, node + 1)
        chord = end - start
        return start + t * (slope + t * (3 * chord - 2 * slope - end_slope + t * (slope + end_slope - 2 * chord)))
