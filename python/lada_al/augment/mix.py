"""Mixup of features at layer k (manifold mixup), and InfoMixup, whose policy network chooses tau for each pair.

Section 3.3: h_mix = lam h^k(x_i) + (1 - lam) h^k(x'_i) with lam ~ Beta(tau, tau) (Eq. 10), tau = pi_phi of both
features (Eq. 9). Labels are mixed by the same lam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import lada_ext
from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.run.config import Config

ARITY = 2
PIPELINE = "manifold-mixup"
SMALLEST_TAU = 1e-6  # the sigmoid's output can underflow to 0, which is no concentration


class Mix:
    arity = ARITY
    uses_hidden = True
    trained = None

    def __init__(self, fixed_tau: float) -> None:
        self.fixed_tau = fixed_tau

    def policy(self, *views: View, learn: bool) -> nn.Module:
        if not learn:
            return FixedTau(self.fixed_tau)
        channels, height, width = views[0].hidden.shape[1:]
        return PolicyNet(channels, (height, width)).to(views[0].hidden.device)

    def __call__(self, *views: View, tau: Tensor, key: Tensor, samples: int = 1) -> View:
        a, b = views
        mixed, lam = lada_ext.beta_mix(a.hidden, b.hidden, tau, samples, key, index=_index(a))
        return View(a.net, a.k, hidden=mixed, leading=2, target=_mixed_target(a, b, lam))


def make(config: Config, shape: tuple[int, int, int]) -> Mix:
    del shape
    return Mix(config.fixed_tau)


class FixedTau(nn.Module):
    """The same tau for every pair."""

    def __init__(self, tau: float) -> None:
        super().__init__()
        self.tau = tau

    def forward(self, a: View, b: View) -> Tensor:
        del b
        return torch.full((len(a),), self.tau, device=a.hidden.device)


class PolicyNet(nn.Module):
    """pi_phi, Eq. 9: tau in (0, 1) for each pair, from the features of both.

    Layers and sizes are those of the authors' code: 77,246 parameters for 64-channel maps of 28 x 28. `region` is its
    head of three outputs that LADA does not read; it is kept because the paper counts it.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        # Maps under 12 pixels would vanish; their second convolution keeps its borders.
        padding = 0 if min(size) >= 12 else 2
        self.convolutions = nn.Sequential(
            nn.Conv2d(2 * channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        height, width = ((s // 2 - 4 + 2 * padding) // 2 for s in size)
        self.trunk = nn.Sequential(nn.Linear(16 * height * width, 120), nn.Tanh(), nn.Linear(120, 60), nn.Tanh())
        self.concentration = nn.Linear(60, 1)
        self.region = nn.Linear(60, 3)

    def forward(self, a: View, b: View) -> Tensor:
        h = self.trunk(self.convolutions(torch.cat([a.hidden, b.hidden], 1)))
        return self.concentration(h).squeeze(1).sigmoid().clamp_min(SMALLEST_TAU)


def _index(a: View) -> Tensor | None:
    """A pair is named in the random stream by its first instance, so that batches and orders do not matter."""
    return None if a.ids is None else a.ids.to(a.hidden.device)


def _mixed_target(a: View, b: View, lam: Tensor) -> Tensor | None:
    if a.target is None or b.target is None:
        return None
    weight = lam.detach()[..., None]
    return weight * a.target[:, None] + (1 - weight) * b.target[:, None]
