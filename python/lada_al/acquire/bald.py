"""BALD: mutual information in bits between the prediction and the weights, by Monte Carlo dropout (Section 2.3).

Houlsby et al. 2011, Gal et al. 2017: H(mean p) - mean H(p) over T samples of the weights. The network is in evaluation
mode, so BatchNorm neither uses nor learns statistics of the pool; the one dropout layer, before the last layer, is
sampled here: T masks, the same for every instance of a round, so that scores do not depend on batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

import lada_ext
from lada_al.acquire import Acquisition, Occasion
from lada_al.models import SplitModel
from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.run.config import Config

DROPOUT = True
NEEDS_VECTOR = True
SETTINGS = ("bald_samples",)


class Bald(Acquisition):
    def __init__(self, samples: int, dropout: float, features: int) -> None:
        self.samples, self.dropout, self.features = samples, dropout, features
        self.masks = torch.ones(1, features)

    def prepare(self, occasion: Occasion) -> None:
        generator = occasion.keys.generator("acquisition samples", occasion.round)
        kept = torch.rand(self.samples, self.features, generator=generator) >= self.dropout
        self.masks = (kept / (1 - self.dropout)).to(occasion.pool.device)

    def score(self, view: View) -> Tensor:
        h = view.penultimate.flatten(0, -2)
        logits = torch.stack([view.net.head(h * mask, view.net.depth - 1) for mask in self.masks])
        return lada_ext.bald(logits).unflatten(0, view.penultimate.shape[:-1])


def make(config: Config, task: Task, net: SplitModel) -> Bald:
    (features,) = net.shapes(task.shape)[-2]
    return Bald(config.bald_samples, config.dropout, features)
