"""The ops as modules: mixup, the blocks of small convolutional nets, and spatial transformers, of which `STN` keeps the
image in sight however it is driven."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lada_ext._images import Numbers, check_pair
from lada_ext._library import check_tensor, score_dtype
from lada_ext.affine_sample import affine_sample
from lada_ext.beta_mix import Gradient, beta_mix_pairs, check_gradient
from lada_ext.conv_relu_pool import Pool, check_pool, conv_relu_pool, pooled
from lada_ext.keys import make_key

__all__ = ["STN", "AffineSample", "BetaMix", "ConvReluPool"]


class BetaMix(nn.Module):
    """Mixup as a layer: mixes each instance of a batch with another one of it, lam ~ Beta(tau, tau).

    Works on images and on hidden features (manifold mixup) alike, and draws one lam a pair, or several; in evaluation
    mode too. lam follows the key that `forward` is given, or ``torch.manual_seed``; partners follow the latter, if no
    pairs are given.

    Args:
        tau: concentration; small mixes little, 1 is uniform, large is close to one half.
        samples: lam drawn for each pair, which become an axis of the result; None for one lam and no axis.
        learn: makes log tau a parameter, ``log_tau``, with the gradient `grad` (see `beta_sample`).
        grad: "implicit" or "pathwise".
    """

    def __init__(
        self, tau: float = 1.0, samples: int | None = None, learn: bool = False, grad: Gradient = "implicit"
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise ValueError(f"BetaMix: tau must be positive, got {tau}")
        if samples is not None and (not isinstance(samples, int) or samples < 1):
            raise ValueError(f"BetaMix: samples must be an int of at least 1, or None, got {samples!r}")
        check_gradient("BetaMix", grad)
        self.tau, self.samples, self.grad = tau, samples, grad
        self.log_tau = nn.Parameter(torch.empty(())) if learn else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A learned tau is what it began with."""
        if self.log_tau is not None:
            nn.init.constant_(self.log_tau, math.log(self.tau))

    def forward(
        self, h: Tensor, pairs: Tensor | None = None, key: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mixes rows of `h`.

        Args:
            h: (B, ...) images or features.
            pairs: (P, 2) int64, which rows to mix; by default each with a partner from a random permutation, P = B.
            key: int64[2]; by default a new one.

        Returns:
            mixed, (P, ...) or (P, samples, ...); lam, (P,) or (P, samples), the weights of ``h[pairs[:, 0]]``; pairs.
        """
        check_tensor("BetaMix", "h", h)
        if h.dim() == 0:
            raise ValueError("BetaMix: h must have shape (B, ...), got a scalar")
        if pairs is None:
            partner = torch.randperm(h.shape[0], device=h.device)
            pairs = torch.stack([torch.arange(h.shape[0], device=h.device), partner], 1)
        key = make_key(device=h.device) if key is None else key
        tau, is_log = (self.tau, False) if self.log_tau is None else (self.log_tau, True)
        mixed, lam = beta_mix_pairs(h, pairs, tau, self.samples or 1, key, grad=self.grad, log_tau=is_log)
        return (mixed.squeeze(1), lam.squeeze(1), pairs) if self.samples is None else (mixed, lam, pairs)

    def extra_repr(self) -> str:
        tau = self.tau if self.log_tau is None or self.log_tau.is_meta else self.log_tau.exp().item()
        return f"tau={tau:.4g}, samples={self.samples}, grad={self.grad!r}"


class ConvReluPool(nn.Conv2d):
    """A convolution of stride 1 and zero padding, ReLU, and pooling by 2 x 2.

    On a CPU it is `lada_ext.conv_relu_pool` where that is faster, elsewhere the composition; both are the same up to
    rounding, but under autocast the op keeps the wider dtype of image and weight. The op is for few outputs or
    channels: with 16 outputs of 8 channels oneDNN's vectors are full.

    Args:
        in_channels, out_channels, kernel_size, padding, bias: as of `torch.nn.Conv2d`, of which it has the parameters.
        pool: "max" or "mean".

    Attributes:
        composed: True or False takes the composition on a CPU, or the op; None the faster one.
    """

    composed: bool | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        padding: int = 0,
        bias: bool = True,
        pool: Pool = "max",
    ) -> None:
        if not isinstance(padding, int):
            raise TypeError(f"ConvReluPool: padding must be an int, the same on each side, got {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, bias=bias)
        check_pool("ConvReluPool", pool)
        self.pool: Pool = pool

    def forward(self, image: Tensor) -> Tensor:
        """Maps (B, C, H, W) to half as many rows and columns as the convolution has, rounded down."""
        composed = (self.out_channels >= 16 and self.in_channels >= 8) if self.composed is None else self.composed
        if image.device.type == "cpu" and not composed:
            return conv_relu_pool(image, self.weight, self.bias, int(self.padding[0]), self.pool)
        return pooled(F.relu(super().forward(image)), self.pool)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pool={self.pool!r}"


def _numbers(normalize: tuple[Numbers, Numbers]) -> list[list[float]]:
    """Mean and standard deviation as they were given, in numbers of Python."""
    check_pair("AffineSample", normalize)
    lists = []
    for name, each in zip(("mean", "std"), normalize, strict=True):
        numbers = torch.as_tensor(each, dtype=torch.float64, device="cpu")
        if numbers.dim() != 1:
            raise ValueError(f"AffineSample: {name} must have shape (channels,), got {list(numbers.shape)}")
        lists.append(numbers.tolist())
    return lists


class AffineSample(nn.Module):
    """`lada_ext.affine_sample` as a layer; the statistics of `normalize` move along, in float32 or float64.

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
        self.statistics = None if normalize is None else _numbers(normalize)
        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        for name, numbers in zip(("mean", "std"), self.statistics or (None, None), strict=True):
            made = None if numbers is None else torch.tensor(numbers, dtype=dtype)
            self.register_buffer(name, made, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AffineSample:
        """Moved or cast; statistics are made anew, since half precision or the meta device would have lost them."""
        super()._apply(fn, recurse)
        if self.statistics is not None:
            assert self.mean is not None
            dtype = torch.float64 if self.mean.dtype == torch.float64 else torch.float32
            self.mean, self.std = (torch.tensor(n, dtype=dtype, device=self.mean.device) for n in self.statistics)
        return self

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
        ValueError: bound is not between 0 and 1, or localisation does not end in an ``nn.Linear`` of 6 K outputs, or
            that one's weight is lazy, or normalised by a parametrization.
    """

    def __init__(self, localisation: nn.Module, bound: float = 0.25, sample: AffineSample | None = None) -> None:
        super().__init__()
        if not 0 < bound < 1:
            raise ValueError(f"STN: bound must lie between 0 and 1, got {bound}")
        last: nn.Linear | None = None
        for module in localisation.modules():
            last = module if isinstance(module, nn.Linear) else last
        if last is None or last.out_features == 0 or last.out_features % 6 != 0:
            raise ValueError(f"STN: localisation must end in an nn.Linear of 6 outputs for each map, ends in {last}")
        if type(last.weight) is not nn.Parameter:
            raise ValueError(
                f"STN: the weight of the last nn.Linear must be a plain parameter, to begin at zero: {last}"
            )
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.localisation, self.bound, self.maps = localisation, bound, last.out_features // 6
        self.sample = AffineSample() if sample is None else sample

    def theta(self, image: Tensor) -> Tensor:
        """(B, 2, 3) maps of images (B, channels, H, W), or (B, K, 2, 3) where the network gives K > 1; in float32, or
        float64 if the network is. In half precision, as under autocast, a map would be off by a pixel of 256."""
        raw = self.localisation(image).unflatten(-1, (self.maps, 2, 3))
        raw = raw.to(score_dtype(raw)).tanh()
        q = math.sqrt(self.bound)
        linear = torch.eye(2, dtype=raw.dtype, device=raw.device) + (1 / q - 1) / 2 * raw[..., :2]
        translation = (1 - q * linear.abs().sum(-1, keepdim=True)) * raw[..., 2:]
        theta = torch.cat([linear, translation], -1)
        return theta if self.maps > 1 else theta.squeeze(1)

    def forward(self, image: Tensor) -> Tensor:
        """The images under their maps: (B, channels, h, w), or (B, K, channels, h, w)."""
        out: Tensor = self.sample(image, self.theta(image))
        return out

    def extra_repr(self) -> str:
        return f"bound={self.bound}"
