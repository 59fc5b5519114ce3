"""Fewer layers of a frozen network: batch normalisation is folded into the convolutions before it.

In evaluation mode it multiplies and shifts each channel by constants, which the convolution's own weights can do as
well. Tens of thousands of virtual instances go through the network while a policy is learned, forward and backward, and
every layer less is a pass less over their features. Where ReLU and pooling follow, all of them become one. The results
are the same up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lada_al.models import SplitModel, steps_of
from lada_al.ranks import BatchNormOfAll
from lada_ext.nn import ConvReluPool


def folded(net: SplitModel) -> SplitModel:
    """A copy of a network in evaluation mode whose normalisations are folded; `net` itself if there are none to fold.

    A wrapped network stays as it is: what its parts are to each other is not known.
    """
    if type(net) is not SplitModel or not any(_foldable(net)):
        return net
    copied = copy.deepcopy(net)
    for parts, i, convolution, norm in list(_foldable(copied)):
        parts[i], parts[i + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
        _pool(parts, i)
    copied.steps = steps_of(copied.stages)
    return copied


def _foldable(net: SplitModel) -> Iterator[tuple[nn.Sequential, int, nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution that is followed by a normalisation which has its statistics, and where it is."""
    for parts in net.modules():
        if type(parts) is not nn.Sequential:
            continue
        for i, (first, second) in enumerate(pairwise(parts)):
            if not (_is(first, nn.Conv2d) and _is(second, nn.BatchNorm2d, BatchNormOfAll)):
                continue
            assert isinstance(first, nn.Conv2d)
            assert isinstance(second, nn.BatchNorm2d)
            if second.running_mean is not None and not second.training:
                yield parts, i, first, second


def _is(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether it does what modules of these types do: what is derived from one may do more, and so does what has hooks,
    as of pruning or spectral normalisation."""
    return type(module) in kinds and not (module._forward_pre_hooks or module._forward_hooks)


def _pool(parts: nn.Sequential, i: int) -> None:
    """One module for a folded convolution, the ReLU and the pooling behind it, if these are what follows."""
    convolution, _, *behind = parts[i : i + 4]
    if len(behind) < 2 or not (_is(behind[0], nn.ReLU) and _is(behind[1], nn.AvgPool2d)):
        return
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(behind[1], nn.AvgPool2d)
    if not (_is_plain(convolution) and _halves(behind[1])):
        return
    inputs, outputs, (height, width) = convolution.in_channels, convolution.out_channels, convolution.kernel_size
    with torch.device("meta"):  # draws no weights
        block = ConvReluPool(inputs, outputs, (height, width), int(convolution.padding[0]), pool="mean")
    block.weight, block.bias = convolution.weight, convolution.bias
    parts[i], parts[i + 2], parts[i + 3] = block, nn.Identity(), nn.Identity()


def _is_plain(convolution: nn.Conv2d) -> bool:
    """Whether it takes single steps over all channels of an image with as many zeros on each side."""
    steps = (*convolution.stride, *convolution.dilation, convolution.groups)
    return set(steps) == {1} and convolution.padding_mode == "zeros" and len({*convolution.padding}) == 1


def _halves(pooling: nn.AvgPool2d) -> bool:
    """Whether it is the mean of whole windows of 2 x 2."""
    sizes = {pooling.kernel_size, pooling.stride}
    whole = pooling.padding in (0, (0, 0)) and not pooling.ceil_mode and pooling.divisor_override is None
    return whole and sizes <= {2, (2, 2)}
