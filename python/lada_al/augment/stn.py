"""Spatial transformer, and InfoSTN, whose localisation network is moved to where the acquisition scores are highest.

Section 3.2: the localisation network regresses an affine map of the image (Eq. 3). The classifier's training trains it
by cross entropy; InfoSTN's learning (Eq. 4) works on a copy, so that the classifier's training goes on with what was
there before (Section 3.2.1).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import Tensor, nn

import lada_ext
from lada_al.augment import Augmentation
from lada_al.errors import UsageError
from lada_al.models import Network, SplitModel
from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.run.config import Config

ARITY = 1
PIPELINE = "stn"
BOUND = 0.25  # of the virtual image's area always shows the real one: an entropy seeker cannot leave for blank padding


class Stn(Augmentation):
    arity = ARITY
    launches_the_same = True
    trained: lada_ext.nn.STN

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.trained = lada_ext.nn.STN(LocalisationNet(*shape), BOUND)

    def networks(self, *, learn: bool) -> list[Network]:
        del learn
        return [Network("localisation network", self.trained)]

    def policy(self, *views: View, learn: bool) -> nn.Module:
        del views
        return OfImage(copy.deepcopy(self.trained) if learn else self.trained)

    def __call__(self, *views: View, tau: Tensor, key: Tensor, samples: int = 1) -> View:
        del key, samples
        (view,) = views
        image = self.trained.sample(view.image, tau)
        return View(view.net, 0, image=image, target=view.target, parents=(view,))


def make(config: Config, task: Task, net: SplitModel) -> Stn:
    del config, net
    return Stn(task.shape)


class OfImage(nn.Module):
    """A policy that looks at a view's image."""

    def __init__(self, stn: lada_ext.nn.STN) -> None:
        super().__init__()
        self.stn = stn

    def forward(self, view: View) -> Tensor:
        return self.stn.theta(view.image)


class LocalisationNet(nn.Module):
    """f_tau: the six numbers that `lada_ext.nn.STN` makes an affine map of, (B, 6).

    Layers are those of the PyTorch tutorial that the authors' count points to: 5,520 parameters at 1 x 28 x 28.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            OrderedDict(
                [
                    ("0", lada_ext.nn.ConvReluPool(channels, 8, 7)),
                    ("3", lada_ext.nn.ConvReluPool(8, 10, 5)),  # as checkpoints name them
                    ("6", nn.Flatten()),
                ]
            )
        )
        rows, columns = (((size - 6) // 2 - 4) // 2 for size in (height, width))
        if rows < 1 or columns < 1:
            raise UsageError(f"LocalisationNet: images must be at least 18 x 18, got {height} x {width}")
        self.trunk = nn.Sequential(nn.Linear(10 * rows * columns, 32), nn.ReLU())
        self.regression = nn.Linear(32, 6)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.regression(self.trunk(self.convolutions(image)))
        return out
