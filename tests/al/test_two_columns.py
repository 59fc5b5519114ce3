"""TwoColumns gives what nn.Conv2d gives, on the way that pays and off it."""

from __future__ import annotations

import copy

import pytest
import torch
from lada_al.two_columns import TwoColumns
from torch import nn
from torch.nn import functional as F  # noqa: N812


@pytest.fixture(params=["AVX512", "AVX2"])
def convolutions(request, monkeypatch):
    """How often a convolution was asked for which stride."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    strides, convolve = [], F.conv2d

    def counted(x, weight, bias=None, stride=1, *rest):
        strides.append(stride)
        return convolve(x, weight, bias, stride, *rest)

    monkeypatch.setattr(F, "conv2d", counted)
    return request.param, strides


@pytest.mark.parametrize("columns", [6, 7])
@pytest.mark.parametrize("maps", [6, 9])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", [2, 0])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_outputs_and_gradients_are_those_of_a_convolution(convolutions, columns, maps, bias, padding, memory_format):
    capability, strides = convolutions
    torch.manual_seed(0)
    ours = TwoColumns(4, maps, 5, padding=padding, bias=bias).to(memory_format=memory_format)
    plain = nn.Conv2d(4, maps, 5, padding=padding, bias=bias)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 4, 5, columns).to(memory_format=memory_format)
    xs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outs = [net(z) for net, z in zip((ours, plain), xs, strict=True)]
    torch.testing.assert_close(*outs)
    for out in outs:
        (out**2).sum().backward()
    for a, b in zip([*ours.parameters(), xs[0]], [*plain.parameters(), xs[1]], strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    even = (columns + 2 * padding - 4) % 2 == 0
    assert ((1, 2) in strides) == (capability == "AVX512" and even and maps == 6)


def test_the_weights_begin_as_those_of_a_convolution():
    torch.manual_seed(1)
    ours = TwoColumns(4, 6, 5, padding=2)
    torch.manual_seed(1)
    plain = nn.Conv2d(4, 6, 5, padding=2)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert copy.deepcopy(ours).state_dict().keys() == plain.state_dict().keys()
