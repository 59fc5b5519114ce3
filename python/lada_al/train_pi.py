"""The Pi-model: two noisy looks at the same unlabelled image should be classified alike (Table 3).

Laine and Aila 2017. A term w(t) ||p(x') - p(x'')||^2 joins the training loss, over images of the whole pool; w ramps
up as exp(-5 (1 - t)^2) over the first 80/300 of the training, and the learning rate and Adam's first beta ramp down
over the last 50/300. Their cross entropy is averaged over a batch of which n/N is labelled, and their weight is 100
n/N; here the cross entropy is averaged over labelled images, so both lose the factor n/N.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lada_al.models import SplitModel
from lada_al.pool import Pool
from lada_al.ranks import ours

if TYPE_CHECKING:
    from lada_al.run.config import Config

RAMP_UP, RAMP_DOWN = 80 / 300, 50 / 300
NOISE = 0.15  # deviation, in units of the normalised image
SHIFT = 2


class PiModel:
    """The unlabelled half of the training."""

    def __init__(self, config: Config) -> None:
        self.weight, self.batch = config.pi_weight, config.pi_batch

    def loss(self, net: SplitModel, pool: Pool, progress: float) -> Tensor:
        ids = torch.randint(len(pool), (min(self.batch, len(pool)),))
        images = pool.pixels(ids)
        if pool.random_crop:  # both looks are mirrored, or neither
            mirrored = (torch.rand(len(images), device=images.device) < 0.5)[:, None, None, None]
            images = torch.where(mirrored, images.flip(-1), images)
        mine = ours().part(len(ids))
        first, second = (net(noisy(images)[mine]).softmax(1) for _ in range(2))
        return self.weight * ramp_up(progress) * ours().mean((first - second).square(), len(ids))

    def adam(self, progress: float) -> tuple[float, float]:
        """Factor of the learning rate, and beta_1."""
        left = min((1 - progress) / RAMP_DOWN, 1.0)
        factor = math.exp(-12.5 * (1 - left) ** 2)
        return factor, 0.5 + 0.4 * factor


def ramp_up(progress: float) -> float:
    """0.0067 at the start, 1 from 80/300 of the training on."""
    return math.exp(-5 * (1 - min(progress / RAMP_UP, 1.0)) ** 2)


def noisy(images: Tensor) -> Tensor:
    """Each image shifted by up to 2 pixels either way over its mirrored border, with Gaussian noise."""
    height, width = images.shape[-2:]
    padded = F.pad(images, [SHIFT] * 4, mode="reflect")
    top, left = torch.randint(2 * SHIFT + 1, (2, len(images), 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    instance = torch.arange(len(images), device=images.device)[:, None, None]
    shifted = padded[instance, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return shifted + NOISE * torch.randn_like(shifted)
