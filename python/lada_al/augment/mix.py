"""Mixup of features at layer k (manifold mixup), and InfoMixup, whose policy network chooses tau for each pair.

Section 3.3: h_mix = lam h^k(x_i) + (1 - lam) h^k(x'_i) with lam ~ Beta(tau, tau) (Eq. 10), tau = pi_phi of both
features (Eq. 9). Labels are mixed by the same lam.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import lada_ext
from lada_al import affine_tail
from lada_al.augment import Augmentation, FixedTau
from lada_al.models import Network, SplitModel
from lada_al.pair_net import PairNet
from lada_al.view import View, pairs_within

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.run.config import Config

ARITY = 2
PIPELINE = "manifold-mixup"
USES_HIDDEN = True
MIXES_BY_BETA = True
SMALLEST_TAU = 1e-6  # the sigmoid's output can underflow to 0, which is no concentration


class Mix(Augmentation):
    arity = ARITY
    uses_hidden = USES_HIDDEN
    launches_the_same = True

    def __init__(self, fixed_tau: float, largest_tau: float, shapes: dict[int, tuple[int, ...]]) -> None:
        self.fixed_tau, self.largest_tau, self.shapes = fixed_tau, largest_tau, shapes

    def networks(self, *, learn: bool) -> list[Network]:
        return [Network("policy network", self._pair_net(next(iter(self.shapes))))] if learn else []

    def policy(self, *views: View, learn: bool) -> nn.Module:
        if not learn:
            return FixedTau(self.fixed_tau)
        net = self._pair_net(views[0].k).to(memory_format=torch.channels_last)
        return Concentration(net, self.largest_tau).to(views[0].device)

    def _pair_net(self, k: int) -> PairNet:
        channels, height, width = self.shapes[k]
        return PairNet(channels, (height, width))

    def __call__(self, *views: View, tau: Tensor, key: Tensor, samples: int = 1) -> View:
        a, b = views  # a pair is named in the random stream by `a`, so that batches and orders do not matter

        def mix(step: int) -> Tensor:
            return lada_ext.beta_mix_pairs(*pairs_within(a, b, step), tau, samples, key, index=a.ids)[0]

        def logits() -> Tensor | None:
            return _logits(a, b, lambda: lada_ext.beta_sample(tau, samples, key, index=a.ids))

        labelled = a.target is not None and b.target is not None
        lam = lada_ext.beta_sample(tau.detach(), samples, key, index=a.ids) if labelled else None
        target = _mixed_target(a, b, lam)
        return View(a.net, a.k, mix=mix, logits=logits, leading=2, target=target, parents=(a, b))

    def at(self, a: View, b: View, lam: Tensor) -> View:
        def mix(step: int) -> Tensor:
            first, second = a.at(step)[:, None], b.at(step)[:, None]
            return torch.lerp(second, first, lam.view(*lam.shape, *[1] * (first.dim() - 2)))

        return View(a.net, a.k, mix=mix, logits=lambda: _logits(a, b, lambda: lam), leading=2, parents=(a, b))

    def pair_scores(
        self, a: View, b: View, tau: Tensor, key: Tensor, samples: int, gamma: float, score: str
    ) -> Tensor | None:
        """The same draws as of the view, where mixing features is mixing logits."""
        if not a.net.mixes_logits(a.k):
            return None
        pairs = torch.arange(2 * len(a), device=tau.device).view(2, -1).t()
        logits = torch.cat([a.logits, b.logits])
        return lada_ext.mixed_pair_score(logits, pairs, tau, samples, key, gamma, score, index=a.ids)


def make(config: Config, task: Task, net: SplitModel) -> Mix:
    shapes = net.shapes(task.shape)
    return Mix(config.fixed_tau, config.largest_tau, {k: shapes[k] for k in config.layers})


class Concentration(nn.Module):
    """pi_phi, Eq. 9: tau in (0, largest_tau) for each pair, from the features of both."""

    def __init__(self, net: PairNet, largest_tau: float) -> None:
        super().__init__()
        self.net, self.largest_tau = net, largest_tau

    def forward(self, a: View, b: View) -> Tensor:
        concentration, _ = self.net(*pairs_within(a, b, a.net.cut(a.k)))
        return self.largest_tau * concentration.sigmoid().clamp_min(SMALLEST_TAU)


def _logits(a: View, b: View, draw: Callable[[], Tensor]) -> Tensor | None:
    """Logits of the mixtures by the lam that `draw` gives, where these need not be made; else None."""
    reach = a.net.mixing_reach(a.k)
    tail = affine_tail.behind_relu(a.net, reach, a.at(reach).shape[1:])
    return None if tail is None else tail.of_mixtures(a.at(reach), b.at(reach), draw())


def _mixed_target(a: View, b: View, lam: Tensor | None) -> Tensor | None:
    if a.target is None or b.target is None or lam is None:
        return None
    weight = lam[..., None]
    return weight * a.target[:, None] + (1 - weight) * b.target[:, None]
