"""An extension, ours and not the paper's: batches of units that are good and unlike each other.

The best units by Eq. 13 are often near-duplicates, and labels of near-duplicates are paid twice. Here the best
SHORTLIST times as many units are looked at; the best one is bought, and then, one by one, the unit that is farthest
from all that was picked (k-center greedy), by what the last layer sees of its instances.
"""

from __future__ import annotations

import torch
from torch import Tensor

import lada_ext
from lada_al.acquire import top
from lada_al.view import View

SHORTLIST = 5


def pick(scores: Tensor, views: list[View], n: int, batch: int) -> Tensor:
    """Positions of n units, the best one first, (n,) int64.

    Args:
        scores: (U,) of the units, higher is better.
        views: the units' instances: one view, or two of (U,) pairs.
        batch: instances at a time through the network.
    """
    shortlist = top(scores, min(len(scores), SHORTLIST * n))
    features = unit_features([view[shortlist] for view in views], batch)
    others = lada_ext.k_center_greedy(features[1:], features[:1], n - 1) + 1
    return shortlist[torch.cat([others.new_zeros(1), others])]


def unit_features(views: list[View], batch: int) -> Tensor:
    """(U, D) features of single instances, or (U, 2 D) of pairs: mean and half distance, whichever comes first."""
    ends = [view.computed(batch, view.net.depth - 1).penultimate.flatten(1) for view in views]
    if len(ends) == 1:
        return ends[0]
    a, b = ends
    return torch.cat([(a + b) / 2, (a - b).abs() / 2], dim=1)
