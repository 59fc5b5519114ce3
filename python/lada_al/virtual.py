"""The virtual instances of a purchase, X_M (Algorithm 1, line 9), made again for training from what was bought."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lada_al.augment import Augmentation
from lada_al.events import Bought
from lada_al.models import SplitModel
from lada_al.pool import Pool
from lada_al.view import View


@dataclass(frozen=True)
class Origins:
    """What the virtual instances of a purchase are made of, all of it on the pool's device."""

    ids: Tensor
    image: Tensor
    target: Tensor
    k: int
    tau: Tensor | None
    whole: int
    """Instances of the whole purchase, of which this may be a part."""

    @classmethod
    def of(cls, pool: Pool, bought: Bought, whole: int | None = None) -> Origins:
        ids = torch.tensor(bought.ids, device=pool.device)
        tau = None if bought.tau is None else torch.tensor(bought.tau, device=pool.device)
        return cls(ids, pool.pixels(ids), pool.targets(ids), bought.k, tau, len(ids) if whole is None else whole)

    @property
    def share(self) -> float:
        return len(self.ids) / self.whole

    def view(self, net: SplitModel) -> View:
        return View(net, self.k, image=self.image, ids=self.ids, target=self.target)


def virtual_view(net: SplitModel, f_aug: Augmentation, origins: Origins, key: Tensor) -> View:
    """X_M (line 9): one virtual instance of each bought unit, with its label, for training."""
    return virtual_of(origins.view(net).computed(len(origins.ids), origins.k), f_aug, origins, key)


def virtual_of(view: View, f_aug: Augmentation, origins: Origins, key: Tensor) -> View:
    """The same, of a view of the origins whose h^k are known."""
    views = members_of(view, f_aug.arity)
    tau = origins.tau
    if tau is None or f_aug.trained is not None:
        tau = f_aug.policy(*views, learn=False)(*views)
    return f_aug(*views, tau=tau, key=key)


def members_of(view: View, arity: int) -> list[View]:
    """The first instances of the units, which follow one another in a view of images; and the second ones, of pairs."""
    return [view[torch.arange(i, len(view), arity, device=view.device)] for i in range(arity)]
