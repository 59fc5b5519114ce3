"""The affine end of a frozen network as one matrix: the same logits and gradients, and never that of other weights."""

from __future__ import annotations

import pytest
import torch
from lada_al import affine_tail, models
from lada_al.augment.mix import Mix
from lada_al.models import SplitModel, frozen
from lada_al.view import View
from torch import Tensor, nn

import lada_ext


def net_of(name: str) -> SplitModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = models.MODELS[name](3, (16, 16), 7, 0.5)
    return net.to(memory_format=torch.channels_last)


def mixtures(net: SplitModel, k: int, requires_grad: bool = False) -> tuple[View, Tensor]:
    """Views of given features as if they had been mixed, (P, N, ...)."""
    generator = torch.Generator().manual_seed(k)
    h = torch.randn(4, 3, *net.shapes((3, 16, 16))[k], generator=generator).requires_grad_(requires_grad)
    images = torch.zeros(4, 3, 16, 16)
    return View(net, k, mix=lambda step: net.run(h.flatten(0, 1), net.cut(k), step).unflatten(0, (4, 3)), leading=2,
                parents=(View(net, k, image=images),)), h  # fmt: skip


def one_by_one(net: SplitModel, h: Tensor, k: int) -> Tensor:
    return net.head(h.flatten(0, 1), k).unflatten(0, h.shape[:2])


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", models.MODELS)
def test_the_same_logits_and_gradients(name: str, k: int) -> None:
    net = net_of(name)
    with frozen(net):
        assert net.tail() < net.cut(net.depth - 1)
        virtual, h = mixtures(net, k, requires_grad=True)
        slope = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(9))
        (got,) = torch.autograd.grad((virtual.logits * slope).sum(), h)
        expected = one_by_one(net, h, k)
        torch.testing.assert_close(virtual.logits, expected, rtol=1e-4, atol=1e-5)
        (wanted,) = torch.autograd.grad((expected * slope).sum(), h)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        assert (net.kept_tail is not None) == (k == 1 or name == "resnet18")  # at k = 2 of small, logits are mixed


def test_other_weights_make_another_one() -> None:
    net = net_of("small")
    with frozen(net), torch.no_grad():
        for change in (lambda: None, lambda: net.stages[-1].weight.mul_(2), lambda: net.stages[-1].bias.add_(1)):
            change()
            virtual, h = mixtures(net, 1)
            torch.testing.assert_close(virtual.logits, one_by_one(net, h, 1), rtol=1e-4, atol=1e-5)


def test_training_by_a_fused_optimiser_makes_another_one() -> None:
    """It changes weights in a way that torch's own counters do not see."""
    net = net_of("small")
    with frozen(net), torch.no_grad():
        mixtures(net, 1)[0].logits  # noqa: B018 - it is kept
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(net.parameters(), lr=0.1, fused=True).step()
    net.version += 1
    with frozen(net), torch.no_grad():
        virtual, h = mixtures(net, 1)
        torch.testing.assert_close(virtual.logits, one_by_one(net, h, 1), rtol=1e-4, atol=1e-4)


def test_weights_that_learn_are_not_put_aside() -> None:
    net = net_of("small")
    net.stages[-1].dropout = 0.0
    virtual, _ = mixtures(net, 1)
    virtual.logits.sum().backward()
    assert net.kept_tail is None
    assert net.stages[-1].weight.grad is not None


def test_it_is_kept_and_left_where_it_would_not_pay() -> None:
    net = net_of("small")
    shape = torch.Size(net.shapes((3, 16, 16))[2])
    with frozen(net):
        start = net.tail()
        first = affine_tail.of(net, start, shape)
        assert first is affine_tail.of(net, start, shape)
        assert affine_tail.of(net, net.cut(net.depth) - 1, torch.Size([512])) is None  # one layer is one matrix
        assert affine_tail.of(net, 0, torch.Size([3, 16, 16])) is None  # activations lie between
        net.shortcuts = False
        assert affine_tail.of(net, start, shape) is None
    many = models.small(1, (8, 8), affine_tail.MOST_CLASSES + 1).to(memory_format=torch.channels_last)
    with frozen(many):
        assert affine_tail.of(many, many.tail(), torch.Size([32, 4, 4])) is None


def test_the_chain_may_end_in_something_else() -> None:
    net = SplitModel([nn.Conv2d(1, 2, 3), nn.ReLU()])
    with frozen(net):
        assert net.tail() == net.cut(net.depth)


def perceptron() -> SplitModel:
    """Features of 48 numbers, as a frozen encoder gives them, and one hidden layer."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return SplitModel([nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 48), nn.ReLU()), nn.Linear(48, 7)])


def mixed_pairs(net: SplitModel, k: int, tau: Tensor) -> View:
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    views = [
        View(net, k, image=part.to(memory_format=torch.channels_last), ids=torch.arange(4)) for part in images.split(4)
    ]
    return Mix(1.0, 1.0, {})(*views, tau=tau, key=lada_ext.make_key(5), samples=3)


@pytest.mark.parametrize(
    ("net", "k", "one_op"),
    [
        (lambda: net_of("small"), 1, True),
        (perceptron, 0, True),
        (lambda: net_of("small"), 0, False),
        (lambda: net_of("small"), 2, False),
        (lambda: net_of("resnet18"), 1, False),
    ],
)
def test_mixtures_in_front_of_the_last_relu_are_never_made(monkeypatch, net, k, one_op) -> None:
    calls = []
    op = lada_ext.relu_mix_logits
    monkeypatch.setattr(lada_ext, "relu_mix_logits", lambda *given: calls.append(1) or op(*given))
    net, results = net(), []
    for net.shortcuts in (True, False):
        with frozen(net):
            tau = torch.tensor([0.3, 0.7, 1.0, 2.0], requires_grad=True)
            virtual = mixed_pairs(net, k, tau)
            slope = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(9))
            (gradient,) = torch.autograd.grad((virtual.logits * slope).sum(), tau)
            results.append((virtual.logits.detach(), gradient, virtual.penultimate.detach()))
        assert len(calls) == one_op
    for shortcut, plain in zip(*results, strict=True):
        torch.testing.assert_close(shortcut, plain, rtol=1e-3, atol=1e-4)


def test_a_classifier_that_learns_makes_its_mixtures() -> None:
    net = perceptron().train()
    mixed_pairs(net, 0, torch.full((4,), 0.5)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
