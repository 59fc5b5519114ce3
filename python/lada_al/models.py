"""Networks that can be cut: f^{0:k} maps images to the features h^k, f^{k:K} maps those to logits, for any k."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lada_al.ranks import BatchNormOfAll

if TYPE_CHECKING:
    from lada_al.affine_tail import AffineTail
    from lada_al.wrap import WrappedModel


@dataclass(frozen=True)
class Network:
    """A network that a method needs besides the classifier."""

    name: str
    module: nn.Module
    in_table: bool = True
    """Whether the paper's Table 1 counts it."""

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())


class SplitModel(nn.Module):
    """A classifier as a chain of stages; cutting at k runs the first k stages or the rest.

    `steps` are the modules of the chain, those of all stages one after the other.
    `version` counts the weight updates of `train.fit`, so that features computed before one are not used after it.
    Without `shortcuts` no part of it counts as affine: instances are mixed where they are asked to be.
    With `launches_the_same` it promises that training steps on batches of one shape launch the same kernels, and decide
    nothing in Python, so that on a GPU they can be recorded and replayed.
    """

    def __init__(self, stages: Sequence[nn.Module], *, launches_the_same: bool = False) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.version = 0
        self.shortcuts = True
        self.launches_the_same = launches_the_same
        self.steps = steps_of(stages)
        self.kept_tail: AffineTail | None = None
        self._cuts = [len(steps_of(stages[:k])) for k in range(len(stages) + 1)]

    @staticmethod
    def wrap(
        module: nn.Module, at: Sequence[str] | None = None, shape: tuple[int, int, int] = (3, 224, 224)
    ) -> WrappedModel:
        """Any image classifier as a SplitModel, unchanged inside: torchvision, timm, Hugging Face, your own.

        Args:
            module: takes images (B, *shape) and returns logits (B, C), or an output that has them in `.logits`.
            at: names of modules of it, in the order in which they run; layer k is the output of the k-th. By default
                they are found: the ends of its blocks. The last linear layer is always cut off besides, so that
                h^(K-1) is what it sees.
            shape: channels, height and width of an image.

        Raises:
            UsageError: the logits depend on more than the output of a module named in `at`, as where a skip connection
                leads around it; or there is no such module.
        """
        from lada_al.wrap import WrappedModel

        return WrappedModel(module, at, shape)

    def cut(self, k: int) -> int:
        """How many modules of the chain run before h^k."""
        return self._cuts[k]

    def run(self, h: Tensor, start: int, stop: int) -> Tensor:
        """The modules `start` to `stop` of the chain."""
        for step in self.steps[start:stop]:
            h = step(h)
        return h

    def affine_reach(self, start: int, stop: int) -> int:
        """The last module, at most `stop`, up to which the chain from `start` is an affine map as the net is now.

        Mixing before an affine map and mixing after it are the same, since lam + (1 - lam) = 1.
        """
        while self.shortcuts and start < stop and _is_affine(self.steps[start]):
            start += 1
        return start

    def rectifies(self, step: int) -> bool:
        """Whether this module of the chain is known to be a ReLU."""
        return step < len(self.steps) and does_as(self.steps[step], nn.ReLU)

    def tail(self) -> int:
        """The first module of the affine end of the chain, as the net is now; behind all of them if there is none."""
        start = end = self.cut(self.depth)
        while start > 0 and self.affine_reach(start - 1, end) == end:
            start -= 1
        return start

    def mixing_reach(self, k: int) -> int:
        """The last module behind layer k up to which mixing is mixing h^k, as the net is now."""
        return self.affine_reach(self.cut(k), self.cut(self.depth))

    def mixes_logits(self, k: int) -> bool:
        """Whether mixing h^k is mixing logits: f^{k:K} is affine as the net is now."""
        return self.mixing_reach(k) == self.cut(self.depth)

    def mixing_layers(self) -> list[int]:
        """The layers at which mixing is mixing logits, once the net is frozen."""
        with frozen(self):
            return [k for k in range(self.depth) if self.mixes_logits(k)]

    @property
    def depth(self) -> int:
        """K: the number of stages."""
        return len(self.stages)

    def features(self, image: Tensor, k: int) -> Tensor:
        """h^k(x) = f^{0:k}(x), Eq. 8."""
        return self.run(image, 0, self.cut(k))

    def head(self, hidden: Tensor, k: int) -> Tensor:
        """Logits f^{k:K}(h)."""
        return self.run(hidden, self.cut(k), self.cut(self.depth))

    def forward(self, image: Tensor) -> Tensor:
        return self.run(image, 0, self.cut(self.depth))

    def shapes(self, image_shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
        """Shapes of h^0 to h^K of one image."""
        h = next(self.parameters()).new_zeros(1, *image_shape)
        shapes = [tuple(h.shape[1:])]
        with frozen(self), torch.no_grad():
            for stage in self.stages:
                h = stage(h)
                shapes.append(tuple(h.shape[1:]))
        return shapes


AFFINE = nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity
NORMALISATIONS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNormOfAll
DROPOUTS = nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout


def steps_of(stages: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules that stages run one after the other."""
    return [step for stage in stages for step in (steps_of(stage) if type(stage) is nn.Sequential else [stage])]


def does_as(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether it does what modules of these types do: what is derived from one may do more, and so does what has hooks,
    as of pruning or spectral normalisation."""
    return type(module) in kinds and not (module._forward_pre_hooks or module._forward_hooks)


def _is_affine(module: nn.Module) -> bool:
    if does_as(module, *NORMALISATIONS):
        return not module.training and module.running_mean is not None
    if does_as(module, Classifier):
        return not (module.dropout and module.training)
    return does_as(module, *AFFINE) or (does_as(module, *DROPOUTS) and not module.training)


@contextmanager
def frozen(*nets: nn.Module | None) -> Iterator[None]:
    """Evaluation mode and no gradients to the weights inside the block; both are put back after it.

    Without weight gradients, a backward pass through a network computes only the gradient to its input.
    """
    whole = nn.ModuleList(net for net in nets if net is not None)
    needs = {parameter: parameter.requires_grad for parameter in whole.parameters()}
    with evaluating(whole):
        whole.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, need in needs.items():
                parameter.requires_grad_(need)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; gradients are as ever."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class Classifier(nn.Linear):
    """The last layer. In training, its input goes through dropout, which methods that sample it afterwards need.

    A `mask` that is set, as `draw_mask` makes them, is what dropout uses in the place of one of its own.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__(inputs, outputs)
        self.dropout = dropout
        self.mask: Tensor | None = None

    def draw_mask(self, batch: int) -> Tensor:
        """The factors (batch, inputs) that dropout would draw for such an input now."""
        return F.dropout(self.weight.new_ones(batch, self.in_features), self.dropout, self.training)

    def forward(self, x: Tensor) -> Tensor:
        kept = F.dropout(x, self.dropout, self.training) if self.mask is None else x * self.mask
        return super().forward(kept)


def small(channels: int, size: tuple[int, int], classes: int, dropout: float = 0.0) -> SplitModel:
    """A convolutional net that trains in seconds on a CPU. Its maps at k = 1 and k = 2 have half the image's size."""
    height, width = size[0] // 4, size[1] // 4
    return SplitModel(
        [
            nn.Sequential(_conv3x3(channels, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2)),
            nn.Sequential(_conv3x3(8, 32), nn.BatchNorm2d(32), nn.ReLU()),
            nn.Sequential(nn.AvgPool2d(2), nn.Flatten()),
            Classifier(32 * height * width, classes, dropout),
        ],
        launches_the_same=True,
    )


def resnet18(channels: int, size: tuple[int, int], classes: int, dropout: float = 0.0) -> SplitModel:
    """ResNet-18 for small images: 3x3 stem, no max-pool. k = 1 is after the stem, k = 2 after the first layer."""
    del size
    return SplitModel(
        [
            nn.Sequential(_conv3x3(channels, 64), nn.BatchNorm2d(64), nn.ReLU()),
            nn.Sequential(_Residual(64, 64), _Residual(64, 64)),
            nn.Sequential(_Residual(64, 128, stride=2), _Residual(128, 128)),
            nn.Sequential(_Residual(128, 256, stride=2), _Residual(256, 256)),
            nn.Sequential(_Residual(256, 512, stride=2), _Residual(512, 512), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            Classifier(512, classes, dropout),
        ],
        launches_the_same=True,
    )


MODELS: dict[str, Callable[[int, tuple[int, int], int, float], SplitModel]] = {"small": small, "resnet18": resnet18}


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _conv3x3(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _conv3x3(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.side: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.side = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return (self.main(x) + self.side(x)).relu()
