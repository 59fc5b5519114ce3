"""The ops as modules."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lada_ext.beta_mix import Gradient, beta_mix_pairs
from lada_ext.keys import make_key


class BetaMix(nn.Module):
    """Mixup as a layer: mixes each instance of a batch with another one of it, lam ~ Beta(tau, tau).

    Works on images and on hidden features (manifold mixup) alike, and draws one lam a pair, or several. What it draws
    follows ``torch.manual_seed``, or the key it is given.

    Args:
        tau: concentration; small mixes little, 1 is uniform, large is close to one half.
        samples: lam drawn for each pair, which become an axis of the result; None for one lam and no axis.
        learn: makes log tau a parameter, ``log_tau``, with the gradient `grad` (see `beta_sample`).
        grad: "implicit" or "pathwise".
    """

    def __init__(
        self, tau: float = 1.0, samples: int | None = None, learn: bool = False, grad: Gradient = "implicit"
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise ValueError(f"BetaMix: tau must be positive, got {tau}")
        self.samples, self.grad = samples, grad
        log_tau = torch.tensor(math.log(tau))
        if learn:
            self.log_tau = nn.Parameter(log_tau)
        else:
            self.register_buffer("log_tau", log_tau, persistent=False)

    def forward(
        self, h: Tensor, pairs: Tensor | None = None, key: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mixes rows of `h`.

        Args:
            h: (B, ...) images or features.
            pairs: (P, 2) int64, which rows to mix; by default each with a partner from a random permutation, P = B.
            key: int64[2]; by default a new one.

        Returns:
            mixed, (P, ...) or (P, samples, ...); lam, (P,) or (P, samples), the weights of ``h[pairs[:, 0]]``; pairs.
        """
        if pairs is None:
            partner = torch.randperm(len(h), device=h.device)
            pairs = torch.stack([torch.arange(len(h), device=h.device), partner], 1)
        key = make_key(device=h.device) if key is None else key
        mixed, lam = beta_mix_pairs(h, pairs, self.log_tau, self.samples or 1, key, grad=self.grad, log_tau=True)
        return (mixed.squeeze(1), lam.squeeze(1), pairs) if self.samples is None else (mixed, lam, pairs)

    def extra_repr(self) -> str:
        return f"tau={self.log_tau.exp().item():.4g}, samples={self.samples}, grad={self.grad!r}"
