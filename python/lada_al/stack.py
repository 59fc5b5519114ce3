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

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F  # noqa: N812

from lada_al.events import Bought
from lada_al.keys import Keys, Purpose
from lada_al.pool import Pool
from lada_al.run.config import Config
from lada_al.timing import Meter
from lada_al.train import Learner


def can_stack(config: Config) -> bool:
    """Whether the labelled batches of a method go through its classifier alone."""
    return not config.chosen.semi_supervised and not config.chosen.acquisition.in_training


@dataclass
class Replica:
    """What one replication trains with."""

    learner: Learner
    pool: Pool
    bought: Bought
    keys: Keys
    randomness: Randomness = field(init=False)
    companions: list[nn.Parameter] = field(init=False)
    """What is trained along with the classifier, and is not stacked."""

    def __post_init__(self) -> None:
        net = set(self.learner.net.parameters())
        self.companions = [p for p in self.learner.modules.parameters() if p not in net]
        with self.keys.scope("training batches", self.bought.round):
            self.randomness = Randomness(self.pool.device)

    def key(self, purpose: Purpose, epoch: int) -> Tensor:
        return self.keys.key(purpose, self.bought.round, epoch, self.pool.device)

    def virtual_loss(self, epoch: int) -> Tensor:
        with self.randomness():
            return self.learner.virtual_loss(self.pool, self.bought, self.key("virtual samples", epoch))


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
        for epoch in meter.track("train", range(replicas[0].learner.config.epochs)):
            losses = _epoch(replicas, stack, epoch)
    for replica in replicas:
        replica.learner.net.version += 1
    return losses.tolist()


def _epoch(replicas: list[Replica], stack: Stack, epoch: int) -> Tensor:
    """`Learner._epoch` of all of them; their mean losses (S,)."""
    config, bought = replicas[0].learner.config, replicas[0].bought
    has_virtual = replicas[0].learner.has_virtual(bought)
    batches = []
    for replica in replicas:
        with replica.randomness():
            ids = replica.learner.batches(replica.pool, replica.bought, epoch)
        batches.append(replica.pool.training_batches(ids, replica.key("training crops", epoch)))
    total = torch.zeros(len(replicas), device=replicas[0].pool.device)
    for step, of_each in enumerate(zip(*batches, strict=True)):
        _forget_gradients(replicas, stack)
        images, targets = zip(*of_each, strict=True)
        losses = _labelled_losses(stack, torch.stack(images), torch.stack(targets))
        total += losses.detach().sum(1)
        loss = losses.mean(1).sum()
        if has_virtual and step == 0 and config.virtual_loss == "summed":
            loss = loss + sum(replica.virtual_loss(epoch) for replica in replicas)
        _step(replicas, loss)
    if has_virtual and config.virtual_loss == "own step":
        if not config.stale_gradient:
            _forget_gradients(replicas, stack)
        _step(replicas, torch.stack([replica.virtual_loss(epoch) for replica in replicas]).sum())
    return total / len(replicas[0].pool.labelled)


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


def _step(replicas: list[Replica], loss: Tensor) -> None:
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
