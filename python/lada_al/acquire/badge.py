"""BADGE: k-means++ seeding over the last layer's gradients, for the labels that the classifier itself expects.

Ash et al. 2020. The embedding of an instance is g = (p - onehot(argmax p)) (x) h, with h what the last layer sees: long
where the classifier is unsure, and pointing where it would change. The first pick is the longest; each next one is
drawn with a probability in proportion to its squared distance to the nearest pick.
"""

from __future__ import annotations

from torch import Tensor

import lada_ext
from lada_al.acquire import Occasion
from lada_al.view import View


def pick(view: View, n: int, occasion: Occasion) -> Tensor:
    view.computed(occasion.config.scoring_batch, view.net.depth - 1, view.net.depth)
    key = occasion.keys.key("pick", occasion.round, device=view.device)
    return lada_ext.badge_select(view.penultimate, view.logits, n, key)
