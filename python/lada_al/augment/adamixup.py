"""AdaMixup: Mixup whose policy is trained with the classifier so that mixtures cannot be mistaken for real instances.

Guo et al. 2019, Section 2.2. For a pair, the policy gives an interval [alpha, alpha + delta] of (0, 1) and lam is
uniform in it. An intrusion discriminator learns to tell mixtures from real instances; the policy learns to keep
mixtures where it can, and where the classifier gets their mixed labels right.

The policy network is one PairNet for each layer k; the discriminator sits on what the classifier's last layer sees:
5,152 parameters for ResNet-18, which is the paper's 5K.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import lada_ext
from lada_al.augment import Augmentation
from lada_al.models import Network, SplitModel
from lada_al.pair_net import PairNet
from lada_al.view import View, pairs_within

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.run.config import Config

ARITY = 2
PIPELINE = "adamixup"
USES_HIDDEN = True
NEEDS_VECTOR = True
SETTINGS = ("adamixup_untrained", "adamixup_mean_label")


class AdaMixup(Augmentation):
    arity = ARITY
    uses_hidden = USES_HIDDEN
    launches_the_same = True

    def __init__(
        self, regions: dict[int, PairNet], discriminator: nn.Module, *, learns: bool, mean_label: bool
    ) -> None:
        self.regions = nn.ModuleDict({str(k): net for k, net in regions.items()})
        self.discriminator, self.mean_label = discriminator, mean_label
        self.trained = nn.ModuleDict({"regions": self.regions, "discriminator": discriminator}).requires_grad_(learns)

    def networks(self, *, learn: bool) -> list[Network]:
        del learn
        return [
            Network("intrusion discriminator", self.discriminator),
            Network("policy networks", self.regions, in_table=False),
        ]

    def policy(self, *views: View, learn: bool) -> nn.Module:
        net = self.regions[str(views[0].k)]
        assert isinstance(net, PairNet)
        return Region(copy.deepcopy(net) if learn else net)

    def __call__(self, *views: View, tau: Tensor, key: Tensor, samples: int = 1) -> View:
        """tau (P, 2): alpha and delta of each pair."""
        a, b = views
        uniform = lada_ext.beta_sample(torch.ones_like(tau[:, 0].detach()), samples, key, a.ids)
        lam = tau[:, :1] + tau[:, 1:] * uniform
        weight = lam[(...,) + (None,) * (a.hidden.dim() - 1)]
        mixed = weight * a.hidden[:, None] + (1 - weight) * b.hidden[:, None]
        target = None
        if a.target is not None and b.target is not None:
            share = (lam.mean().expand_as(lam) if self.mean_label else lam)[..., None]
            target = share * a.target[:, None] + (1 - share) * b.target[:, None]
        return View(a.net, a.k, hidden=mixed, leading=2, target=target, parents=(a, b))

    def loss(self, virtual: View) -> Tensor:
        """The negative of log P(phi(mixed) = 1) + log P(phi(x_i) = 0) + log P(phi(x_j) = 0)."""
        is_mixed = [torch.ones, torch.zeros, torch.zeros]
        terms = [torch.zeros((), device=virtual.device)]
        for view, kind in zip((virtual, *virtual.parents), is_mixed, strict=True):
            guess = self.discriminator(view.penultimate.flatten(0, -2))
            terms.append(F.cross_entropy(guess, kind(len(guess), dtype=torch.int64, device=guess.device)))
        return torch.stack(terms).sum()


def make(config: Config, task: Task, net: SplitModel) -> AdaMixup:
    shapes = net.shapes(task.shape)
    regions = {k: PairNet(shapes[k][0], (shapes[k][1], shapes[k][2])) for k in config.layers}
    return AdaMixup(
        regions,
        intrusion_discriminator(shapes[-2][0], task.classes),
        learns=not config.adamixup_untrained,
        mean_label=config.adamixup_mean_label,
    )


def intrusion_discriminator(features: int, classes: int) -> nn.Sequential:
    """phi^ada: logits of (real, mixed)."""
    return nn.Sequential(nn.Linear(features, classes), nn.ReLU(), nn.Linear(classes, 2))


class Region(nn.Module):
    """alpha and delta, (P, 2): two of the three parts of a softmax, so that alpha + delta < 1."""

    def __init__(self, net: PairNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, a: View, b: View) -> Tensor:
        _, region = self.net(*pairs_within(a, b, a.net.cut(a.k)))
        return region.softmax(1)[:, :2]
