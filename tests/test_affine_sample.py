"""affine_sample against F.grid_sample of F.affine_grid in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from samples import AFFINES, cast, generator
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference

OPTIONS = list(itertools.product(["bilinear", "nearest"], ["zeros", "border", "reflection"], [False, True]))
EDGE = 1e-3
pytestmark = pytest.mark.filterwarnings("ignore:Since version 1.3.0")  # affine_grid, sizes of one pixel


def arguments_of(name: str, options: tuple[str, str, bool], dtype: torch.dtype, device: str) -> dict[str, object]:
    """The sample, with theta moved until no output pixel reads within EDGE of a cell edge, where torch and the op may
    round to different sides: a jump for "nearest" and for the gradients."""
    arguments = AFFINES[name](generator(name))
    g = generator("shift")
    for _ in range(500):
        rounded = cast(arguments, dtype, device)
        if distance_to_cell_edge(rounded, options) > EDGE:
            return rounded
        nudge = 0.02 * torch.randn(arguments["theta"].shape, generator=g, dtype=torch.float64)
        arguments = {**arguments, "theta": arguments["theta"] + nudge}
    return rounded


def distance_to_cell_edge(arguments: dict[str, object], options: tuple[str, str, bool]) -> float:
    mode, _, align = options
    if math.prod(arguments["theta"].shape) == 0:  # type: ignore[attr-defined]
        return math.inf
    image, theta, (height, width) = arguments["image"], arguments["theta"].double(), arguments["size"]  # type: ignore
    flat = theta.reshape(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(flat, [len(flat), 1, height, width], align)
    sizes = torch.tensor([image.shape[-1], image.shape[-2]], device=grid.device)
    position = (grid + 1) / 2 * (sizes - 1) if align else ((grid + 1) * sizes - 1) / 2
    if mode == "nearest":
        position = position - 0.5
    elif min(image.shape[-2:]) == 1:
        return math.inf  # every reflected or clipped position is on an edge
    return float((position - position.round()).abs().min())


def as_double(arguments: dict[str, object]) -> dict[str, object]:
    return {k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()}


def option_id(options: tuple[str, str, bool]) -> str:
    return f"{options[0]}-{options[1]}{'-corners' if options[2] else ''}"


@pytest.mark.parametrize("options", OPTIONS, ids=option_id)
@pytest.mark.parametrize("name", AFFINES)
def test_affine_sample(name: str, options: tuple[str, str, bool], dtype: torch.dtype, device: str) -> None:
    arguments = arguments_of(name, options, dtype, device)
    actual = lada_ext.affine_sample(*arguments.values(), *options)
    expected = reference.affine_sample(*as_double(arguments).values(), *options)
    assert actual.dtype == dtype
    assert_close(actual, expected, slack=100 if name == "far_outside" else 10)


@pytest.mark.parametrize("options", OPTIONS, ids=option_id)
@pytest.mark.parametrize("name", AFFINES)
def test_affine_sample_gradient(name: str, options: tuple[str, str, bool], dtype: torch.dtype, device: str) -> None:
    if name in ("one_pixel", "one_row") and options[1] == "reflection":
        pytest.skip("on an axis of one pixel every reflected position is on an edge, where subgradients differ")
    arguments = arguments_of(name, options, dtype, device)

    def gradients(module: object, inputs: dict[str, object]) -> list[Tensor]:
        leaves = [inputs[k].detach().requires_grad_() for k in ("image", "theta")]  # type: ignore[attr-defined]
        out = module.affine_sample(*leaves, inputs["size"], *options)  # type: ignore[attr-defined]
        weight = torch.randn(out.shape, generator=generator("grad"), dtype=torch.float64).to(out)
        if out.requires_grad:  # not the reference of an empty output
            (out * weight.to(dtype).to(out)).sum().backward()
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]

    actual, expected = gradients(lada_ext, arguments), gradients(reference, as_double(arguments))
    assert_close(actual[0], expected[0], slack=100 if name == "far_outside" else 10)
    assert_close(actual[1], expected[1], slack=1000 if name == "far_outside" else 100)


@pytest.mark.parametrize("wanted", ["image", "theta"])
def test_only_the_needed_gradient_is_computed(wanted: str, device: str) -> None:
    arguments = cast(AFFINES["several_transforms"](generator("several")), torch.float64, device)
    every = {k: arguments[k].clone().requires_grad_() for k in ("image", "theta")}
    lada_ext.affine_sample(**{**arguments, **every}).square().sum().backward()
    only = arguments[wanted].clone().requires_grad_()
    lada_ext.affine_sample(**{**arguments, wanted: only}).square().sum().backward()
    assert torch.allclose(only.grad, every[wanted].grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=option_id)
@pytest.mark.parametrize("name", AFFINES)
def test_deterministic_image_gradient(name: str, options: tuple[str, str, bool], device: str) -> None:
    image, default, first, second = deterministic_gradients(name, options, torch.float32, device)
    assert image.grad is not None
    assert torch.equal(first, second)
    assert_close(first, default, slack=10)


def test_deterministic_image_gradient_in_every_dtype(dtype: torch.dtype, device: str) -> None:
    _, default, first, second = deterministic_gradients("several_transforms", OPTIONS[0], dtype, device)
    assert torch.equal(first, second)
    assert_close(first, default, slack=10)


def deterministic_gradients(
    name: str, options: tuple[str, str, bool], dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The image, its gradient by the default path, and twice by the deterministic one."""
    arguments = cast(AFFINES[name](generator(name)), dtype, device)
    image = arguments["image"].detach().requires_grad_()

    def gradient() -> Tensor:
        image.grad = None
        out = lada_ext.affine_sample(image, arguments["theta"], arguments["size"], *options)
        out.square().sum().backward()
        assert image.grad is not None
        return image.grad

    default = gradient()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = gradient(), gradient()
    finally:
        torch.use_deterministic_algorithms(False)
    return image, default, first, second


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_wild_theta_reads_nothing_it_should_not(value: float, padding_mode: str, device: str) -> None:
    image = torch.ones(1, 1, 4, 4, device=device, requires_grad=True)
    theta = torch.tensor([[[1.0, 0.0, value], [0.0, 1.0, 0.0]]], device=device, requires_grad=True)
    out = lada_ext.affine_sample(image, theta, padding_mode=padding_mode)
    out.sum().backward()
    assert image.grad is not None
    if math.isnan(value) or (math.isinf(value) and padding_mode != "border"):
        assert out.isnan().all()
        assert image.grad.isfinite().all()
    elif padding_mode == "zeros":
        assert (out == 0).all()
    elif padding_mode == "border":
        assert (out == 1).all()


def test_identity_returns_the_image(device: str) -> None:
    image = torch.randn(2, 3, 5, 6, generator=generator("identity")).to(device)
    theta = torch.eye(2, 3, device=device).expand(2, 2, 3)
    torch.testing.assert_close(lada_ext.affine_sample(image, theta), image, rtol=0, atol=2e-6)


def test_errors_name_the_argument() -> None:
    image, theta = torch.zeros(2, 1, 4, 4), torch.zeros(2, 2, 3)
    with pytest.raises(TypeError, match=r"affine_sample: image must have dtype float64.*got Byte"):
        lada_ext.affine_sample(image.byte(), theta)
    with pytest.raises(ValueError, match=r"image must have shape \(B, channels, H, W\).*got \[2, 1, 0, 4\]"):
        lada_ext.affine_sample(image[:, :, :0], theta)
    with pytest.raises(ValueError, match=r"theta must have shape \(B, 2, 3\) or \(B, K, 2, 3\) with B = 2"):
        lada_ext.affine_sample(image, theta[:1])
    with pytest.raises(TypeError, match="theta must have dtype"):
        lada_ext.affine_sample(image, theta.long())
    with pytest.raises(ValueError, match=r"size must be \(height, width\), got \[-1, 4\]"):
        lada_ext.affine_sample(image, theta, size=(-1, 4))
    with pytest.raises(ValueError, match="mode must be 'bilinear' or 'nearest', got 'bicubic'"):
        lada_ext.affine_sample(image, theta, mode="bicubic")
    with pytest.raises(ValueError, match="padding_mode must be 'zeros', 'border' or 'reflection', got 'wrap'"):
        lada_ext.affine_sample(image, theta, padding_mode="wrap")
