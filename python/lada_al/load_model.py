"""A classifier by its name on the command line, with the weights of a checkpoint, and how it takes its images.

    pkg.module:factory    your code: factory() returns a module, or a module and its ImageSpec
    torchvision:NAME      torchvision.models
    timm:NAME             timm, which also says how its images are normalised

The last two are built without weights and need a checkpoint. Checkpoints are read as weights alone: a file that holds
other objects would run code, and is refused.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lada_al.errors import UsageError, first_line
from lada_al.pools import ImageSpec

NESTED = ("state_dict", "model", "model_state_dict")  # under which training scripts keep the weights


@dataclass(frozen=True)
class Loaded:
    """A classifier that is ready to score, and the images it takes."""

    module: nn.Module
    spec: ImageSpec


def load_model(name: str, checkpoint: Path | None = None) -> Loaded:
    """The model `name` in evaluation mode, and the images that it says it takes. What its factory raises is raised.

    Raises:
        UsageError: there is no such model, or the checkpoint does not fit it.
    """
    state = None if checkpoint is None else read_checkpoint(checkpoint)
    origin, colon, rest = name.partition(":")
    if not colon or not origin or not rest:
        raise UsageError(f"--model takes pkg.module:factory, timm:NAME or torchvision:NAME, got '{name}'")
    if origin in ("timm", "torchvision"):
        if state is None:
            raise UsageError(f"--model {name} has no weights; give them with --checkpoint FILE")
        make = _timm if origin == "timm" else _torchvision
        loaded = make(rest, state)
    else:
        loaded = _factory(origin, rest)
    if state is not None:
        _put(state, loaded.module, f"--checkpoint: {checkpoint}")
    loaded.module.eval()
    return loaded


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in a .safetensors file, or in one of torch.save.

    Raises:
        UsageError: it cannot be read, or holds anything but weights.
    """
    try:
        if path.suffix == ".safetensors":
            state = _safetensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except Exception as error:  # torch raises almost anything where a file is damaged or is something else
        raise UsageError(f"--checkpoint: {path} {_fault(path, error)}") from error
    for key in NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state:
        raise UsageError(f"--checkpoint: {path} must hold a state_dict, got {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            kinds = f"{type(value).__name__} under {key!r}"
            raise UsageError(f"--checkpoint: {path} must hold a state_dict, tensors by their names, got {kinds}")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _safetensors(path: Path) -> Any:
    what = "--checkpoint FILE.safetensors"
    load_file, unreadable = optional("safetensors.torch", what).load_file, optional("safetensors", what).SafetensorError
    try:
        return load_file(path)
    except unreadable as error:
        raise ValueError(str(error)) from error


def _fault(path: Path, error: Exception) -> str:
    """What is wrong with a checkpoint that could not be loaded."""
    if isinstance(error, OSError) or path.suffix == ".safetensors":
        return f"cannot be read: {first_line(error)}"
    with path.open("rb") as file:
        begin = file.read(20)
    if not begin.startswith((b"PK", b"\x80")):  # a zip file, or a pickle as torch wrote it before
        return f"cannot be read: a file of torch.save does not begin with {begin!r}"
    if isinstance(error, pickle.UnpicklingError):
        return "holds more than weights, which could run code; save a state_dict"
    return f"cannot be read: {first_line(error)}"


def optional(module: str, what: str) -> Any:
    """A module of a package that not everybody has installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise UsageError(f"{what} needs the package {package}: pip install 'lada-ext[models]'") from error


def _factory(module: str, name: str) -> Loaded:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # the command `lada` is no file of this folder, unlike `python -m`
    try:
        code = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and needs another that is not
        raise UsageError(f"--model {module}:{name}: {error}") from error
    if not hasattr(code, name):
        raise UsageError(f"--model {module}:{name}: module '{module}' has no attribute '{name}'")
    made = getattr(code, name)()
    net, spec = made if isinstance(made, tuple) and len(made) == 2 else (made, ImageSpec())
    if not isinstance(net, nn.Module) or not isinstance(spec, ImageSpec):
        raise UsageError(
            f"--model {module}:{name} must return a module, or (module, ImageSpec), got {type(made).__name__}"
        )
    return Loaded(net, spec)


def _torchvision(name: str, state: dict[str, Tensor]) -> Loaded:
    from torchvision import models

    try:
        with torch.device("meta"):
            classes = _classes(models.get_model(name, weights=None), state)
    except ValueError as error:
        raise UsageError(f"--model torchvision:{name}: {error}") from error
    return Loaded(models.get_model(name, weights=None, num_classes=classes), ImageSpec())


def _timm(name: str, state: dict[str, Tensor]) -> Loaded:
    timm = optional("timm", f"--model timm:{name}")
    if not timm.is_model(name):
        raise UsageError(f"--model timm:{name}: timm has no model of this name; timm.list_models() lists them")
    with torch.device("meta"):
        classes = _classes(timm.create_model(name, pretrained=False), state)
    module = timm.create_model(name, pretrained=False, num_classes=classes)
    says = timm.data.resolve_model_data_config(module)
    channels, height, width = says["input_size"]
    return Loaded(module, ImageSpec(channels, height, width, tuple(says["mean"]), tuple(says["std"])))


def _classes(module: nn.Module, state: dict[str, Tensor]) -> int:
    """How many classes the weights are for: the length of the last parameter, that of the last layer."""
    name = list(module.state_dict())[-1]
    if name not in state or not state[name].dim():
        what = "it has no" if name not in state else "one number is its"
        raise UsageError(f"--checkpoint: the checkpoint does not fit the model: {what} {name}")
    return len(state[name])


def _put(state: dict[str, Tensor], module: nn.Module, what: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UsageError(f"{what} does not fit the model: {' '.join(lines[1:3])}") from error
