"""--model and --checkpoint: every origin, and every way in which the two can be wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from lada_al import load_model as loading
from lada_al.errors import UsageError
from lada_al.load_model import load_model
from lada_al.models import small
from lada_al.pools import ImageSpec
from torch import nn
from torchvision import models

SPEC = ImageSpec(1, 12, 12, (0.5,), (0.5,))
CODE = """
from lada_al.models import small
from lada_al.pools import ImageSpec

def net():
    return small(1, (12, 12), 3), ImageSpec(1, 12, 12, (0.5,), (0.5,))

def plain():
    return small(3, (224, 224), 3)

def nothing():
    return 5

def misspelt():
    return net.modles

def unfinished():
    import no_such_package
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with mine.py in it, which is the current one."""
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def test_a_factory_of_ones_own_with_and_without_a_checkpoint(here: Path) -> None:
    state = {name: torch.full_like(value, 0.25) for name, value in small(1, (12, 12), 3).state_dict().items()}
    torch.save({"epoch": torch.tensor(3), "state_dict": {f"module.{n}": v for n, v in state.items()}}, here / "net.pt")
    loaded = load_model("mine:net", here / "net.pt")
    assert loaded.spec == SPEC
    assert not loaded.module.training
    assert all(torch.equal(value, state[name]) for name, value in loaded.module.state_dict().items())
    assert load_model("mine:plain").spec == ImageSpec()


def test_torchvision_takes_its_classes_from_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = models.resnet18(num_classes=7)
    torch.save(module.state_dict(), tmp_path / "net.pt")
    loaded = load_model("torchvision:resnet18", tmp_path / "net.pt")
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.module(image), module.eval()(image))


def test_timm_and_safetensors(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    module = timm.create_model("resnet10t", num_classes=4)
    safetensors.save_file(module.state_dict(), tmp_path / "net.safetensors")
    loaded = load_model("timm:resnet10t", tmp_path / "net.safetensors")
    assert torch.equal(loaded.module.fc.weight, module.fc.weight)
    assert loaded.spec.shape == tuple(module.default_cfg["input_size"])


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("was-here"),))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("model", "checkpoint", "message"),
    [
        ("resnet18", None, "--model takes pkg.module:factory"),
        ("torchvision:resnet18", None, "has no weights; give them with --checkpoint"),
        ("torchvision:resnet19", "net.pt", "Unknown model"),
        ("timm:resnet19000", "net.pt", "timm has no model of this name"),
        ("nowhere:net", None, "No module named 'nowhere'"),
        ("nowhere.deep:net", None, "No module named 'nowhere'"),
        ("mine.deep:net", None, "No module named 'mine.deep'; 'mine' is not a package"),
        ("mine:nett", None, "has no attribute 'nett'"),
        ("mine:nothing", None, "must return a module.*got int"),
        ("mine:net", "absent.pt", "cannot be read"),
        ("mine:net", "empty.pt", "cannot be read"),
        ("mine:net", "text.safetensors", "cannot be read"),
        ("mine:net", "hello.pt", "hello.pt cannot be read: a file of torch.save does not begin with b'hello"),
        ("mine:net", "page.pt", "page.pt cannot be read: a file of torch.save does not begin with b'<!DOCTYPE html>"),
        ("mine:net", "pointer.pt", "a file of torch.save does not begin with b'version https://git-"),
        ("mine:net", "numbered.pt", "must hold a state_dict, tensors by their names, got Tensor under 0"),
        ("mine:net", "settings.pt", "must hold a state_dict, tensors by their names, got float under 'rate'"),
        ("torchvision:resnet18", "scalar.pt", "does not fit the model: one number is its fc.bias"),
        ("mine:net", "code.pt", "holds more than weights, which could run code"),
        ("mine:net", "list.pt", "must hold a state_dict, got list"),
        ("mine:net", "other.pt", "does not fit the model: Missing key"),
    ],
)
def test_what_is_wrong_is_told(here: Path, model: str, checkpoint: str | None, message: str) -> None:
    if model.startswith("timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    torch.save(small(1, (12, 12), 3).state_dict(), here / "net.pt")
    torch.save({"code": Payload()}, here / "code.pt")
    torch.save([1], here / "list.pt")
    torch.save(nn.Linear(2, 2).state_dict(), here / "other.pt")
    torch.save({0: torch.zeros(2)}, here / "numbered.pt")
    torch.save({"weight": torch.zeros(2), "rate": 0.1}, here / "settings.pt")
    torch.save({"fc.bias": torch.tensor(1.0)}, here / "scalar.pt")
    (here / "hello.pt").write_text("hello world")
    (here / "page.pt").write_text("<!DOCTYPE html><html></html>")
    (here / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    (here / "empty.pt").touch()
    (here / "text.safetensors").write_text("hello" * 9)
    with pytest.raises(UsageError, match=message):
        load_model(model, None if checkpoint is None else here / checkpoint)
    assert not (here / "was-here").exists()


@pytest.mark.parametrize(
    ("model", "error"),
    [("mine:misspelt", AttributeError), ("mine:unfinished", ModuleNotFoundError), ("broken:net", ModuleNotFoundError)],
)
def test_an_error_in_ones_own_code_is_raised_as_it_is(here: Path, model: str, error: type[Exception]) -> None:
    """With the line where it is."""
    (here / "broken.py").write_text("import no_such_package")
    with pytest.raises(error, match="modles|no_such_package"):
        load_model(model)


def test_a_package_that_is_not_installed_is_named() -> None:
    with (
        mock.patch.dict(sys.modules, {"timm": None}),
        pytest.raises(UsageError, match="needs the package timm: pip install 'lada-ext"),
    ):
        loading.optional("timm", "--model timm:resnet18")
