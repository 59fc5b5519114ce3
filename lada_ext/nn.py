"""Spatial transformers as layers. However its localisation network is driven, `STN` keeps the image in sight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lada_ext.affine_sample import Numbers, affine_sample

__all__ = ["STN", "AffineSample"]


class AffineSample(nn.Module):
    """`lada_ext.affine_sample` as a layer; the statistics of `normalize` move along as buffers.

    Args:
        size, mode, padding_mode, align_corners, normalize: as of `lada_ext.affine_sample`.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        size: Sequence[int] | None = None,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = False,
        normalize: tuple[Numbers, Numbers] | None = None,
    ) -> None:
        super().__init__()
        self.size, self.mode, self.padding_mode, self.align_corners = size, mode, padding_mode, align_corners
        mean, std = normalize or (None, None)
        self.register_buffer("mean", None if mean is None else torch.as_tensor(mean), persistent=False)
        self.register_buffer("std", None if std is None else torch.as_tensor(std), persistent=False)

    def forward(self, image: Tensor, theta: Tensor) -> Tensor:
        normalize = None if self.mean is None or self.std is None else (self.mean, self.std)
        return affine_sample(image, theta, self.size, self.mode, self.padding_mode, self.align_corners, normalize)

    def extra_repr(self) -> str:
        return f"size={self.size}, {self.mode}, {self.padding_mode}, align_corners={self.align_corners}"


class STN(nn.Module):
    """A spatial transformer that starts at the identity and never loses the image from sight.

    The middle of the output that makes up `bound` of its area always shows the image, whatever the localisation network
    says. With q = sqrt(bound) that middle is the square |x|, |y| <= q, and of the raw numbers r of the network

        linear part     L = I + d tanh(r),  d = (1 / q - 1) / 2       so scale, rotation and shear are bounded,
        translation     t_i = (1 - q (|L_i1| + |L_i2|)) tanh(r)       what is left until the square would leave.

    With the default, entries of L are within 1/2 of the identity and it enlarges the view at most to twice the image.

    Args:
        localisation: image -> (B, 6 K) raw numbers, K maps [r11 r12 r1t; r21 r22 r2t]. Its last ``nn.Linear`` is set to
            zero, which is the identity.
        bound: the least part of the output's area that shows the image, between 0 and 1.
        sample: how the image is sampled; default ``AffineSample()``.

    Raises:
        ValueError: bound is not between 0 and 1, or localisation does not end in an ``nn.Linear`` of 6 K outputs.
    """

    identity: Tensor

    def __init__(self, localisation: nn.Module, bound: float = 0.25, sample: AffineSample | None = None) -> None:
        super().__init__()
        if not 0 < bound < 1:
            raise ValueError(f"STN: bound must lie between 0 and 1, got {bound}")
        last: nn.Linear | None = None
        for module in localisation.modules():
            last = module if isinstance(module, nn.Linear) else last
        if last is None or last.out_features % 6 != 0:
            raise ValueError(f"STN: localisation must end in an nn.Linear of 6 outputs for each map, ends in {last}")
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.localisation, self.bound, self.maps = localisation, bound, last.out_features // 6
        self.sample = AffineSample() if sample is None else sample
        self.register_buffer("identity", torch.eye(2), persistent=False)

    def theta(self, image: Tensor) -> Tensor:
        """(B, 2, 3) maps of images (B, channels, H, W), or (B, K, 2, 3) where the network gives K > 1."""
        raw = self.localisation(image).unflatten(-1, (self.maps, 2, 3)).tanh()
        q = math.sqrt(self.bound)
        linear = self.identity + (1 / q - 1) / 2 * raw[..., :2]
        translation = (1 - q * linear.abs().sum(-1, keepdim=True)) * raw[..., 2:]
        theta = torch.cat([linear, translation], -1)
        return theta if self.maps > 1 else theta.squeeze(1)

    def forward(self, image: Tensor) -> Tensor:
        """The images under their maps: (B, channels, h, w), or (B, K, channels, h, w)."""
        out: Tensor = self.sample(image, self.theta(image))
        return out

    def extra_repr(self) -> str:
        return f"bound={self.bound}"
