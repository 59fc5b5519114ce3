"""Training of the classifier with Eq. 14, and its accuracy."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lada_al import replay
from lada_al.acquire import Acquisition
from lada_al.augment import Augmentation
from lada_al.device import at_a_time
from lada_al.events import Bought
from lada_al.folding import folded
from lada_al.keys import Keys, Purpose
from lada_al.models import SplitModel, evaluating, frozen
from lada_al.pool import Pool
from lada_al.ranks import ours
from lada_al.run.config import Config
from lada_al.timing import Meter
from lada_al.train_pi import PiModel
from lada_al.view import View, together
from lada_al.virtual import Origins, virtual_of, virtual_view


class TrainingKeys:
    """The keys of one round's training, of what has these three."""

    pool: Pool
    bought: Bought
    keys: Keys

    def key(self, purpose: Purpose, epoch: int) -> Tensor:
        return self.keys.key(purpose, self.bought.round, epoch, self.pool.device)


@dataclass(frozen=True)
class _Training(TrainingKeys):
    """What the epochs of one round share."""

    pool: Pool
    bought: Bought
    keys: Keys
    origins: Origins | None
    alone: replay.Step
    joint: replay.Step


class Learner:
    """f_theta, what is trained along with it, and the optimiser: all that a checkpoint must hold."""

    def __init__(
        self,
        net: SplitModel,
        f_acq: Acquisition,
        f_aug: Augmentation | None,
        config: Config,
        unlabelled: PiModel | None = None,
    ) -> None:
        self.net, self.f_acq, self.f_aug, self.config, self.unlabelled = net, f_acq, f_aug, config, unlabelled
        companions = [f_acq.trained, f_aug.trained if f_aug is not None else None]
        self.modules = nn.ModuleList([net, *(module for module in companions if module is not None)])
        # What starts anew with the classifier: modules that read its features, but not a policy that reads images.
        readers = [f_acq.trained, f_aug.trained if f_aug is not None and f_aug.uses_hidden else None]
        self.restarting = nn.ModuleList([net, *(module for module in readers if module is not None)])
        self._initial = copy.deepcopy(self.restarting.state_dict())
        self.optimizer = self._new_optimizer()
        self._recorder = replay.Recorder(self._device)

    def fit(self, pool: Pool, bought: Bought, keys: Keys, meter: Meter) -> float:
        """Trains on all labelled instances and on virtual ones of the last purchase (Algorithm 1, lines 8 to 11).

        Returns:
            The mean cross entropy of the labelled instances in the last epoch.
        """
        self.begin()
        origins = self.origins(pool, bought)
        alone = self.replayed(self._labelled_step)
        joint = alone if origins is None else self.replayed(partial(self._joint_step, origins), virtual=True)
        now = _Training(pool, bought, keys, origins, alone, joint)
        with keys.scope("training batches", bought.round):
            for epoch in meter.track("train", range(self.config.epochs)):
                loss = self._epoch(now, epoch)
        self.net.version += 1
        return float(loss)

    def begin(self) -> None:
        """Weights and optimiser as a round's training finds them."""
        if self.config.restart_weights:
            self.restarting.load_state_dict(self._initial)
        if self.config.restart_weights or not self.config.keep_optimizer:
            self.optimizer = self._new_optimizer()
        self.modules.train()

    def replayed(self, step: replay.Step, *, virtual: bool = False) -> replay.Step:
        """The step, with virtual instances or without; on a GPU its replays, if it launches the same each time."""
        config = self.config
        same = self.net.launches_the_same and not (config.plain or config.stale_gradient)
        if virtual:
            same = same and self.f_aug is not None and self.f_aug.launches_the_same and not replay.ops_wait()
        return self._recorder.replayed(step) if same else step

    def _epoch(self, now: _Training, epoch: int) -> Tensor:
        """One pass over the labelled set X_L, and one over the virtual set X_M, which is drawn anew."""
        config, pool, every = self.config, now.pool, []
        is_plain = config.chosen.trains_by_cross_entropy and ours().count == 1
        batches = self.batches(pool, now.bought, epoch)
        key = now.key("virtual samples", epoch)
        mine = pool.training_batches([ids[ours().part(len(ids))] for ids in batches], now.key("training crops", epoch))
        for step, (ids, (image, target)) in enumerate(zip(batches, mine, strict=True)):
            joined = now.origins if step == 0 and config.virtual_loss == "summed" else None
            if is_plain:
                every.append(now.alone(image, target) if joined is None else now.joint(image, target, key))
            else:
                every.append(self._step(pool, image, target, len(ids), epoch / config.epochs, joined, key))
        if now.origins is not None and config.virtual_loss == "own step":
            if not config.stale_gradient:
                self.optimizer.zero_grad()
            self._descend(self.virtual_loss(now.origins, key))
        return ours().sum(torch.stack(every).sum()) / len(pool.labelled)

    def _step(
        self,
        pool: Pool,
        image: Tensor,
        target: Tensor,
        whole: int,
        progress: float,
        origins: Origins | None,
        key: Tensor,
    ) -> Tensor:
        """One step on our part of a labelled batch of `whole`, by all that the method has to say of it, and on the
        virtual instances of these origins if there are any; returns the sum of the cross entropies."""
        self.optimizer.zero_grad()
        view = View(self.net, 0, image=image, target=target)
        virtual = None if origins is None else self._joined(view, origins, key)
        losses, loss = self._labelled_losses(pool, view, whole, progress)
        if origins is not None and virtual is not None:
            loss = loss + self._virtual_term(virtual, origins)
        self._descend(loss)
        return losses.detach().sum()

    def _labelled_step(self, image: Tensor, target: Tensor) -> Tensor:
        """One step on a labelled batch by its mean cross entropy alone; returns the sum."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(image), target)
        self._descend(loss)
        return loss.detach() * len(image)

    def _joint_step(self, origins: Origins, image: Tensor, target: Tensor, key: Tensor) -> Tensor:
        """The same with the virtual instances of a purchase."""
        self.optimizer.zero_grad()
        labelled, virtual = self.joint_losses(origins, image, target, key)
        self._descend(labelled + virtual)
        return labelled.detach() * len(image)

    def joint_losses(self, origins: Origins, image: Tensor, target: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Both terms of Eq. 14."""
        view = View(self.net, 0, image=image, target=target)
        virtual = self._joined(view, origins, key)
        return cross_entropies(view).mean(), self._virtual_term(virtual, origins)

    def _joined(self, view: View, origins: Origins, key: Tensor) -> View:
        """Virtual instances that went through the network along with labelled ones: as one batch, their origins up to
        layer k, and they themselves from there."""
        assert self.f_aug is not None
        real = origins.view(self.net)
        together([view, real], 0, origins.k)
        virtual = virtual_of(real, self.f_aug, origins, key)
        together([view, virtual], origins.k, self.net.depth)
        return virtual

    def _descend(self, loss: Tensor) -> None:
        loss.backward()
        ours().sum_gradients(self.modules.parameters())
        self.optimizer.step()

    def has_virtual(self, bought: Bought) -> bool:
        """Whether this purchase is trained on with virtual instances too: not the initial one."""
        return self.f_aug is not None and bought.round > 0

    def batches(self, pool: Pool, bought: Bought, epoch: int) -> tuple[Tensor, ...]:
        """Begins an epoch: what is trained before it is, and the ids of its labelled batches are drawn."""
        if self.f_aug is not None and self.has_virtual(bought):
            self.f_aug.adapt(self.net, pool, epoch, self.config.epochs)
        if self.unlabelled is not None:
            self._set_adam(*self.unlabelled.adam(epoch / self.config.epochs))
        order = torch.randperm(len(pool.labelled))
        batches = pool.labelled[order].to(pool.device).split(self.config.batch)
        if len(batches) > 1 and len(batches[-1]) == 1 < self.config.batch:
            return *batches[:-2], torch.cat(batches[-2:])  # of one instance batch normalisation knows no deviation
        return batches

    def _labelled_losses(self, pool: Pool, view: View, whole: int, progress: float) -> tuple[Tensor, Tensor]:
        """Cross entropies (B,) of our part of a batch of `whole`; and its share of the batch's mean, with what
        the method adds to it."""
        losses = cross_entropies(view)
        loss, extra = ours().mean(losses, whole), self.f_acq.loss(view, losses, progress)
        if extra is not None:
            loss = loss + extra
        if self.unlabelled is not None:
            loss = loss + self.unlabelled.loss(self.net, pool, progress)
        return losses, loss

    def origins(self, pool: Pool, bought: Bought) -> Origins | None:
        """Of our part of a purchase's virtual instances, if it is trained on with some."""
        if self.f_aug is None or not self.has_virtual(bought):
            return None
        units = len(bought.ids) // self.f_aug.arity
        return Origins.of(pool, bought.units(ours().part(units), self.f_aug.arity), whole=len(bought.ids))

    def virtual_loss(self, origins: Origins, key: Tensor) -> Tensor:
        """The second term of Eq. 14 in a step of its own.

        A single virtual instance is normalised by the statistics of the batches before it, as it has none of its own.
        """
        assert self.f_aug is not None
        with evaluating(self.net) if origins.whole == self.f_aug.arity else nullcontext():
            return self._virtual_term(virtual_view(self.net, self.f_aug, origins, key), origins)

    def _virtual_term(self, virtual: View, origins: Origins) -> Tensor:
        """Our part of the mean cross entropy of virtual instances, with what the augmentation adds to it."""
        assert self.f_aug is not None
        loss, extra = cross_entropies(virtual).mean(), self.f_aug.loss(virtual)
        return origins.share * (loss if extra is None else loss + extra)

    def _set_adam(self, factor: float, beta_1: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = factor * self.config.lr, (beta_1, group["betas"][1])

    def _new_optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(
            self.modules.parameters(), lr=self.config.lr, fused=True, capturable=self._device.type == "cuda"
        )

    @property
    def _device(self) -> torch.device:
        return next(self.modules.parameters()).device

    def to(self, device: torch.device) -> None:
        """Moves the weights, before any training."""
        self.modules.to(device)
        self.optimizer = self._new_optimizer()
        self._recorder = replay.Recorder(self._device)
        self._initial = copy.deepcopy(self.restarting.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # the state may come from another device
            group["capturable"] = self._device.type == "cuda"
        self.net.version += 1


def cross_entropies(view: View) -> Tensor:
    """Cross entropy of each instance's logits with its label distribution: both terms of Eq. 14 are means of these."""
    assert view.target is not None
    return F.cross_entropy(view.logits.flatten(0, -2), view.target.flatten(0, -2), reduction="none")


@torch.no_grad()
def accuracy(net: SplitModel, images: Tensor, labels: Tensor, batch: int) -> float:
    """Fraction of normalised images that are classified right, at most `batch` of them at a time."""
    most = at_a_time(batch, images.device)
    with frozen(net):
        classifier = folded(net) if net.shortcuts else net
        batches = ours().every_nth(list(zip(images.split(most), labels.split(most), strict=True)))
        right = sum(((classifier(x).argmax(1) == y).sum() for x, y in batches), labels.new_zeros(()))
    return int(ours().sum(right)) / len(labels)
