"""Replications of one method trained at once: their weights lie in stacked tensors, and one pass serves them all.

Training on ten labels at a time is thousands of small steps, in which a GPU waits for launches; the steps of five
seeds together take little more than those of one. Labelled batches go through the stack by torch.func.vmap. What
happens once an epoch, the virtual instances, and the optimisers are each replication's own. All draw the random
numbers that they would draw alone, so they learn the same up to rounding; dropout alone draws other masks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F  # noqa: N812

from lada_al.events import Bought
from lada_al.keys import Keys
from lada_al.lookahead import Origins
from lada_al.pool import Pool
from lada_al.replay import Step
from lada_al.timing import Meter
from lada_al.train import Learner, TrainingKeys


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
        joint = learner.replayed(partial(_joint_step, replicas, stack), virtual=True)
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
        images, targets = (torch.stack(values) for values in zip(*of_each, strict=True))
        if has_virtual and step == 0 and config.virtual_loss == "summed":
            losses = joint(images, targets, keys)
        else:
            losses = alone(images, targets)
        total += losses.sum(1)
    if has_virtual and config.virtual_loss == "own step":
        if not config.stale_gradient:
            _forget_gradients(replicas, stack)
        _descend(replicas, _virtual_losses(replicas, keys))
    return total / len(replicas[0].pool.labelled)


def _labelled_step(replicas: list[Replica], stack: Stack, images: Tensor, targets: Tensor) -> Tensor:
    """One step of each on a labelled batch of its own; the cross entropies (S, B)."""
    _forget_gradients(replicas, stack)
    losses = _labelled_losses(stack, images, targets)
    _descend(replicas, losses.mean(1).sum())
    return losses.detach()


def _joint_step(replicas: list[Replica], stack: Stack, images: Tensor, targets: Tensor, keys: Tensor) -> Tensor:
    """The same with the virtual instances of each one's purchase."""
    _forget_gradients(replicas, stack)
    losses = _labelled_losses(stack, images, targets)
    _descend(replicas, losses.mean(1).sum() + _virtual_losses(replicas, keys))
    return losses.detach()


def _virtual_losses(replicas: list[Replica], keys: Tensor) -> Tensor:
    each = [one.learner.virtual_loss(one.origins, key) for one, key in zip(replicas, keys, strict=True)]
    return torch.stack(each).sum()


def _labelled_losses(stack: Stack, images: Tensor, targets: Tensor) -> Tensor:
    """Cross entropies of a labelled batch of each, (S, B)."""
    logits = stack(images)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1), reduction="none")
    return losses.unflatten(0, logits.shape[:2])


def _forget_gradients(replicas: list[Replica], stack: Stack) -> None:
    for replica in replicas:
        for parameter in replica.companions:
            parameter.grad = None
    torch._foreach_zero_(list(stack.gradients.values()))


def _descend(replicas: list[Replica], loss: Tensor) -> None:
    loss.backward()
    for replica in replicas:
        replica.learner.optimizer.step()


class Stack:
    """The weights of S equal networks as tensors (S, ...), of which each network's own are views.

    So the networks can be used one by one in between, and gradients of both uses add up in the same place.
    """

    def __init__(self, nets: list[nn.Module]) -> None:
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

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (S, B, C) of images (S, B, channels, H, W)."""

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            logits: Tensor = functional_call(self._skeleton, (parameters, buffers), (x,))
            return logits

        logits: Tensor = vmap(one, randomness="different")(self.parameters, self.buffers, images)
        return logits

    def release(self) -> None:
        """Gives each network its own memory again, with what was learned."""
        for tensor, memory in self._own:
            tensor.data, tensor.grad = memory.copy_(tensor.data), None


@contextmanager
def stacked(nets: list[nn.Module]) -> Iterator[Stack]:
    """The networks share stacked weights inside the block."""
    stack = Stack(nets)
    try:
        yield stack
    finally:
        stack.release()


def _by_name(nets: list[nn.Module], kind: str) -> Iterator[tuple[str, list[Tensor]]]:
    tables = [dict(getattr(net, kind)()) for net in nets]
    return ((name, [table[name].detach() for table in tables]) for name in tables[0])
