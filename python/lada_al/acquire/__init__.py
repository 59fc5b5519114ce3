"""Acquisition functions, one file each; the folder is the list of them.

The simplest file defines one function:

- `score(view) -> (...)`: for each instance of a view a number, higher meaning label first, differentiable, with the
  view's leading axes; or
- `pick(view, n, occasion) -> (n,) positions`, where a set is chosen and the highest scores are not the answer.

A file that needs more (networks of its own, a part in the classifier's training) defines `make(config, task, net)`,
which returns an `Acquisition` for one run, and `SCORES = False` if that picks. Besides:

- `SHORT`: its name inside a composed method's name (lada-SHORT-mix), default the file's name;
- `FUSED`: the `score` argument of lada_ext.pair_score that computes the same, for the fused path of the look-ahead;
- `NEEDS_IMAGE = True`: it scores images, so it cannot look ahead to instances mixed at a hidden layer;
- `NEEDS_VECTOR = True`: it reads what the last layer sees, which has to be a vector;
- `DROPOUT = True`: it samples the dropout that the classifier was trained with;
- `IN_TRAINING = True`: it adds to the loss of labelled batches (`Acquisition.loss`);
- `SETTINGS`: names of settings that it reads and the rest of the package does not, so that the report does not hold
  them against runs of other methods.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from torch import Tensor, nn

import lada_ext
from lada_al.models import Network, SplitModel
from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.keys import Keys
    from lada_al.pool import Pool
    from lada_al.run.config import Config


@dataclass(frozen=True)
class Occasion:
    """What an acquisition may know besides the candidates: the classifier, the pool and the randomness of a round."""

    net: SplitModel
    pool: Pool
    config: Config
    keys: Keys
    round: int
    k: int

    def labelled(self) -> View:
        """All that was bought so far."""
        ids = self.pool.labelled.to(self.pool.device)
        return View(self.net, self.k, image=self.pool.pixels(ids), ids=ids, target=self.pool.targets(ids))


class Acquisition:
    """f_acq in one run. These defaults need nothing and do nothing."""

    trained: nn.Module | None = None
    """What the classifier's optimiser trains along, and what a checkpoint must hold; or nothing."""

    def networks(self) -> list[Network]:
        """What the acquisition needs besides the classifier, as it will be made."""
        return []

    def loss(self, view: View, losses: Tensor, progress: float) -> Tensor | None:
        """A term to add to the training loss of a labelled batch, given each instance's cross entropy (B,).

        `progress` is the part of the round's epochs that is done, in [0, 1).
        """
        del view, losses, progress
        return None

    def prepare(self, occasion: Occasion) -> None:
        """Called once a round, with the classifier frozen, before anything is scored: trains networks of its own."""

    def score(self, view: View) -> Tensor:
        raise NotImplementedError

    def pick(self, view: View, n: int, occasion: Occasion) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class AcquisitionKind:
    """A file of this folder."""

    name: str
    short: str
    summary: str
    scores: bool
    """Whether it has score(), so that it composes with look-ahead; else it picks a set."""
    fused: str | None
    needs_image: bool
    needs_vector: bool
    dropout: bool
    in_training: bool
    settings: tuple[str, ...]
    make: Callable[[Config, Task, SplitModel], Acquisition]


def names() -> list[str]:
    """The names of all acquisition functions, as users write them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> AcquisitionKind:
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return AcquisitionKind(
        name=name,
        short=getattr(module, "SHORT", name),
        summary=(module.__doc__ or "").strip().splitlines()[0],
        scores=getattr(module, "SCORES", not hasattr(module, "pick")),
        fused=getattr(module, "FUSED", None),
        needs_image=getattr(module, "NEEDS_IMAGE", False),
        needs_vector=getattr(module, "NEEDS_VECTOR", False),
        dropout=getattr(module, "DROPOUT", False),
        in_training=getattr(module, "IN_TRAINING", False),
        settings=getattr(module, "SETTINGS", ()),
        make=getattr(module, "make", _lift(module)),
    )


def _lift(module: ModuleType) -> Callable[[Config, Task, SplitModel], Acquisition]:
    """A file of plain functions, as an Acquisition."""

    def make(config: Config, task: Task, net: SplitModel) -> Acquisition:
        del config, task, net
        acquisition = Acquisition()
        for verb in ("score", "pick"):
            if hasattr(module, verb):
                setattr(acquisition, verb, getattr(module, verb))
        return acquisition

    return make


def top(scores: Tensor, n: int) -> Tensor:
    """Positions of the n highest of (B,) scores, best first; NaN is never among them unless nothing else is left."""
    return lada_ext.top_k(scores, min(n, len(scores)))[1]
