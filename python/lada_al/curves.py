"""What a pair's mixtures give as curves of lam, evaluated at some nodes once and read in between.

The classifier is frozen and the pairs stay the same while a policy is learned, so the logits of a pair's mixture are
functions of one number. The policy asks for them at `samples` lam in each of its epochs, 50 forward and 50 backward
passes a pair with the authors' numbers; 8 nodes are 6 forward passes, since both ends are known. In between, the
natural cubic spline through the nodes is read, and its derivative leads to the gradient of lam.

Logits, because a network of ReLUs gives nearly straight lines of them, where the score bends as the softmax does: from
as many nodes a score by the logits' spline is several times as exact as a spline of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

FEWEST_NODES = 3  # of a curve that bends


@dataclass(frozen=True)
class Curves:
    """V curves of each of P pairs, by a cubic from node to node.

    Coefficients (P, K - 1, 4, V) are those of 1, t, t^2 and t^3, where t goes from 0 to 1 between two of the K nodes.
    """

    coefficients: Tensor
    of_logits: bool
    """Whether the curves are those of the logits; else there is one, of f_acq itself."""

    @classmethod
    def through(cls, values: Tensor, *, of_logits: bool) -> Curves:
        """The curves through values (P, K, V) at lam = 0, 1 / (K - 1), ..., 1."""
        slopes = torch.einsum("ij,pjv->piv", slopes_of(values.shape[1]).to(values), values)
        start, end, slope, end_slope = values[:, :-1], values[:, 1:], slopes[:, :-1], slopes[:, 1:]
        chord = end - start
        coefficients = [start, slope, 3 * chord - 2 * slope - end_slope, slope + end_slope - 2 * chord]
        return cls(torch.stack(coefficients, 2), of_logits)

    def __getitem__(self, pairs: Tensor | slice) -> Curves:
        return Curves(self.coefficients[pairs], self.of_logits)

    def at(self, lam: Tensor) -> Tensor:
        """Values (P, N, V) at lam (P, N) in [0, 1], differentiable in lam."""
        pairs, steps = self.coefficients.shape[:2]
        position = steps * lam
        node = position.detach().long().clamp_(0, steps - 1)  # of NaN too
        t = (position - node)[..., None]
        rows = node + steps * torch.arange(pairs, device=lam.device)[:, None]
        cubics = self.coefficients.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
        start, first, second, third = cubics.unbind(2)
        return start + t * (first + t * (second + t * third))


@cache
def slopes_of(nodes: int) -> Tensor:
    """The matrix (K, K) that takes values at K nodes to the slopes of their spline there, in steps of a node."""
    at, one = range(nodes), torch.eye(nodes, dtype=torch.float64).numpy()
    return torch.from_numpy(CubicSpline(at, one, bc_type="natural")(at, 1))
