"""Folding normalisations into convolutions changes a frozen network's layers, and nothing that it gives."""

from __future__ import annotations

import copy

import pytest
import torch
from lada_al import models
from lada_al.folding import folded
from lada_al.models import SplitModel, frozen
from lada_al.ranks import BatchNormOfAll
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from lada_ext.nn import ConvReluPool

SHAPE = (3, 20, 20)


def trained(name: str) -> SplitModel:
    """In float64, with statistics and weights of normalisations as after training."""
    torch.manual_seed(0)
    net = models.MODELS[name](SHAPE[0], SHAPE[1:], 4, 0.0).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert values is not None
                values.uniform_(0.5, 2.0)
    return net


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_every_layer_gives_the_same_forward_and_backward(name: str) -> None:
    net = trained(name)
    image = torch.randn(5, *SHAPE, dtype=torch.float64)
    with frozen(net):
        lighter = folded(net)
        ways = []
        for one in (net, lighter):
            x = image.clone().requires_grad_()
            features = [one.features(x, k) for k in range(one.depth + 1)]
            assert torch.equal(one.head(features[2], 2), features[-1])
            ways.append((*features, torch.autograd.grad(features[-1].square().sum(), x)[0]))
    for ours, theirs in zip(*ways, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormOfAll])
@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_no_normalisation_is_left_and_the_network_keeps_its_own(name: str, kind: type[nn.Module]) -> None:
    """Nor of those that several processes train with."""
    net = trained(name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = kind
    before = copy.deepcopy(net.state_dict())
    with frozen(net):
        lighter = folded(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in lighter.modules())
    assert not any(parameter.requires_grad for parameter in lighter.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert (len(lighter.steps), lighter.version) == (len(net.steps), net.version)


@pytest.mark.parametrize(
    ("convolution", "pooling", "one"),
    [
        ({}, {"kernel_size": 2}, True),
        ({"kernel_size": (3, 4)}, {"kernel_size": (2, 2)}, True),
        ({"stride": 2}, {"kernel_size": 2}, False),
        ({"dilation": 2}, {"kernel_size": 2}, False),
        ({"groups": 3}, {"kernel_size": 2}, False),
        ({"padding": (0, 1)}, {"kernel_size": 2}, False),
        ({"padding": "same"}, {"kernel_size": 2}, False),
        ({"padding": 1, "padding_mode": "circular"}, {"kernel_size": 2}, False),
        ({}, {"kernel_size": 3}, False),
        ({}, {"kernel_size": 2, "stride": 1}, False),
        ({}, {"kernel_size": 2, "padding": 1}, False),
        ({}, {"kernel_size": 2, "ceil_mode": True}, False),
        ({}, {"kernel_size": 2, "divisor_override": 3}, False),
    ],
)
def test_relu_and_pooling_behind_become_one_with_it(convolution: dict, pooling: dict, one: bool) -> None:
    """If these are the pooling by 2 x 2 that the op has; the same is given either way, and no weights are drawn."""
    layers = [nn.Conv2d(**{"in_channels": 3, "out_channels": 6, "kernel_size": 3} | convolution), nn.BatchNorm2d(6)]
    net = SplitModel([nn.Sequential(*layers, nn.ReLU(), nn.AvgPool2d(**pooling)), nn.Flatten()]).double()
    image, state = torch.randn(2, *SHAPE, dtype=torch.float64), torch.get_rng_state()
    with frozen(net):
        lighter = folded(net)
        torch.testing.assert_close(lighter(image), net(image))
    assert any(isinstance(module, ConvReluPool) for module in lighter.modules()) == one
    assert len(lighter.steps) == len(net.steps)
    assert torch.equal(torch.get_rng_state(), state)


class Twice(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


@pytest.mark.parametrize(
    ("name", "part", "foldable"),
    [
        ("convolution", spectral_norm(nn.Conv2d(3, 4, 3)), False),
        ("norm", Twice(4), False),
        ("norm", hooked(nn.BatchNorm2d(4)), False),
        ("relu", hooked(nn.ReLU()), True),
        ("pooling", hooked(nn.AvgPool2d(2)), True),
    ],
)
def test_modules_that_do_more_keep_doing_it(name: str, part: nn.Module, foldable: bool) -> None:
    """As what is derived from a normalisation, or has hooks."""
    parts: dict[str, nn.Module] = {
        "convolution": nn.Conv2d(3, 4, 3),
        "norm": nn.BatchNorm2d(4),
        "relu": nn.ReLU(),
        "pooling": nn.AvgPool2d(2),
    }
    net = SplitModel([nn.Sequential(*(parts | {name: part}).values()), nn.Flatten()]).double()
    image = torch.randn(2, *SHAPE, dtype=torch.float64)
    net(image)
    with frozen(net):
        lighter = folded(net)
        torch.testing.assert_close(lighter(image), net(image))
    assert (lighter is not net) == foldable
    assert not any(isinstance(module, ConvReluPool) for module in lighter.modules())


def test_a_block_that_rectifies_is_no_affine_map() -> None:
    """Though it is a convolution by descent: mixing images is not mixing what comes out of it."""
    net = trained("small")
    with frozen(net):
        lighter = folded(net)
        assert isinstance(lighter.steps[0], ConvReluPool)
        assert lighter.affine_reach(0, lighter.cut(lighter.depth)) == 0
        assert lighter.tail() == net.tail()


def test_what_cannot_be_folded_stays_as_it_is() -> None:
    in_training = trained("small")
    assert folded(in_training) is in_training
    without_statistics = SplitModel([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()])
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 18 * 18, 5)]
    wrapped = SplitModel.wrap(nn.Sequential(*layers), shape=SHAPE)
    for net in (without_statistics, wrapped):
        with frozen(net):
            assert folded(net) is net
