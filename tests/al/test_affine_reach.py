"""Mixing behind the affine part of the network gives what mixing at layer k gives, for less work."""

from __future__ import annotations

import pytest
import torch
from lada_al import View
from lada_al.augment.mix import Mix
from lada_al.models import SplitModel, frozen, resnet18, small
from lada_al.ranks import BatchNormOfAll
from torch import nn

import lada_ext


def trained_statistics(net: SplitModel, shape: tuple[int, int, int]) -> SplitModel:
    """BatchNorm with statistics that are not those of a new network."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        net(torch.randn(8, *shape, generator=generator) * 2 + 1)
    return net


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4])
def test_mixed_logits_and_their_gradient(k: int) -> None:
    torch.manual_seed(0)
    net = trained_statistics(small(1, (20, 20), 3), (1, 20, 20))
    images = torch.randn(10, 1, 20, 20)
    key, weight = lada_ext.make_key(3), torch.randn(5, 4, 3)
    results = []
    with frozen(net):
        a, b = (View(net, k, image=part, ids=torch.arange(5)) for part in images.split(5))
        for tau in (torch.full((5,), 0.7, requires_grad=True), torch.full((5,), 0.7, requires_grad=True)):
            if not results:
                logits = Mix(2.0, 2.0, {})(a, b, tau=tau, key=key, samples=4).logits
            else:
                mixed, _ = lada_ext.beta_mix(a.hidden, b.hidden, tau, 4, key)
                logits = net.head(mixed.flatten(0, 1), k).unflatten(0, (5, 4))
            (logits * weight).sum().backward()
            results.append((logits.detach(), tau.grad))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_reach() -> None:
    net = small(1, (20, 20), 3)
    end = net.cut(net.depth)
    with frozen(net):
        assert net.affine_reach(net.cut(1), end) == net.cut(1) + 2  # convolution and normalisation, not the ReLU
        assert net.affine_reach(net.cut(2), end) == end
    net.train()  # the statistics of a batch are not an affine map of each instance
    assert net.affine_reach(net.cut(1), end) == net.cut(1) + 1
    wide = resnet18(1, (20, 20), 3).eval()
    assert wide.affine_reach(wide.cut(1), wide.cut(wide.depth)) == wide.cut(1)  # a residual block


class Bounded(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).tanh()


def hooked() -> nn.Module:
    flat = nn.Flatten()
    flat.register_forward_hook(lambda module, inputs, output: output.tanh())
    return flat


@pytest.mark.parametrize(
    "module",
    [Bounded(4), nn.BatchNorm2d(4, track_running_stats=False), hooked()],
    ids=["derived", "of a batch", "hook"],
)
def test_what_may_do_more_is_not_affine(module: nn.Module) -> None:
    net = SplitModel([nn.Sequential(nn.Conv2d(3, 4, 3), module), nn.Flatten(), nn.Linear(144, 2)])
    with frozen(net):
        assert net.affine_reach(0, net.cut(net.depth)) == 1
        assert not net.mixes_logits(0)


@pytest.mark.parametrize("module", [nn.BatchNorm2d(4), BatchNormOfAll(4), nn.Dropout2d(0.5)])
def test_what_is_affine_once_it_is_frozen(module: nn.Module) -> None:
    net = SplitModel([nn.Sequential(nn.Conv2d(3, 4, 3), module), nn.Flatten(), nn.Linear(144, 2)])
    assert not net.mixes_logits(0)
    with frozen(net):
        assert net.mixes_logits(0)


def test_a_mixture_has_the_features_that_are_asked_for() -> None:
    net = small(1, (20, 20), 3)
    with frozen(net), torch.no_grad():
        a, b = (View(net, 2, image=part) for part in torch.randn(10, 1, 20, 20).split(5))
        virtual = Mix(2.0, 2.0, {})(a, b, tau=torch.ones(5), key=lada_ext.make_key(1), samples=2)
        logits = virtual.logits
        assert virtual.hidden.shape == (5, 2, 32, 10, 10)
        assert virtual.penultimate.shape == (5, 2, 800)
        torch.testing.assert_close(net.head(virtual.hidden.flatten(0, 1), 2).unflatten(0, (5, 2)), logits)
        part = virtual[torch.tensor([4, 1])]
        assert torch.equal(part.logits, logits[[4, 1]])
