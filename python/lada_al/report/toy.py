"""Figure 1: two-dimensional points, a small classifier, and two ways to buy pairs and mix them.

The pipeline buys the points of highest entropy and mixes them in random pairs with tau = 2. LADA scores pairs by Eq. 13
under a tau that is learned for each pair (Eq. 7), and mixes the best pairs with it. The same classifier judges both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import lada_ext

ANGLES = torch.arange(8) * math.pi / 4
CENTRES = 3 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)  # classes on a ring, with nothing in its middle
PAIRS, DRAWS, LARGEST_TAU = 5, 20, 20.0


@dataclass(frozen=True)
class Way:
    """What one way bought (P, 2, 2) and mixed (P, N, 2), with predictive entropies in bits."""

    name: str
    bought: np.ndarray
    virtual: np.ndarray
    bought_entropy: np.ndarray
    virtual_entropy: np.ndarray


@dataclass(frozen=True)
class Toy:
    pool: np.ndarray
    labelled: np.ndarray
    labels: np.ndarray
    grid: np.ndarray
    entropy: np.ndarray
    """(side, side): the classifier's entropy over the plane."""
    ways: list[Way]


def make(seed: int = 1) -> Toy:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(600) % len(CENTRES)
    points = CENTRES[labels] + 0.5 * torch.randn(600, 2, generator=generator)
    few = torch.arange(3 * len(CENTRES))
    net = _classifier(points[few], labels[few], seed)
    pool = points[len(few) :]
    side = torch.linspace(-4.5, 4.5, 81)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        entropy = lada_ext.entropy(net(grid)).view(81, 81).t()
    return Toy(
        pool=pool.numpy(),
        labelled=points[few].numpy(),
        labels=labels[few].numpy(),
        grid=side.numpy(),
        entropy=entropy.numpy(),
        ways=[_pipeline(net, pool, generator), _look_ahead(net, pool, generator)],
    )


def _classifier(points: Tensor, labels: Tensor, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, len(CENTRES)))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=1e-3)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(net(points), labels).backward()
        optimizer.step()
    return net.requires_grad_(False)


def _pipeline(net: nn.Module, pool: Tensor, generator: torch.Generator) -> Way:
    best = lada_ext.entropy(net(pool)).topk(2 * PAIRS).indices[torch.randperm(2 * PAIRS, generator=generator)]
    a, b = pool[best].chunk(2)
    return _way("Max Entropy, then Mixup", net, a, b, torch.full((PAIRS,), 2.0))


def _look_ahead(net: nn.Module, pool: Tensor, generator: torch.Generator) -> Way:
    order = torch.randperm(len(pool) // 2 * 2, generator=generator)
    a, b = pool[order].chunk(2)
    raw = torch.zeros(len(a), requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.1)
    for step in range(60):
        mixed, _ = lada_ext.beta_mix(a, b, LARGEST_TAU * raw.sigmoid(), 5, lada_ext.make_key(step))
        loss = -lada_ext.entropy(net(mixed)).mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tau = (LARGEST_TAU * raw.sigmoid()).detach()
    mixed, _ = lada_ext.beta_mix(a, b, tau, DRAWS, lada_ext.make_key(100))
    best = lada_ext.pair_score(net(a), net(b), net(mixed)).topk(PAIRS).indices
    return _way("LADA with Max Entropy and Mixup", net, a[best], b[best], tau[best])


def _way(name: str, net: nn.Module, a: Tensor, b: Tensor, tau: Tensor) -> Way:
    virtual, _ = lada_ext.beta_mix(a, b, tau, DRAWS, lada_ext.make_key(200))
    bought = torch.stack([a, b], 1)
    entropies = [lada_ext.entropy(net(points)).numpy() for points in (bought, virtual)]
    return Way(name, bought.numpy(), virtual.numpy(), *entropies)
