"""Augmentations, one file each; the folder is the list of them.

A file defines `make(config, task, net) -> Augmentation`, `ARITY` (how many real instances one virtual instance is
made of: 2 for Mixup, 1 for a spatial transformer) and `PIPELINE`, its name in ent+PIPELINE; in lada-ent-NAME it goes
by the name of its file. Besides:

- `USES_HIDDEN = True`: it acts on the features at a layer k drawn from the configuration, not on images (k = 0);
- `LEARNABLE = False`: its policy cannot be moved by gradients of the score, so there is only lada-...-fixed;
- `LOOK_AHEAD = False`: it needs labels to make virtual instances, so it works in pipelines alone;
- `WHOLE_BATCHES = True`: its draws depend on which instances are made together, so processes cannot share a batch;
- `MIXES_BY_BETA = True`: it mixes two by lam ~ Beta(tau, tau), so the best of all pairs can be searched for, and its
  policy is learned on curves, for which it has `at`;
- `SETTINGS`: as of acquisition functions.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lada_al.models import Network, SplitModel
from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.pool import Pool
    from lada_al.run.config import Config


class Augmentation:
    """f_aug in one run: makes virtual instances of real ones under a policy tau. Defaults need nothing."""

    arity: int
    uses_hidden = False

    launches_the_same = False
    """Whether virtual instances of as many units are made by the same kernels each time, and nothing on the way is
    decided in Python, so that on a GPU training steps with them can be recorded and replayed."""

    trained: nn.Module | None = None
    """What the classifier's training trains along, and what a checkpoint must hold; or nothing."""

    note: str | None = None
    """What a user should know about how this augmentation fits the data set."""

    def networks(self, *, learn: bool) -> list[Network]:
        """What the augmentation needs besides the classifier, as it will be made, with its policy learned or not."""
        del learn
        return []

    def policy(self, *views: View, learn: bool) -> nn.Module:
        """A module with policy(*views) -> tau. If `learn`, its parameters may be changed without harm."""
        raise NotImplementedError

    def __call__(self, *views: View, tau: Tensor, key: Tensor, samples: int = 1) -> View:
        """Virtual instances, with `samples` draws of each where it draws at all: leading axes (P, samples) or (B,)."""
        raise NotImplementedError

    def at(self, a: View, b: View, lam: Tensor) -> View:
        """Mixtures (P, N) of pairs by given lam (P, N) in [0, 1], the weight of `a`; asked for if it mixes by Beta."""
        raise NotImplementedError

    def pair_scores(
        self, a: View, b: View, tau: Tensor, key: Tensor, samples: int, gamma: float, score: str
    ) -> Tensor | None:
        """Eq. 13 (P,) by one op and without the mixtures, where there is one; else None."""
        del a, b, tau, key, samples, gamma, score
        return None

    def loss(self, virtual: View) -> Tensor | None:
        """A term to add to the training loss, besides the cross entropy of virtual instances."""
        del virtual
        return None

    def adapt(self, net: SplitModel, pool: Pool, epoch: int, epochs: int) -> None:
        """Called before each epoch of training with virtual instances: trains networks of its own."""


class FixedTau(nn.Module):
    """The same tau for every unit."""

    def __init__(self, tau: float) -> None:
        super().__init__()
        self.tau = tau

    def forward(self, *views: View) -> Tensor:
        return torch.full((len(views[0]),), self.tau, device=views[0].device)


@dataclass(frozen=True)
class AugmentationKind:
    """A file of this folder."""

    name: str
    pipeline: str
    arity: int
    summary: str
    uses_hidden: bool
    learnable: bool
    look_ahead: bool
    mixes_by_beta: bool
    whole_batches: bool
    settings: tuple[str, ...]
    make: Callable[[Config, Task, SplitModel], Augmentation]


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> AugmentationKind:
    module = importlib.import_module(f"{__name__}.{name}")
    return AugmentationKind(
        name=name,
        pipeline=module.PIPELINE,
        arity=module.ARITY,
        summary=(module.__doc__ or "").strip().splitlines()[0],
        uses_hidden=getattr(module, "USES_HIDDEN", False),
        learnable=getattr(module, "LEARNABLE", True),
        look_ahead=getattr(module, "LOOK_AHEAD", True),
        mixes_by_beta=getattr(module, "MIXES_BY_BETA", False),
        whole_batches=getattr(module, "WHOLE_BATCHES", False),
        settings=getattr(module, "SETTINGS", ()),
        make=module.make,
    )
