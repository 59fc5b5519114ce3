"""AutoAugment: the image operations that Cubuk et al. 2019 found with labels we do not have, drawn anew for each image.

torchvision's policies and operations, as in the paper's Table 2. torchvision draws one sub-policy for a whole batch;
here each image has its own draw, by its id. tau is 1 for every image: the policy as a whole, which nothing here can
move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import lada_ext
from lada_al.augment import Augmentation, FixedTau
from lada_al.models import SplitModel
from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.run.config import Config

ARITY = 1
PIPELINE = "autoaugment"
LEARNABLE = False

# Data sets for which torchvision has a policy of their own, or their authors used one of these.
POLICIES = {"cifar10": "cifar10", "cifar100": "cifar10", "svhn": "svhn"}


class AutoAugment(Augmentation):
    arity = ARITY

    def __init__(self, task: Task) -> None:
        from torchvision.transforms import AutoAugment as Operations
        from torchvision.transforms import AutoAugmentPolicy

        self.task = task
        policy = POLICIES.get(task.dataset, "imagenet")
        self.operations = Operations(AutoAugmentPolicy(policy))
        if task.dataset not in POLICIES:
            self.note = f"there is no AutoAugment policy for {task.dataset}; ImageNet's is used"

    def policy(self, *views: View, learn: bool) -> nn.Module:
        del views, learn
        return FixedTau(1.0)

    def __call__(self, *views: View, tau: Tensor, key: Tensor, samples: int = 1) -> View:
        (view,) = views
        images = (self.task.to_pixels(view.image) * 255).round().to(torch.uint8)
        seeds = _seeds(view, key, samples).tolist()
        made = torch.stack([self._draws(*of_image) for of_image in zip(images, seeds, strict=True)])
        image = self.task.normalised(made.float() / 255)
        target = None if view.target is None else view.target[:, None].expand(-1, samples, -1)
        return View(view.net, 0, image=image, leading=2, target=target, parents=(view,))

    def _draws(self, image: Tensor, seeds: list[int]) -> Tensor:
        """(samples, channels, H, W): one draw of operations for each seed."""
        made = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.default_generator.manual_seed(seed)  # that of the CPU, which alone was forked
                made.append(self.operations(image))
        return torch.stack(made)


def _seeds(view: View, key: Tensor, samples: int) -> Tensor:
    """(B, samples) seeds that depend on the key and the ids alone."""
    ones = torch.ones(len(view), device=key.device, dtype=torch.float64)
    uniform = lada_ext.beta_sample(ones, samples, key, view.ids)
    return (uniform * 2**52).long()


def make(config: Config, task: Task, net: SplitModel) -> AutoAugment:
    del config, net
    return AutoAugment(task)
