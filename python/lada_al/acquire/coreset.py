"""Coreset: k-center greedy on what the last layer sees, each pick the farthest from all that is labelled or picked.

Sener and Savarese 2018, its greedy 2-approximation in Euclidean distance. The first centres are all labelled instances.
"""

from __future__ import annotations

from torch import Tensor

import lada_ext
from lada_al.acquire import Occasion
from lada_al.view import View

NEEDS_VECTOR = True


def pick(view: View, n: int, occasion: Occasion) -> Tensor:
    batch, penultimate = occasion.config.scoring_batch, view.net.depth - 1
    view.computed(batch, penultimate, view.net.depth)
    centers = occasion.labelled().computed(batch, penultimate).penultimate
    return lada_ext.k_center_greedy(view.penultimate, centers, n)
