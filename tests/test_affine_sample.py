"""affine_sample against F.grid_sample of F.affine_grid in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import AFFINES, EMULATED, SANITIZED, cast, generator
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference

MODES, PADDINGS = ["bilinear", "nearest", "bicubic"], ["zeros", "border", "reflection"]
ALIGNMENTS = [False] if SANITIZED else [False, True]  # where memory is touched does not hang on them
OPTIONS = list(itertools.product(MODES, PADDINGS, ALIGNMENTS))
PLAIN = OPTIONS[0]
EDGE = 1e-3
HALVES = [torch.float16, torch.bfloat16]
pytestmark = pytest.mark.filterwarnings("ignore:Since version 1.3.0")  # affine_grid, sizes of one pixel

Options = tuple[str, str, bool]


def option_id(options: Options) -> str:
    return f"{options[0]}-{options[1]}{'-corners' if options[2] else ''}"


with_options = pytest.mark.parametrize("options", OPTIONS, ids=option_id)
in_full_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def away_from_edges(
    arguments: dict[str, Any], options: Options, dtype: torch.dtype, device: str, nudge: float = 0.02
) -> dict[str, Any]:
    """The sample, with theta moved until no output pixel reads within EDGE of a cell edge, where torch and the op may
    round to different sides: a jump for "nearest" and for the gradients."""
    g = generator("shift")
    for _ in range(500):
        rounded = cast(arguments, dtype, device)
        if distance_to_cell_edge(rounded, options) > EDGE:
            return rounded
        noise = nudge * torch.randn(arguments["theta"].shape, generator=g, dtype=torch.float64)
        arguments = {**arguments, "theta": arguments["theta"] + noise.to(arguments["theta"].device)}
    return rounded


def arguments_of(name: str, options: Options, dtype: torch.dtype, device: str) -> dict[str, Any]:
    return away_from_edges(AFFINES[name](generator(name)), options, dtype, device)


def distance_to_cell_edge(arguments: dict[str, Any], options: Options) -> float:
    mode, _, align = options
    if math.prod(arguments["theta"].shape) == 0:
        return math.inf
    image, theta, (height, width) = arguments["image"], arguments["theta"].double(), arguments["size"]
    flat = theta.reshape(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(flat, [len(flat), 1, height, width], align)
    sizes = torch.tensor([image.shape[-1], image.shape[-2]], device=grid.device)
    position = (grid + 1) / 2 * (sizes - 1) if align else ((grid + 1) * sizes - 1) / 2
    if mode == "nearest":
        position = position - 0.5
    elif min(image.shape[-2:]) == 1:
        return math.inf  # every reflected or clipped position is on an edge
    return float((position - position.round()).abs().min())


def as_double(value: Any) -> Any:
    """Floating tensors, also those in tuples and dicts, in float64; the rest as it is."""
    if isinstance(value, dict):
        return {k: as_double(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(map(as_double, value))
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def gradients(function: Any, arguments: dict[str, Any], options: Options) -> list[Tensor]:
    """To image and theta, under a fixed random gradient of the result."""
    leaves = [arguments[k].detach().requires_grad_() for k in ("image", "theta")]
    out = function(*leaves, arguments["size"], *options)
    grad = torch.randn(out.shape, generator=generator("grad"), dtype=torch.float64).to(arguments["image"].dtype)
    if out.requires_grad:  # not the reference of an empty output
        out.backward(grad.to(out))
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def assert_right(arguments: dict[str, Any], options: Options, slack: float = 10) -> None:
    actual = lada_ext.affine_sample(*arguments.values(), *options)
    assert actual.dtype == arguments["image"].dtype
    assert_close(actual, reference.affine_sample(*as_double(arguments).values(), *options), slack)


def assert_right_gradients(arguments: dict[str, Any], options: Options, slack: float = 10) -> None:
    actual = gradients(lada_ext.affine_sample, arguments, options)
    expected = gradients(reference.affine_sample, as_double(arguments), options)
    assert_close(actual[0], expected[0], slack)
    assert_close(actual[1], expected[1], 10 * slack)


class TestOptions:
    """Every sample and combination of options against torch."""

    @in_full_precision
    @with_options
    @pytest.mark.parametrize("name", AFFINES)
    def test_forward(self, name: str, options: Options, dtype: torch.dtype, device: str) -> None:
        assert_right(arguments_of(name, options, dtype, device), options, slack=100 if name == "far_outside" else 10)

    @in_full_precision
    @with_options
    @pytest.mark.parametrize("name", AFFINES)
    def test_gradients(self, name: str, options: Options, dtype: torch.dtype, device: str) -> None:
        if name in ("one_pixel", "one_row") and options[1] == "reflection":
            pytest.skip("on an axis of one pixel every reflected position is on an edge, where subgradients differ")
        arguments = arguments_of(name, options, dtype, device)
        assert_right_gradients(arguments, options, slack=100 if name == "far_outside" else 10)

    @pytest.mark.parametrize("options", [PLAIN, ("bicubic", "reflection", False)], ids=option_id)
    @pytest.mark.parametrize("half", HALVES, ids=["float16", "bfloat16"])
    @pytest.mark.parametrize("name", AFFINES)
    def test_half_types(self, name: str, half: torch.dtype, options: Options, device: str) -> None:
        arguments = arguments_of(name, options, half, device)
        assert_right(arguments, options)
        if not (name in ("one_pixel", "one_row") and options[1] == "reflection"):
            assert_right_gradients(arguments, options)


@with_options
class TestShrinking:
    """Outputs of a tenth of the image's pixels, and of so few that the CPU samples them without a copy of the image."""

    SIZES = ((13, 11), (4, 5))

    def arguments(self, image: Tensor, size: tuple[int, int], options: Options, dtype: torch.dtype) -> dict[str, Any]:
        theta = torch.eye(2, 3) + 0.2 * torch.randn(len(image), 2, 3, generator=generator("theta"))
        return away_from_edges({"image": image, "theta": theta.double(), "size": size}, options, dtype, "cpu")

    @pytest.mark.parametrize("channels", [3, 17])
    def test_like_torch(self, channels: int, options: Options, dtype: torch.dtype) -> None:
        image = torch.randn(2, channels, 41, 37, generator=generator("image"), dtype=torch.float64)
        for size, view in itertools.product(self.SIZES, (image, image.to(memory_format=torch.channels_last))):
            arguments = self.arguments(view, size, options, dtype)
            assert_right(arguments, options)
            assert_right_gradients(arguments, options, slack=30)

    def test_normalized_bytes(self, options: Options) -> None:
        image = torch.randint(0, 256, (2, 3, 41, 37), generator=generator("bytes"), dtype=torch.uint8)
        constants = tuple(torch.tensor(s, dtype=torch.float64) for s in STATISTICS)
        for size in self.SIZES:
            arguments = self.arguments(image, size, options, torch.float32)
            out = lada_ext.affine_sample(*arguments.values(), *options, normalize=STATISTICS)
            expected = reference.affine_sample(*as_double(arguments).values(), *options, normalize=constants)
            assert_close(out, expected, slack=20)


def rotation(degrees: float) -> list[list[float]]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[c, -s, 0.013], [s, c, -0.021]]


MAPS = {
    "rotated": rotation(33),
    "half_turn": rotation(180),
    "sheared": [[1, 0.7, 0.013], [0.31, 1, 0.02]],
    "mirrored": [[-1, 0, 0.05], [0, 1, 0.031]],
    "singular": [[0.4, 0.8, 0.013], [0.2, 0.4, 0.021]],
    "to_a_point": [[0, 0, 0.113], [0, 0, -0.221]],
    "to_a_line": [[0, 0, 0.113], [0, 0.9, -0.221]],
    "tiny": [[1e-5, 1e-6, 0.113], [1e-6, -1e-5, -0.221]],
    "enlarging": [[3.1, 0.4, 0.113], [-0.2, 2.7, -0.021]],
    "huge": [[1e4, 7e3, 50.3], [-3e3, 2e4, 20.7]],
    "far": [[1, 0, 1e6], [0, 1, 0.02]],
}


@with_options
@pytest.mark.parametrize("name", MAPS)
class TestMaps:
    """Rotated, sheared, mirrored, singular, huge and tiny maps against torch, and the deterministic gradient too."""

    def arguments(self, name: str, options: Options, dtype: torch.dtype, device: str) -> dict[str, Any]:
        image = torch.randn(1, 2, 6, 9, generator=generator(name), dtype=torch.float64)
        theta = torch.tensor([MAPS[name]], dtype=torch.float64)
        return away_from_edges({"image": image, "theta": theta, "size": (5, 8)}, options, dtype, device, nudge=1e-3)

    def test_like_torch(self, name: str, options: Options, device: str) -> None:
        arguments = self.arguments(name, options, torch.float64, device)
        slack = 1e5 if name in ("huge", "far") else 10  # positions of 1e6 have 1e6 times the rounding
        assert_right(arguments, options, slack)
        assert_right_gradients(arguments, options, 10 * slack)

    def test_like_torch_in_float32(self, name: str, options: Options, device: str) -> None:
        if name in ("huge", "far"):
            pytest.skip("a position of 1e5 pixels is known to 0.01 pixels")
        arguments = self.arguments(name, options, torch.float32, device)
        assert_right(arguments, options, slack=30)
        assert_right_gradients(arguments, options, slack=100)

    def test_deterministic_gradient(self, name: str, options: Options, device: str) -> None:
        assert_deterministic(self.arguments(name, options, torch.float32, device), options)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
@with_options
def test_wild_theta_is_nan_where_torch_is(options: Options, value: float, device: str) -> None:
    for entry, shape in itertools.product([(0, 0), (0, 2), (1, 1)], [(4, 4), (1, 4), (3, 20)]):
        image = torch.randn(1, 2, *shape, generator=generator("wild"))
        theta = torch.eye(2, 3)[None].clone()
        theta[0][entry] = value
        leaves = [t.to(device).requires_grad_() for t in (image, theta)]
        out = lada_ext.affine_sample(*leaves, None, *options)
        expected = reference.affine_sample(image, theta, None, *options)
        assert torch.equal(out.isnan().cpu(), expected.isnan())
        out.nansum().backward()  # writes nothing outside
        with deterministic():
            lada_ext.affine_sample(*leaves, None, *options).nansum().backward()


class deterministic:  # noqa: N801
    """Within it, torch.use_deterministic_algorithms(True)."""

    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(False)


def assert_deterministic(arguments: dict[str, Any], options: Options, slack: float = 10) -> None:
    """The deterministic gradients are bitwise repeatable and close to the ordinary ones."""
    ordinary = gradients(lada_ext.affine_sample, arguments, options)
    with deterministic():
        first, second = (gradients(lada_ext.affine_sample, arguments, options) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert_close(first[0], ordinary[0], slack)


class TestDeterministicGradient:
    @with_options
    @pytest.mark.parametrize("name", AFFINES)
    def test_every_option(self, name: str, options: Options, device: str) -> None:
        assert_deterministic(cast(AFFINES[name](generator(name)), torch.float32, device), options)

    @pytest.mark.parametrize("options", [PLAIN, ("bicubic", "border", True)], ids=option_id)
    def test_every_dtype(self, options: Options, dtype: torch.dtype, device: str) -> None:
        for name in ("several_transforms", "many_channels", "channels_last"):
            assert_deterministic(cast(AFFINES[name](generator(name)), dtype, device), options)


def torch_samples() -> list[Any]:
    """torch's own sample inputs of grid_sample for images."""
    pytest.importorskip("expecttest", reason="torch's samples need it")
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = [op for op in op_db if op.name == "nn.functional.grid_sample"]
    samples = info.sample_inputs("cpu", torch.float64, requires_grad=False)
    return [sample for sample in samples if sample.input.dim() == 4]


@pytest.mark.skipif(bool(EMULATED), reason="the options have been emulated")
def test_torchs_samples_of_grid_sample(device: str) -> None:
    """Each with the affine map nearest to its grid."""
    samples = torch_samples()
    assert len(samples) >= 18
    for sample in samples:
        image, grid = sample.input, sample.args[0]
        mode, padding, align = (sample.kwargs[k] for k in ("mode", "padding_mode", "align_corners"))
        size = grid.shape[1:3]
        unit = torch.nn.functional.affine_grid(torch.eye(2, 3, dtype=grid.dtype)[None], [1, 1, *size], align)
        basis = torch.cat([unit, torch.ones_like(unit[..., :1])], -1).view(1, -1, 3).expand(len(grid), -1, 3)
        theta = torch.linalg.lstsq(basis, grid.reshape(len(grid), -1, 2), driver="gelsd").solution.mT
        arguments = {"image": image, "theta": theta.contiguous(), "size": tuple(size)}
        options = (mode, padding, bool(align))
        arguments = away_from_edges(arguments, options, torch.float64, device)
        assert_right(arguments, options)
        assert_right_gradients(arguments, options)


@settings(
    max_examples=8 if EMULATED else 150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # device is a name
)
@given(data=st.data())
def test_fuzz(device: str, data: st.DataObject) -> None:
    """Any shape, strides, map and option: right wherever the position is not on a cell edge, and deterministic."""
    side, few = st.integers(1, 9), st.integers(0, 3)
    batch, channels, transforms = data.draw(few), data.draw(st.sampled_from([0, 1, 3, 5, 17])), data.draw(few)
    height, width, size = data.draw(side), data.draw(side), (data.draw(side), data.draw(side))
    scale = data.draw(st.sampled_from([1e-3, 0.5, 3.0, 40.0]))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    image = torch.randn(batch, height, channels, width, generator=g, dtype=torch.float64)
    image = data.draw(st.sampled_from([image.permute(0, 2, 1, 3), image.permute(0, 2, 3, 1).contiguous().mT]))
    theta = scale * torch.randn(batch, transforms, 2, 3, generator=g, dtype=torch.float64)
    options = data.draw(st.sampled_from(OPTIONS))
    arguments = {"image": image, "theta": theta if transforms else theta.new_zeros(batch, 2, 3) + 0.1, "size": size}
    if min(image.shape[-2:]) == 1 and options[1] == "reflection":
        return  # every position is on an edge
    arguments = away_from_edges(arguments, options, torch.float64, device, nudge=0.02 * scale)
    if distance_to_cell_edge(arguments, options) <= EDGE:
        return
    assert_right(arguments, options, slack=1000)
    assert_right_gradients(arguments, options, slack=1000)
    assert_deterministic(arguments, options, slack=1000)


class TestNeeds:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("wanted", ["image", "theta"])
    def test_only_the_needed_gradient_is_computed(self, wanted: str, mode: str, device: str) -> None:
        arguments = cast(AFFINES["several_transforms"](generator("several")), torch.float64, device)
        every = {k: arguments[k].clone().requires_grad_() for k in ("image", "theta")}
        lada_ext.affine_sample(**{**arguments, **every}, mode=mode).square().sum().backward()
        only = arguments[wanted].clone().requires_grad_()
        lada_ext.affine_sample(**{**arguments, wanted: only}, mode=mode).square().sum().backward()
        torch.testing.assert_close(only.grad, every[wanted].grad, rtol=1e-12, atol=1e-12)
        sampled = torch.ops.lada_ext.affine_sample(*arguments.values(), mode)
        unneeded = torch.ops.lada_ext.affine_sample_backward(
            sampled, arguments["image"], arguments["theta"], mode, "zeros", False, None, None, [False, False]
        )
        assert [g.numel() for g in unneeded] == [0, 0]

    def test_second_derivatives_are_an_error(self, device: str) -> None:
        image = torch.randn(1, 1, 4, 4, device=device, requires_grad=True)
        theta = torch.eye(2, 3, device=device)[None]
        (grad,) = torch.autograd.grad(lada_ext.affine_sample(image, theta).square().sum(), image, create_graph=True)
        with pytest.raises(RuntimeError, match="derivative for lada_ext::affine_sample_backward is not implemented"):
            grad.sum().backward()

    @pytest.mark.parametrize("options", [o for o in OPTIONS if o[0] != "nearest"], ids=option_id)
    def test_gradcheck(self, options: Options) -> None:
        arguments = arguments_of("odd", options, torch.float64, "cpu")
        leaves = [arguments[k].requires_grad_() for k in ("image", "theta")]
        assert torch.autograd.gradcheck(
            lambda image, theta: lada_ext.affine_sample(image, theta, arguments["size"], *options), leaves
        )


class TestTransforms:
    """K maps of an image."""

    @pytest.mark.parametrize("mode", MODES)
    def test_are_maps_of_the_repeated_image(self, mode: str, device: str) -> None:
        image, theta, size = cast(AFFINES["several_transforms"](generator("several")), torch.float32, device).values()
        several = lada_ext.affine_sample(image, theta, size, mode)
        for k in range(theta.shape[1]):
            assert torch.equal(several[:, k], lada_ext.affine_sample(image, theta[:, k], size, mode))

    def test_do_not_depend_on_each_other(self, device: str) -> None:
        """Also where their number would repay a copy of the image, which one of them does not."""
        g = generator("maps")
        image = torch.randn(1, 3, 64, 60, generator=g).to(device)
        theta = (torch.eye(2, 3) + 0.2 * torch.randn(1, 40, 2, 3, generator=g)).to(device)
        several = lada_ext.affine_sample(image, theta, (7, 9))
        assert torch.equal(several[:, 5], lada_ext.affine_sample(image, theta[:, 5], (7, 9)))

    def test_identity_returns_the_image(self, device: str) -> None:
        image = torch.randn(2, 3, 5, 6, generator=generator("identity")).to(device)
        theta = torch.eye(2, 3, device=device).expand(2, 4, 2, 3)
        for mode in MODES:
            out = lada_ext.affine_sample(image, theta, mode=mode)
            torch.testing.assert_close(out, image[:, None].expand_as(out), rtol=0, atol=4e-6)


@pytest.mark.parametrize("size", [(64, 60), (15, 16), (7, 8)], ids=str)
@pytest.mark.parametrize("channels", [3, 19])
@pytest.mark.parametrize("mode", MODES)
def test_an_image_does_not_depend_on_threads_or_batch(mode: str, channels: int, size: tuple[int, int]) -> None:
    """Forward and backward, bit for bit."""
    g = generator("batch")
    image, grad = torch.randn(5, channels, 64, 60, generator=g), torch.randn(5, channels, *size, generator=g)
    theta = torch.eye(2, 3) + 0.2 * torch.randn(5, 2, 3, generator=g)

    def results(part: slice, threads: int) -> tuple[Tensor, ...]:
        torch.set_num_threads(threads)
        leaves = image[part].clone().requires_grad_(), theta[part].clone().requires_grad_()
        sampled = lada_ext.affine_sample(*leaves, size, mode)
        return sampled, *torch.autograd.grad(sampled, leaves, grad[part])

    threads = torch.get_num_threads()
    try:
        whole = results(slice(None), threads=1)
        for part, count in itertools.product((slice(None), slice(2, 3)), (1, 8)):
            assert all(map(torch.equal, results(part, count), (t[part] for t in whole)))
    finally:
        torch.set_num_threads(threads)


def test_images_of_more_pixels_than_offsets_can_count() -> None:
    """Rows that are the same row in memory; the CPU's offsets in copies of images have 32 bits."""
    row = torch.randn(1, 1, 1, 12_000, generator=generator("row"))
    image = row.expand(1, 1, 12_000, 12_000)
    theta = torch.tensor([[[0.4, 0.0, 0.3], [0.0, 0.7, 0.1]]])
    of_row = lada_ext.affine_sample(row, theta, (9, 40), padding_mode="border")
    torch.testing.assert_close(lada_ext.affine_sample(image, theta, (9, 40), padding_mode="border"), of_row)
    many = row[..., :1].expand(1, 17, 20_000, 20_000)
    with pytest.raises(ValueError, match="size must have at most 8388607 columns for so large an image, got 9000000"):
        lada_ext.affine_sample(many, theta, (1, 9_000_000), mode="bicubic")


@pytest.mark.heavy
@pytest.mark.parametrize(
    "shape",
    [(72, 16, 64, 64), (72, 19, 64, 64), (130, 35, 31, 33)],
    ids=["rows_of_cache_lines", "a_block_of_three", "odd"],
)
def test_results_beyond_the_caches(shape: tuple[int, ...], device: str) -> None:
    """More than 16 MiB, which on the CPU pass by the caches, are those of parts that do not."""
    g = generator("large")
    image, grad = torch.randn(shape, generator=g).to(device), torch.randn(shape, generator=g).to(device)
    theta = (torch.eye(2, 3) + 0.3 * torch.randn(shape[0], 2, 3, generator=g)).to(device)
    assert image.nbytes > 16 << 20

    def results(part: slice) -> tuple[Tensor, ...]:
        leaves = image[part].clone().requires_grad_(), theta[part].clone().requires_grad_()
        sampled = lada_ext.affine_sample(*leaves)
        return sampled, *torch.autograd.grad(sampled, leaves, grad[part])

    torch.use_deterministic_algorithms(True)
    try:
        whole, parts = results(slice(None)), [results(slice(i, i + 10)) for i in range(0, shape[0], 10)]
    finally:
        torch.use_deterministic_algorithms(False)
    for of_all, of_parts in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(of_all, torch.cat(of_parts))
    expected = reference.affine_sample(image[:2].double(), theta[:2].double())
    torch.testing.assert_close(whole[0][:2].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.heavy
@pytest.mark.parametrize("side", [4200, 5000])
def test_images_of_more_pixels_than_float32_can_count(side: int, device: str) -> None:
    """The identity returns the image, and the gradient of the result."""
    image = torch.rand(1, 1, side, side, generator=generator("many pixels")).to(device).requires_grad_()
    theta = torch.eye(2, 3, device=device)[None].requires_grad_()
    grad = torch.rand(1, 1, side, side, generator=generator("grad")).to(device)
    sampled = lada_ext.affine_sample(image, theta)
    torch.testing.assert_close(sampled, image, rtol=0, atol=2e-3)  # coordinates are rounded to 1/4096 of a pixel or so
    grad_image, _ = torch.autograd.grad(sampled, (image, theta), grad)
    torch.testing.assert_close(grad_image, grad, rtol=0, atol=4e-3)


def bytes_and_theta(device: str, *shape: int) -> tuple[Tensor, Tensor]:
    g = generator("bytes")
    image = torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
    return image.to(device), (torch.eye(2, 3) + 0.3 * torch.randn(shape[0], 2, 3, generator=g)).to(device)


STATISTICS = ([0.49, 0.48, 0.45], [0.25, 0.24, 0.26])


class TestBytes:
    """uint8 images, and normalisation in the same kernel."""

    @with_options
    @pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
    def test_normalized_bytes(self, options: Options, channels_last: bool, device: str) -> None:
        image, theta = bytes_and_theta(device, 3, 3, 7, 9)
        if channels_last:
            image = image.to(memory_format=torch.channels_last)
        arguments = away_from_edges({"image": image, "theta": theta, "size": (7, 9)}, options, torch.float32, device)
        out = lada_ext.affine_sample(*arguments.values(), *options, normalize=STATISTICS)
        assert out.dtype == torch.float32
        assert out.is_contiguous(memory_format=torch.channels_last) == channels_last
        constants = tuple(torch.tensor(s, dtype=torch.float64, device=device) for s in STATISTICS)
        expected = reference.affine_sample(*as_double(arguments).values(), *options, normalize=constants)
        assert_close(out, expected, slack=20)

    @pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("size", [(7, 9), (2, 3)])
    def test_gradient_to_theta(self, size: tuple[int, int], mode: str, device: str) -> None:
        image, theta = bytes_and_theta(device, 3, 3, 7, 9)
        options = (mode, "zeros", False)
        arguments = away_from_edges({"image": image, "theta": theta, "size": size}, options, torch.float32, device)

        def gradient(function: Any, arguments: dict[str, Any]) -> Tensor:
            leaf = arguments["theta"].detach().requires_grad_()
            out = function(arguments["image"], leaf, size, *options, normalize=STATISTICS)
            grad = torch.randn(out.shape, generator=generator("grad"), dtype=torch.float64).to(out)
            return torch.autograd.grad(out, leaf, grad)[0]

        actual = gradient(lada_ext.affine_sample, arguments)
        assert_close(actual, gradient(reference.affine_sample, as_double(arguments)), slack=300)

    @pytest.mark.parametrize("deterministically", [False, True])
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("size", [(6, 5), (2, 2)])
    def test_gradients_through_the_normalization(
        self, size: tuple[int, int], mode: str, deterministically: bool, device: str
    ) -> None:
        options = (mode, "zeros", False)
        arguments = {**arguments_of("several_transforms", options, torch.float64, device), "size": size}
        statistics = ([0.3, -0.2], [0.5, 2.0])

        def normalized(function: Any) -> Any:
            return lambda *inputs: function(*inputs, normalize=statistics)

        torch.use_deterministic_algorithms(deterministically)
        try:
            actual = gradients(normalized(lada_ext.affine_sample), arguments, options)
        finally:
            torch.use_deterministic_algorithms(False)
        expected = gradients(normalized(reference.affine_sample), arguments, options)
        assert_close(actual[0], expected[0], slack=10)
        assert_close(actual[1], expected[1], slack=100)

    def test_padding_stays_zero(self, device: str) -> None:
        image, theta = bytes_and_theta(device, 1, 3, 4, 4)
        theta = torch.tensor([[[1.0, 0, 9], [0, 1, 9]]], device=device)
        assert not lada_ext.affine_sample(image, theta, normalize=STATISTICS).any()


class TestMemory:
    """Strides that come in and go out."""

    def test_channels_last_in_and_out(self, dtype: torch.dtype, device: str) -> None:
        image = torch.randn(2, 6, 5, 7, generator=generator("last")).to(device, dtype)
        theta = (torch.eye(2, 3) + 0.1 * torch.randn(2, 2, 3, generator=generator("theta"))).to(device)
        last = image.to(memory_format=torch.channels_last).requires_grad_()
        out, expected = lada_ext.affine_sample(last, theta), lada_ext.affine_sample(image, theta)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(out, expected)
        out.square().sum().backward()
        assert last.grad is not None
        assert last.grad.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("mode", MODES)
    def test_expanded_and_sliced_images(self, mode: str, device: str) -> None:
        stored = torch.randn(4, 9, 12, generator=generator("sliced"), dtype=torch.float64).to(device)
        theta = (torch.eye(2, 3) + 0.2 * torch.randn(3, 2, 3, generator=generator("theta"))).double().to(device)
        for view in (stored[1:, 1:8:2, ::3], stored[:1].expand(3, 9, 12), stored[:3].mT):
            image = view[:, None].expand(-1, 2, -1, -1)
            same = lada_ext.affine_sample(image.contiguous(), theta, mode=mode)
            torch.testing.assert_close(lada_ext.affine_sample(image, theta, mode=mode), same)

    def test_expanded_gradient(self, device: str) -> None:
        arguments = cast(AFFINES["odd"](generator("odd")), torch.float64, device)
        grads = []
        for reduce in (torch.sum, lambda out: (out * torch.ones_like(out)).sum()):
            leaf = arguments["image"].detach().requires_grad_()
            reduce(lada_ext.affine_sample(leaf, arguments["theta"])).backward()
            grads.append(leaf.grad)
        torch.testing.assert_close(*grads)

    def test_autocast_leaves_the_dtype(self, device: str) -> None:
        image, theta = torch.randn(1, 1, 4, 4, device=device), torch.eye(2, 3, device=device)[None]
        with torch.autocast(device, dtype=torch.bfloat16):
            out = lada_ext.affine_sample(image, theta)
            of_half = lada_ext.affine_sample(image.bfloat16(), theta.bfloat16())
        assert out.dtype == torch.float32
        assert of_half.dtype == torch.bfloat16
        torch.testing.assert_close(out, image, rtol=0, atol=2e-6)

    def test_theta_in_another_dtype(self, device: str) -> None:
        image, theta = torch.randn(2, 1, 4, 4, device=device), torch.eye(2, 3, device=device).expand(2, 2, 3)
        leaf = theta.to(torch.float64).requires_grad_()
        lada_ext.affine_sample(image, leaf).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float64
        assert torch.equal(
            lada_ext.affine_sample(image, theta.to(torch.bfloat16)), lada_ext.affine_sample(image, theta)
        )


class TestTransformsOfTorch:
    """vmap, torch.compile and opcheck."""

    @pytest.mark.parametrize("in_dims", [(None, 0), (0, None), (0, 0), (1, 2)], ids=str)
    @pytest.mark.parametrize("transforms", [None, 3])
    def test_vmap(self, in_dims: tuple[int | None, int | None], transforms: int | None, device: str) -> None:
        g = generator("vmap")
        count, batch = 4, 2
        lead = () if transforms is None else (transforms,)
        image = torch.randn(batch, 2, 5, 4, generator=g, dtype=torch.float64).to(device)
        theta = torch.eye(2, 3, dtype=torch.float64) + 0.2 * torch.randn(batch, *lead, 2, 3, generator=g)
        theta = theta.to(device)
        inputs = [
            t if dim is None else torch.stack([t * (1 + 0.1 * i) for i in range(count)], dim)
            for t, dim in zip((image, theta), in_dims, strict=True)
        ]
        out = torch.vmap(lada_ext.affine_sample, in_dims)(*inputs)
        for i in range(count):
            one = [t if dim is None else t.select(dim, i) for t, dim in zip(inputs, in_dims, strict=True)]
            torch.testing.assert_close(out[i], lada_ext.affine_sample(*one))

    def test_vmap_of_the_backward(self) -> None:
        arguments = arguments_of("several_transforms", PLAIN, torch.float64, "cpu")
        leaves = [arguments[k].requires_grad_() for k in ("image", "theta")]
        out = lada_ext.affine_sample(*leaves, arguments["size"])
        grads = torch.randn(3, *out.shape, generator=generator("grads"), dtype=torch.float64)
        batched = torch.autograd.grad(out, leaves, grads, is_grads_batched=True, retain_graph=True)
        for i in range(3):
            one = torch.autograd.grad(out, leaves, grads[i], retain_graph=True)
            for got, want in zip(batched, one, strict=True):
                torch.testing.assert_close(got[i], want)

    def test_vmap_over_statistics_is_an_error(self) -> None:
        image, theta = torch.randn(1, 2, 4, 4), torch.eye(2, 3)[None]
        with pytest.raises(ValueError, match="vmap over mean or std is not supported"):
            torch.vmap(lambda m: lada_ext.affine_sample(image, theta, normalize=(m, m)))(torch.ones(3, 2))

    @pytest.mark.parametrize("dynamic", [False, True])
    @pytest.mark.skipif(bool(EMULATED), reason="compiles for minutes under the detectors")
    def test_compile(self, dynamic: bool, device: str) -> None:
        @torch.compile(fullgraph=True, dynamic=dynamic, backend="aot_eager")
        def step(image: Tensor, theta: Tensor) -> Tensor:
            return lada_ext.affine_sample(image, theta, (3, 5), "bicubic", "border", normalize=STATISTICS) * 2

        for batch in (2, 3):
            image, theta = bytes_and_theta(device, batch, 3, 7, 9)
            leaves = [theta.clone().requires_grad_() for _ in range(2)]
            expected = 2 * lada_ext.affine_sample(image, leaves[0], (3, 5), "bicubic", "border", normalize=STATISTICS)
            actual = step(image, leaves[1])
            torch.testing.assert_close(actual, expected)
            actual.sum().backward()
            expected.sum().backward()
            torch.testing.assert_close(leaves[1].grad, leaves[0].grad)

    def test_opcheck_of_bytes(self) -> None:
        image, theta = bytes_and_theta("cpu", 2, 3, 7, 9)
        constants = [torch.tensor(s) for s in STATISTICS]
        for last in (image, image.to(memory_format=torch.channels_last)):
            arguments = (last, theta.clone().requires_grad_(), [4, 5], "bicubic", "border", True, *constants)
            torch.library.opcheck(torch.ops.lada_ext.affine_sample, arguments)

    def test_tags_say_which_path_repeats(self) -> None:
        ops = torch.ops.lada_ext
        assert torch.Tag.nondeterministic_bitwise in ops.affine_sample_backward.default.tags
        assert torch.Tag.nondeterministic_bitwise not in ops.affine_sample.default.tags


class TestErrors:
    """Each names the argument, what was expected, and what came."""

    image, theta = torch.zeros(2, 1, 4, 4), torch.zeros(2, 2, 3)

    def test_image(self) -> None:
        with pytest.raises(TypeError, match=r"affine_sample: image must have dtype float64.* or uint8, got Long"):
            lada_ext.affine_sample(self.image.long(), self.theta)
        with pytest.raises(ValueError, match=r"image must have shape \(B, channels, H, W\).*got \[2, 1, 0, 4\]"):
            lada_ext.affine_sample(self.image[:, :, :0], self.theta)
        with pytest.raises(ValueError, match=r"image must have shape \(B, channels, H, W\).*got \[1, 4, 4\]"):
            lada_ext.affine_sample(self.image[0], self.theta[:1], size=(4, 4))

    def test_theta(self) -> None:
        for theta in (self.theta[:1], self.theta[:, :, :2], self.theta[:, None, None], self.theta[0]):
            with pytest.raises(ValueError, match=r"theta must have shape \(B, 2, 3\) or \(B, K, 2, 3\) with B = 2"):
                lada_ext.affine_sample(self.image, theta)
        with pytest.raises(TypeError, match="theta must have dtype"):
            lada_ext.affine_sample(self.image, self.theta.long())

    def test_size_and_options(self) -> None:
        for size in ([-1, 4], [0, 4], [3, 0]):
            with pytest.raises(
                ValueError, match=rf"size must be \(height, width\) of at least 1, got \[{size[0]}, {size[1]}\]"
            ):
                lada_ext.affine_sample(self.image, self.theta, size=size)
        with pytest.raises(ValueError, match="mode must be 'bilinear', 'nearest' or 'bicubic', got 'area'"):
            lada_ext.affine_sample(self.image, self.theta, mode="area")
        with pytest.raises(ValueError, match="padding_mode must be 'zeros', 'border' or 'reflection', got 'wrap'"):
            lada_ext.affine_sample(self.image, self.theta, padding_mode="wrap")

    def test_normalization(self) -> None:
        def sampled(mean: Any, std: Any) -> Tensor:
            return lada_ext.affine_sample(self.image, self.theta, normalize=(mean, std))

        with pytest.raises(ValueError, match=r"std must be positive, got .*0"):
            sampled([0.5], [0.0])
        with pytest.raises(ValueError, match=r"mean must have shape \[1\], got \[3\]"):
            sampled([0.5] * 3, [1.0])
        with pytest.raises(ValueError, match="mean of normalize is a constant and cannot require a gradient"):
            sampled(torch.ones(1, requires_grad=True), [1.0])
        with pytest.raises(ValueError, match="give both of mean and std, or neither"):
            torch.ops.lada_ext.affine_sample(self.image, self.theta, [4, 4], mean=torch.ones(1))

    def test_integer_image_has_no_gradient(self) -> None:
        arguments = (self.image.byte(), self.theta, "bilinear", "zeros", False, None, None, [True, False])
        with pytest.raises(TypeError, match="an image of uint8 has no gradient"):
            torch.ops.lada_ext.affine_sample_backward(self.image, *arguments)

    def test_gradient_of_another_shape(self) -> None:
        arguments = (self.image, self.theta, "bilinear", "zeros", False, None, None, [True, False])
        with pytest.raises(ValueError, match=r"grad must have shape \[2, 1, 4, 4\], got \[1, 1, 4, 4\]"):
            torch.ops.lada_ext.affine_sample_backward(self.image[:1], *arguments)
