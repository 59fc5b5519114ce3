"""Classifiers of others as SplitModels: their halves compose to the whole, in value and in gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lada_al.data import Dataset
from lada_al.errors import UsageError
from lada_al.models import SplitModel, frozen, small
from torch import Tensor, nn
from torchvision import models

SHAPE = (3, 64, 64)


def timm_model(name: str, **options: int) -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    return timm.create_model(name, num_classes=7, **options)


def hugging_face() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(
        image_size=64, num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64, num_labels=7
    )
    return transformers.ViTForImageClassification(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: models.resnet18(num_classes=7),
    "mobilenet": lambda: models.mobilenet_v3_small(num_classes=7),
    "vit": lambda: models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=7),
    "densenet": lambda: models.densenet121(num_classes=7),
    "timm resnet": lambda: timm_model("resnet10t"),
    "timm vit": lambda: timm_model("vit_tiny_patch16_224", img_size=64, depth=3),
    "hugging face": hugging_face,
}


class Skip(nn.Module):
    """Something leads around `inner`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(12, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1))
        return self.last(h + self.inner(h))


class Twice(Skip):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.inner(self.first(x.flatten(1)))))


class Rounded(nn.Module):
    """Its output is no longer floating."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3 * 64 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1)).long()


class Squeezed(Rounded):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1)).squeeze()


def not_a_number() -> nn.Module:
    module = models.resnet18(num_classes=7)
    nn.init.constant_(module.fc.weight, torch.nan)
    return module


class Impossible(Skip):
    """Its last class is impossible."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), torch.full((len(x), 1), -torch.inf)], 1)


@pytest.mark.parametrize("name", MODELS)
def test_the_halves_compose_to_the_whole_at_every_cut(name: str) -> None:
    torch.manual_seed(0)
    module = MODELS[name]()
    net = SplitModel.wrap(module, shape=SHAPE)
    assert net.depth >= 3
    image = torch.randn(4, *SHAPE)
    with frozen(net), torch.no_grad():
        whole = net(image)
        assert net.shapes(SHAPE)[-1] == whole.shape[1:] == (7,)
        for k in range(net.depth + 1):
            h = net.features(image, k)
            assert h.shape[1:] == net.shapes(SHAPE)[k]
            torch.testing.assert_close(net.head(h, k), whole, rtol=1e-5, atol=1e-5)


def test_the_gradient_to_features_and_weights_is_that_of_the_module() -> None:
    torch.manual_seed(0)
    module = models.resnet18(num_classes=7).eval()
    net = SplitModel.wrap(module, shape=SHAPE)
    image = torch.randn(2, *SHAPE)
    whole = torch.autograd.grad(module(image).square().sum(), module.fc.weight)[0]
    h = net.features(image, 2).detach().requires_grad_()
    by_half = torch.autograd.grad(net.head(h, 2).square().sum(), [h, module.fc.weight])
    assert by_half[0].abs().sum() > 0
    torch.testing.assert_close(by_half[1], whole, rtol=1e-4, atol=1e-5)


def test_wrapping_leaves_the_module_as_it_was() -> None:
    module = models.resnet18(num_classes=7).train()
    module.layer1.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    SplitModel.wrap(module, shape=SHAPE)
    assert module.training
    assert not module.layer1.training
    assert all("forward" not in part.__dict__ for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_named_cuts_are_taken_in_their_order() -> None:
    net = SplitModel.wrap(models.resnet18(num_classes=7), at=["layer1", "layer3"], shape=SHAPE)
    assert [str(cut) for cut in net.cuts] == ["layer1", "layer3", "before fc"]
    assert net.shapes(SHAPE)[1] == (64, 16, 16)


@pytest.mark.parametrize(
    ("module", "at", "message"),
    [
        (Skip, ["inner"], "at: inner: the logits depend on more than its output"),
        (Impossible, ["inner"], "at: inner: the logits depend on more than its output"),
        (Twice, ["inner"], "at: inner runs 2 times"),
        (Skip, ["iner"], "at: no module 'iner' runs in this model; the nearest are inner"),
        (lambda: models.resnet18(num_classes=7), ["layer2", "layer1"], "runs before layer2"),
        (nn.Flatten, None, "has no weights"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), None, r"expected floating logits of shape .* \(3, 4, 62, 62\)"),
        (
            lambda: nn.Sequential(nn.Flatten(0), nn.Linear(3 * 3 * 64 * 64, 4)),
            None,
            r"got float32 \(4,\) for a batch of 3",
        ),
        (
            lambda: models.resnet18(num_classes=1),
            None,
            r"expected logits of at least 2 classes, got shape \(3, 1\); of",
        ),
        (Squeezed, None, r"got float32 \(4,\) for a batch of 1"),
        (not_a_number, None, "model: its logits of images of noise are NaN, so where to cut it cannot be tried"),
        (Rounded, None, r"got int64 \(3, 4\) for a batch of 3"),
        (lambda: nn.Linear(3, 4), None, r"model: cannot be run on images of shape \(3, 64, 64\): mat1 and mat2"),
        (lambda: None, None, "model: expected a module of torch, got NoneType"),
    ],
    ids=[
        "skip",
        "impossible class",
        "twice",
        "typo",
        "order",
        "no weights",
        "maps",
        "no batch",
        "one class",
        "squeezed",
        "nan",
        "integers",
        "shape",
        "none",
    ],
)
def test_what_cannot_be_cut_is_refused(module: Callable[[], nn.Module], at: list[str] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SplitModel.wrap(module(), at=at, shape=(3, 2, 2) if module in (Skip, Impossible, Twice) else SHAPE)


def test_a_wrapped_net_looks_ahead_as_the_net_that_was_written_in_stages(tiny: Dataset) -> None:
    """The same weights, cut by hand and by wrapping: the same mixtures have the same logits."""
    torch.manual_seed(0)
    by_hand = small(1, (20, 20), 3)
    wrapped = SplitModel.wrap(nn.Sequential(*by_hand.stages), at=["0", "1", "2"], shape=(1, 20, 20))
    assert wrapped.shapes((1, 20, 20)) == by_hand.shapes((1, 20, 20))
    image = tiny.train_images[:6].float() / 255
    with frozen(by_hand), torch.no_grad():
        for k in range(4):
            mixture = 0.3 * by_hand.features(image[:3], k) + 0.7 * by_hand.features(image[3:], k)
            torch.testing.assert_close(wrapped.head(mixture, k), by_hand.head(mixture, k))
