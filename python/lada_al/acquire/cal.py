"""CAL: how much the prediction varies over random label-preserving augmentations of the image (Section 2.4).

Gao et al. 2020: the sum over classes of the variance of p_c over the views of an image, here shifts by up to 4 pixels
and mirror images. It is a supervised reading: the paper's semi-supervised training is left out. Every image of a
round gets the same shifts, so that scores do not depend on batches and differences between images are not those of
luck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext
from lada_al.acquire import Acquisition, Occasion
from lada_al.models import SplitModel
from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.run.config import Config

NEEDS_IMAGE = True
SETTINGS = ("cal_views",)
PADDING = 4


class Cal(Acquisition):
    def __init__(self, views: int, black: Tensor) -> None:
        self.views, self.black = views, black
        self.shifts = torch.zeros(1, 3, dtype=torch.int64)

    def prepare(self, occasion: Occasion) -> None:
        generator = occasion.keys.generator("acquisition samples", occasion.round)
        places = torch.randint(2 * PADDING + 1, (self.views, 2), generator=generator)
        mirrored = torch.randint(2, (self.views, 1), generator=generator)
        self.shifts = torch.cat([places, mirrored], 1)

    def score(self, view: View) -> Tensor:
        image = view.image.flatten(0, view.leading - 1)
        logits = torch.stack([view.net(shifted) for shifted in self._shifted(image)])
        return lada_ext.consistency_variance(logits).unflatten(0, view.image.shape[: view.leading])

    def _shifted(self, image: Tensor) -> list[Tensor]:
        """The views of the images: crops of their black-bordered selves, some of them mirrored."""
        height, width = image.shape[-2:]
        black = self.black.to(image.device)
        padded = F.pad(image - black, [PADDING] * 4) + black
        views = []
        for top, left, mirrored in self.shifts.tolist():
            crop = padded[..., top : top + height, left : left + width]
            views.append(crop.flip(-1) if mirrored else crop)
        return views


def make(config: Config, task: Task, net: SplitModel) -> Cal:
    del net
    return Cal(config.cal_views, task.normalised(torch.zeros(task.shape[0], 1, 1)))
