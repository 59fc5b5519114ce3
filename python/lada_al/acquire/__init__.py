"""Acquisition functions, one file each; the folder is the list of them.

A file defines `score(view) -> (...)`: for each instance of a view a number, higher meaning label first, differentiable,
with the view's leading axes. It may define instead, or besides:

- `pick(view, n, generator) -> (n,) positions`: chooses instances where the highest scores are not the answer;
- `SHORT`: its name inside a composed method's name (lada-SHORT-mix), default the file's name;
- `FUSED`: the `score` argument of lada_ext.pair_score that computes the same, for the fused path of the look-ahead.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lada_al.view import View


@dataclass(frozen=True)
class Acquisition:
    """f_acq."""

    name: str
    short: str
    summary: str
    score: Callable[[View], Tensor] | None
    pick: Callable[[View, int, torch.Generator], Tensor]
    fused: str | None


def names() -> list[str]:
    """The names of all acquisition functions, as users write them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Acquisition:
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    score: Callable[[View], Tensor] | None = getattr(module, "score", None)
    return Acquisition(
        name=name,
        short=getattr(module, "SHORT", name),
        summary=(module.__doc__ or "").strip().splitlines()[0],
        score=score,
        pick=module.pick if hasattr(module, "pick") else lambda view, n, generator: top(module.score(view), n),
        fused=getattr(module, "FUSED", None),
    )


def top(scores: Tensor, n: int) -> Tensor:
    """Positions of the n highest of (B,) scores, best first; NaN is never among them unless nothing else is left."""
    return scores.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)[:n]
