"""Batch normalisation of a frozen network, folded into the convolutions before it.

In evaluation mode it multiplies and shifts each channel by constants, which the convolution's own weights can do as
well. Tens of thousands of virtual instances go through the network while a policy is learned, forward and backward, and
every layer less is a pass less over their features. The results are the same up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lada_al.models import SplitModel, steps_of


def folded(net: SplitModel) -> SplitModel:
    """A copy of a network in evaluation mode whose normalisations are folded; `net` itself if there are none to fold.

    A wrapped network stays as it is: what its parts are to each other is not known.
    """
    if type(net) is not SplitModel or not any(_foldable(net)):
        return net
    copied = copy.deepcopy(net)
    for parts, i, convolution, norm in list(_foldable(copied)):
        parts[i], parts[i + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    copied.steps = steps_of(copied.stages)
    return copied


def _foldable(net: SplitModel) -> Iterator[tuple[nn.Sequential, int, nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution that is followed by a normalisation which has its statistics, and where it is."""
    for parts in net.modules():
        if type(parts) is not nn.Sequential:
            continue
        for i, (first, second) in enumerate(pairwise(parts)):
            if type(first) is not nn.Conv2d or not isinstance(second, nn.BatchNorm2d):
                continue
            if second.running_mean is not None and not second.training:
                yield parts, i, first, second
