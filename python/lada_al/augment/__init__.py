"""Augmentations, one file each; the folder is the list of them.

A file defines `make(config, shape) -> Augmentation` for images of shape (channels, height, width), `ARITY` (see
Augmentation.arity), and `PIPELINE`, its name in ent+PIPELINE; in lada-ent-NAME it goes by the name of its file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.run.config import Config


class Augmentation(Protocol):
    """f_aug: makes virtual instances of real ones under a policy tau."""

    arity: int
    """How many real instances one virtual instance is made of: 2 for Mixup, 1 for a spatial transformer."""

    uses_hidden: bool
    """Whether it acts on the features at a layer k drawn from the configuration, or on images (k = 0)."""

    trained: nn.Module | None
    """What the classifier's training trains along by cross entropy, and what a checkpoint must hold; or nothing."""

    def policy(self, *views: View, learn: bool) -> nn.Module:
        """A module with policy(*views) -> tau. If `learn`, its parameters may be changed without harm."""
        ...

    def __call__(self, *views: View, tau: Tensor, key: Tensor, samples: int = 1) -> View:
        """Virtual instances, with `samples` draws of each where it draws at all: leading axes (P, samples) or (B,)."""
        ...


@dataclass(frozen=True)
class AugmentationKind:
    """A file of this folder."""

    name: str
    pipeline: str
    arity: int
    summary: str
    make: Callable[[Config, tuple[int, int, int]], Augmentation]


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> AugmentationKind:
    module = importlib.import_module(f"{__name__}.{name}")
    summary = (module.__doc__ or "").strip().splitlines()[0]
    return AugmentationKind(name, module.PIPELINE, module.ARITY, summary, module.make)
