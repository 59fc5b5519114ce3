"""Replications of one method trained at once: their weights lie in stacked tensors, and one pass serves them all.

Training on ten labels at a time is thousands of small steps, in which a GPU waits for launches; the steps of five
seeds together take little more than those of one. Labelled batches go through the stack by torch.func.vmap. What
happens once an epoch, the virtual instances, and the optimisers are each replication's own. All draw the random
numbers that they would draw alone, the masks of dropout too, so they learn the same up to rounding, whoever else is in
the stack.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F  # noqa: N812

from lada_al.events import Bought
from lada_al.keys import Keys
from lada_al.models import Classifier, SplitModel
from lada_al.pool import Pool
from lada_al.replay import Step
from lada_al.timing import Meter
from lada_al.train import Learner, TrainingKeys
from lada_al.virtual import Origins


@dataclass
class Replica(TrainingKeys):
    """What one replication trains with."""

    learner: Learner
    pool: Pool
    bought: Bought
    keys: Keys
    randomness: Randomness = field(init=False)
    origins: Origins | None = field(init=False)
    companions: list[nn.Parameter] = field(init=False)
    """What is trained along with the classifier, and is not stacked."""

    def __post_init__(self) -> None:
        net = set(self.learner.net.parameters())
        self.origins = self.learner.origins(self.pool, self.bought)
        self.companions = [p for p in self.learner.modules.parameters() if p not in net]
        with self.keys.scope("training batches", self.bought.round):
            self.randomness = Randomness(self.pool.device)

    def draw_mask(self, batch: int) -> Tensor:
        """Of dropout, for a labelled batch."""
        with self.randomness():
            return classifier(self.learner.net).draw_mask(batch)

    def joint_losses(self, image: Tensor, target: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        with self._masks():
            return self.learner.joint_losses(self._of_purchase, image, target, key)

    def virtual_loss(self, key: Tensor) -> Tensor:
        with self._masks():
            return self.learner.virtual_loss(self._of_purchase, key)

    @property
    def _of_purchase(self) -> Origins:
        assert self.origins is not None
        return self.origins

    def _masks(self) -> AbstractContextManager[None]:
        """Those that dropout, if there is any, would draw alone."""
        return self.randomness() if has_dropout(self.learner.net) else nullcontext()


class Randomness:
    """A state of torch's global generators, which goes on where it was left each time it is entered."""

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self._states = self._now()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        outside = self._now()
        self._set(self._states)
        try:
            yield
        finally:
            self._states = self._now()
            self._set(outside)

    def _now(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.devices)]

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for device, state in zip(self.devices, states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)


def fit(replicas: list[Replica], meter: Meter) -> list[float]:
    """`Learner.fit` of all of them: as many labels each, the same configuration but for the seed.

    Returns:
        The mean cross entropy of the labelled instances in the last epoch, of each.
    """
    for replica in replicas:
        replica.learner.begin()
    with stacked([replica.learner.net for replica in replicas]) as stack:
        learner = replicas[0].learner
        alone = learner.replayed(partial(_labelled_step, replicas, stack))
        joint: Step = partial(_joint_step, replicas, stack)
        if not has_dropout(learner.net):  # a recorded step cannot go from one replication's randomness to another's
            joint = learner.replayed(joint, virtual=True)
        for epoch in meter.track("train", range(learner.config.epochs)):
            losses = _epoch(replicas, stack, epoch, alone, joint)
        means: list[float] = losses.tolist()
    for replica in replicas:
        replica.learner.net.version += 1
    return means


def _epoch(replicas: list[Replica], stack: Stack, epoch: int, alone: Step, joint: Step) -> Tensor:
    """`Learner._epoch` of all of them; their mean losses (S,)."""
    config, has_virtual = replicas[0].learner.config, replicas[0].origins is not None
    keys = torch.stack([replica.key("virtual samples", epoch) for replica in replicas])
    batches = []
    for replica in replicas:
        with replica.randomness():
            ids = replica.learner.batches(replica.pool, replica.bought, epoch)
        batches.append(replica.pool.training_batches(ids, replica.key("training crops", epoch)))
    total = torch.zeros(len(replicas), device=replicas[0].pool.device)
    for step, of_each in enumerate(zip(*batches, strict=True)):
        labelled = [torch.stack(values) for values in zip(*of_each, strict=True)]
        if has_virtual and step == 0 and config.virtual_loss == "summed":
            total += joint(*labelled, keys)
            continue
        if has_dropout(replicas[0].learner.net):
            labelled.append(torch.stack([replica.draw_mask(labelled[0].shape[1]) for replica in replicas]))
        total += alone(*labelled)
    if has_virtual and config.virtual_loss == "own step":
        if not config.stale_gradient:
            _forget_gradients(replicas, stack)
        losses = [replica.virtual_loss(key) for replica, key in zip(replicas, keys, strict=True)]
        _descend(replicas, torch.stack(losses).sum())
    return total / len(replicas[0].pool.labelled)


def _labelled_step(replicas: list[Replica], stack: Stack, images: Tensor, targets: Tensor, *masks: Tensor) -> Tensor:
    """One step of each on a labelled batch of its own; the sums of the cross entropies (S,)."""
    _forget_gradients(replicas, stack)
    logits = stack(images, *masks)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1), reduction="none")
    losses = losses.unflatten(0, logits.shape[:2])
    _descend(replicas, losses.mean(1).sum())
    return losses.detach().sum(1)


def _joint_step(replicas: list[Replica], stack: Stack, images: Tensor, targets: Tensor, keys: Tensor) -> Tensor:
    """The same with the virtual instances of each one's purchase: one after another, as each has its own layer k."""
    _forget_gradients(replicas, stack)
    of_each = zip(replicas, images, targets, keys, strict=True)
    labelled, virtual = zip(*(replica.joint_losses(*step) for replica, *step in of_each), strict=True)
    _descend(replicas, torch.stack(labelled + virtual).sum())
    return torch.stack(labelled).detach() * images.shape[1]


def _forget_gradients(replicas: list[Replica], stack: Stack) -> None:
    for replica in replicas:
        for parameter in replica.companions:
            parameter.grad = None
    torch._foreach_zero_(list(stack.gradients.values()))


def _descend(replicas: list[Replica], loss: Tensor) -> None:
    loss.backward()
    for replica in replicas:
        replica.learner.optimizer.step()


def classifier(net: SplitModel) -> Classifier:
    """The last layer of a network of `models.MODELS`."""
    last = net.steps[-1]
    assert isinstance(last, Classifier)
    return last


def has_dropout(net: SplitModel) -> bool:
    return classifier(net).dropout > 0


class Stack:
    """The weights of S equal networks as tensors (S, ...), of which each network's own are views.

    So the networks can be used one by one in between, and gradients of both uses add up in the same place.
    """

    def __init__(self, nets: list[SplitModel]) -> None:
        self._skeleton = copy.deepcopy(nets[0]).to("meta")
        self.parameters = {name: torch.stack(values) for name, values in _by_name(nets, "named_parameters")}
        self.buffers = {name: torch.stack(values) for name, values in _by_name(nets, "named_buffers")}
        self.gradients = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self._own = [(tensor, tensor.data) for net in nets for tensor in (*net.parameters(), *net.buffers())]
        for place, net in enumerate(nets):
            for name, parameter in net.named_parameters():
                parameter.data, parameter.grad = self.parameters[name][place], self.gradients[name][place]
            for name, buffer in net.named_buffers():
                buffer.data = self.buffers[name][place]
        for name, value in self.parameters.items():
            value.requires_grad_().grad = self.gradients[name]

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Logits (S, B, C) of images (S, B, channels, H, W), with masks (S, B, inputs) of dropout."""

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
            classifier(self._skeleton).mask = mask
            logits: Tensor = functional_call(self._skeleton, (parameters, buffers), (x,))
            return logits

        in_dims = (0, 0, 0, None if masks is None else 0)
        logits: Tensor = vmap(one, in_dims)(self.parameters, self.buffers, images, masks)
        return logits

    def release(self) -> None:
        """Gives each network its own memory again, with what was learned."""
        for tensor, memory in self._own:
            tensor.data, tensor.grad = memory.copy_(tensor.data), None


@contextmanager
def stacked(nets: list[SplitModel]) -> Iterator[Stack]:
    """The networks share stacked weights inside the block."""
    stack = Stack(nets)
    try:
        yield stack
    finally:
        stack.release()


def _by_name(nets: list[SplitModel], kind: str) -> Iterator[tuple[str, list[Tensor]]]:
    tables = [dict(getattr(net, kind)()) for net in nets]
    return ((name, [table[name].detach() for table in tables]) for name in tables[0])
