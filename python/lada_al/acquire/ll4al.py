"""LL4AL: the loss that a small module, trained along with the classifier, predicts for an instance (Section 2.3).

Yoo and Kweon 2019. The module reads the classifier's features after each stage, f_LPM(h^j | j in J); it is trained to
rank the cross entropies of the instances of a batch, in pairs, by a margin. Its output has no scale of its own, but
real and virtual instances go through the same module, so they share one, and Eq. 2 and 13 order units alike whatever
it is.

J begins at the deepest layer that Mixup may mix at, so a mixed instance has all features that a real one has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lada_al.acquire import Acquisition
from lada_al.models import Network, SplitModel
from lada_al.ranks import ours
from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.run.config import Config

IN_TRAINING = True
SETTINGS = ("ll4al_weight", "ll4al_cut")
WIDTH = 128
MARGIN = 1.0


class LossPrediction(nn.Module):
    """f_LPM: global average pooling, a layer of 128 and ReLU for each feature, and a linear layer over all of them.

    123,905 parameters for the four blocks of ResNet-18, which is the paper's 124K.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU()) for inputs in channels)
        self.last = nn.Linear(WIDTH * len(channels), 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """(B,) predicted losses of features (B, channels) or (B, channels, H, W)."""
        pooled = [h.flatten(2).mean(2) if h.dim() > 2 else h for h in features]
        hidden = [branch(h) for branch, h in zip(self.branches, pooled, strict=True)]
        return self.last(torch.cat(hidden, 1)).squeeze(1)


class LL4AL(Acquisition):
    trained: LossPrediction

    def __init__(self, layers: range, channels: list[int], weight: float, cut: float) -> None:
        self.layers, self.weight, self.cut = layers, weight, cut
        self.trained = LossPrediction(channels)

    def networks(self) -> list[Network]:
        return [Network("loss prediction module", self.trained)]

    def loss(self, view: View, losses: Tensor, progress: float) -> Tensor | None:
        features = [view.stage(j) for j in self.layers]
        if progress >= self.cut:  # from here on the module no longer moves the classifier
            features = [h.detach() for h in features]
        ranking = ranking_loss(ours().whole(self.trained(features)), ours().whole(losses.detach()))
        return None if ranking is None else self.weight * ranking

    def score(self, view: View) -> Tensor:
        features = [view.stage(j).flatten(0, view.leading - 1) for j in self.layers]
        return self.trained(features).unflatten(0, view.logits.shape[:-1])


def ranking_loss(predicted: Tensor, losses: Tensor) -> Tensor | None:
    """Mean over pairs (i, B-1-i) of max(0, margin - sign(l_i - l_j) (p_i - p_j)); an odd batch leaves one out."""
    pairs = len(losses) // 2
    if pairs == 0:
        return None
    difference = predicted[:pairs] - predicted.flip(0)[:pairs]
    order = (losses[:pairs] - losses.flip(0)[:pairs]).sign()
    return (MARGIN - order * difference).clamp_min(0).mean()


def make(config: Config, task: Task, net: SplitModel) -> LL4AL:
    layers = range(max(config.layers), net.depth)
    shapes = net.shapes(task.shape)
    return LL4AL(layers, [shapes[j][0] for j in layers], config.ll4al_weight, config.ll4al_cut)
