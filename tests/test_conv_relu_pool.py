"""conv_relu_pool and its module: against the reference and its gradients, what it must not depend on, what it refuses.

On the CPU, since on CUDA it is torch's ops; of these the composition alone is tested, with tensors of the CPU.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from samples import CONVOLUTIONS, INF, NAN, PAIRED_CONVOLUTIONS, cast, convolution, generator
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference
from lada_ext.conv_relu_pool import side_by_side
from lada_ext.nn import ConvReluPool

# Weights of 9 MiB; prints by how many MiB the gradient of the images made the process larger at its peak.
IMAGE_ALONE = """
import torch, lada_ext
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024
image = torch.randn(16, 512, 5, 5, requires_grad=True)
result = lada_ext.conv_relu_pool(image, torch.randn(512, 512, 3, 3))
before = peak()
result.sum().backward()
print(peak() - before)
"""


def arguments_of(name: str, dtype: torch.dtype) -> dict[str, Any]:
    return cast(CONVOLUTIONS[name](generator(name)), dtype, "cpu")


def with_gradients(op: Any, arguments: dict[str, Any], grad: Tensor | None = None) -> tuple[Tensor, ...]:
    """The result and its gradients to image, weight and bias."""
    tensors = [v.detach().requires_grad_() for v in arguments.values() if isinstance(v, Tensor)]
    names = [k for k, v in arguments.items() if isinstance(v, Tensor)]
    result = op(**{**arguments, **dict(zip(names, tensors, strict=True))})
    grad = torch.randn(result.shape, generator=generator("grad"), dtype=torch.float64) if grad is None else grad
    return result, *torch.autograd.grad(result, tensors, grad.to(result))


def doubled(arguments: dict[str, Any]) -> dict[str, Any]:
    """With the numbers in float64."""
    floating = {k: v for k, v in arguments.items() if isinstance(v, Tensor) and v.is_floating_point()}
    return {**arguments, **{k: v.detach().double() for k, v in floating.items()}}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_like_the_reference(name: str, dtype: torch.dtype) -> None:
    arguments = arguments_of(name, dtype)
    ours = with_gradients(lada_ext.conv_relu_pool, arguments)
    exact = with_gradients(reference.conv_relu_pool, doubled(arguments))
    assert ours[0].dtype == dtype
    for actual, expected in zip(ours, exact, strict=True):
        scale = max(1.0, expected.abs().max().item() if expected.numel() else 0.0)
        assert_close(actual / scale, expected / scale, slack=8)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_composition_of_other_devices_is_the_same(name: str) -> None:
    """What CUDA tensors get, of the CPU's."""
    on_cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    arguments = arguments_of(name, torch.float64)
    image, weight, bias, padding, pool = arguments.values()
    mean = pool == "mean"
    op, backward = torch.ops.lada_ext.conv_relu_pool.default, torch.ops.lada_ext.conv_relu_pool_backward.default
    result, where = op(image, weight, bias, padding, mean)
    composed, composed_where = op.redispatch(on_cuda, image, weight, bias, padding, mean)
    torch.testing.assert_close(composed, result)
    assert torch.equal(composed_where, where)
    assert composed.stride() == result.stride()
    grad = torch.randn(result.shape, generator=generator("grad"), dtype=torch.float64)
    for needed in ([True, True, True], [False, True, False], [True, False, True]):
        ours = backward(grad, image, weight, where, padding, mean, needed)
        theirs = backward.redispatch(on_cuda, grad, image, weight, where, padding, mean, needed)
        torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize(
    "name", ["odd", "no_bias", "one_column", "longer_than_a_vector", "mean", "mean_odd", "mean_long_rows"]
)
def test_gradcheck(name: str) -> None:
    arguments = arguments_of(name, torch.float64)
    tensors = {k: v.requires_grad_() for k, v in arguments.items() if isinstance(v, Tensor)}
    function = lambda *t: lada_ext.conv_relu_pool(**{**arguments, **dict(zip(tensors, t, strict=True))})  # noqa: E731
    assert torch.autograd.gradcheck(function, tuple(tensors.values()))


@pytest.mark.parametrize("name", ["odd", "longer_than_a_vector", "mean"])
@pytest.mark.parametrize("wanted", ["image", "weight", "bias"])
def test_one_gradient_alone(name: str, wanted: str) -> None:
    arguments = arguments_of(name, torch.float32)
    order = ["image", "weight", "bias"]
    whole = with_gradients(lada_ext.conv_relu_pool, arguments)
    leaf = arguments[wanted].requires_grad_()
    result = lada_ext.conv_relu_pool(**arguments)
    grad = torch.randn(result.shape, generator=generator("grad"), dtype=torch.float64)
    assert torch.equal(torch.autograd.grad(result, leaf, grad.float())[0], whole[1 + order.index(wanted)])


@pytest.mark.parametrize("name", ["odd", "many_images", "policy", "longer_than_a_vector", "mean"])
def test_threads_change_no_bit(name: str) -> None:
    arguments, before = arguments_of(name, torch.float32), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(with_gradients(lada_ext.conv_relu_pool, arguments))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_an_image_does_not_depend_on_the_others() -> None:
    arguments = arguments_of("many_images", torch.float32)
    whole = with_gradients(lada_ext.conv_relu_pool, arguments)
    grad = torch.randn(whole[0].shape, generator=generator("grad"), dtype=torch.float64)
    for i in (0, 17, 36):
        one = {**arguments, "image": arguments["image"][i : i + 1]}
        result, to_image, *_ = with_gradients(lada_ext.conv_relu_pool, one, grad[i : i + 1])
        assert torch.equal(result[0], whole[0][i])
        assert torch.equal(to_image[0], whole[1][i])


def paired(name: str, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments, and those by which torch puts the pairs' images side by side."""
    arguments = cast(PAIRED_CONVOLUTIONS[name](generator(name)), dtype, "cpu")
    first, second = arguments["pairs"].unbind(1)
    joined = torch.cat([arguments["image"][first], arguments["image"][second]], 1)
    return arguments, {**arguments, "image": joined, "pairs": None}


@pytest.mark.parametrize("name", PAIRED_CONVOLUTIONS)
def test_pairs_are_images_side_by_side(name: str, dtype: torch.dtype) -> None:
    arguments, joined = paired(name, dtype)
    found = []
    for each in (arguments, joined):
        leaves = {k: each[k].detach().requires_grad_() for k in ("weight", "bias") if each[k] is not None}
        result = lada_ext.conv_relu_pool(**{**each, **leaves})
        grad = torch.randn(result.shape, generator=generator("grad"), dtype=torch.float64).to(dtype)
        found.append([result, *torch.autograd.grad(result, list(leaves.values()), grad)])
    for actual, expected in zip(*found, strict=True):
        assert torch.equal(actual, expected)
    assert_close(found[0][0], reference.conv_relu_pool(**doubled(arguments)), slack=8)


def test_images_of_pairs_may_have_gradients() -> None:
    """By way of a composition, as in the training of AdaMixup's policy."""
    arguments, _ = paired("odd", torch.float64)
    gradients = []
    for op in (lada_ext.conv_relu_pool, reference.conv_relu_pool):
        image = arguments["image"].detach().requires_grad_()
        gradients.append(torch.autograd.grad(op(**{**arguments, "image": image}).square().sum(), image)[0])
    torch.testing.assert_close(*gradients)
    image = arguments["image"].requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(lada_ext.conv_relu_pool(**arguments), reference.conv_relu_pool(**arguments))
    with pytest.raises(ValueError, match="image must not require a gradient where it is given as pairs"):
        torch.ops.lada_ext.conv_relu_pool(image, arguments["weight"], None, 1, False, arguments["pairs"])


@pytest.mark.parametrize("name", PAIRED_CONVOLUTIONS)
def test_ops_on_pairs_keep_their_promises(name: str) -> None:
    """Of opcheck, and to be what they are on other devices."""
    on_cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    arguments, _ = paired(name, torch.float64)
    image, weight, bias, padding, pool, pairs = arguments.values()
    op, backward = torch.ops.lada_ext.conv_relu_pool.default, torch.ops.lada_ext.conv_relu_pool_backward.default
    forward = image, weight, bias, padding, pool == "mean", pairs
    torch.library.opcheck(op, (image, weight.requires_grad_(), *forward[2:]))
    result, where = op(*forward)
    for ours, theirs in zip((result, where), op.redispatch(on_cuda, *forward), strict=True):
        torch.testing.assert_close(theirs, ours)
    grad = torch.randn(result.shape, generator=generator("grad"), dtype=torch.float64)
    back = grad, image, weight.detach(), where, padding, pool == "mean", [False, True, True], pairs
    torch.library.opcheck(backward, back)
    torch.testing.assert_close(backward.redispatch(on_cuda, *back), backward(*back))
    with pytest.raises(ValueError, match="image has no gradient where it is given as pairs"):
        backward(*back[:6], [True, True, True], pairs)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_are_put_side_by_side_as_they_lie(memory_format: torch.memory_format) -> None:
    arguments, joined = paired("odd")
    image = arguments["image"].contiguous(memory_format=memory_format)
    made = side_by_side(image, arguments["pairs"])
    assert torch.equal(made, joined["image"])
    assert made.is_contiguous(memory_format=memory_format)


def test_vmap_of_pairs_is_a_loop() -> None:
    arguments, _ = paired("odd")
    both = torch.stack([arguments["pairs"], arguments["pairs"].flip(0)])
    images = torch.stack([arguments["image"], -arguments["image"]])
    of_pairs = lambda pairs: lada_ext.conv_relu_pool(**{**arguments, "pairs": pairs})  # noqa: E731
    of_images = lambda image: lada_ext.conv_relu_pool(**{**arguments, "image": image})  # noqa: E731
    assert torch.equal(torch.vmap(of_pairs)(both), torch.stack([*map(of_pairs, both)]))
    assert torch.equal(torch.vmap(of_images)(images), torch.stack([*map(of_images, images)]))


def test_errors_of_pairs_name_the_argument() -> None:
    arguments, _ = paired("odd")
    for name, value, error, message in (
        ("pairs", torch.zeros(3, dtype=torch.int64), ValueError, r"pairs must have shape \(P, 2\), got \[3\]"),
        ("pairs", torch.zeros(3, 2), TypeError, "pairs must have dtype int64, got Float"),
        ("pairs", torch.tensor([[0, 1], [5, 0]]), ValueError, r"pairs must lie in \[0, 5\), got pairs\[1, 0\] = 5"),
        ("pairs", torch.tensor([[0, -1]]), ValueError, r"pairs must lie in \[0, 5\), got pairs\[0, 1\] = -1"),
        (
            "weight",
            torch.zeros(2, 4, 3, 3),
            ValueError,
            r"weight must have .* C = 8 as two of image, got \[2, 4, 3, 3\]",
        ),
    ):
        with pytest.raises(error, match=f"conv_relu_pool: {message}"):
            lada_ext.conv_relu_pool(**{**arguments, name: value})
    learned = {**arguments, "image": arguments["image"].requires_grad_()}  # a composition, which no op checks
    for value, error, message in (
        ([[0, 1]], TypeError, "pairs must be a tensor, got list"),
        (torch.zeros(3, 2), TypeError, "pairs must have dtype int64"),
        (torch.zeros(3, 3, dtype=torch.int64), ValueError, r"pairs must have shape \(P, 2\), got \[3, 3\]"),
    ):
        with pytest.raises(error, match=f"conv_relu_pool: {message}"):
            lada_ext.conv_relu_pool(**{**learned, "pairs": value})


@pytest.mark.parametrize("name", ["odd", "policy"])
@pytest.mark.parametrize(("bias", "place"), [(2.0**40, 0), (INF, 0), (NAN, 3)])
def test_equals_pass_their_gradient_as_in_torch(bias: float, place: int, name: str) -> None:
    """To the first of them, or the last NaN; what counts is the result, bias and all."""
    arguments = arguments_of(name, torch.float32)
    image, weight, shift, padding, _ = arguments.values()
    arguments["bias"] = torch.full_like(shift, bias)
    for actual, expected in zip(
        with_gradients(lada_ext.conv_relu_pool, arguments),
        with_gradients(reference.conv_relu_pool, arguments),
        strict=True,
    ):
        assert_close(actual, expected, slack=8)
    _, where = torch.ops.lada_ext.conv_relu_pool(image, weight, arguments["bias"], padding)
    assert torch.all(where == 1 << place)


@pytest.mark.parametrize("name", ["odd", "longer_than_a_vector"])
@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_no_number_stays_in_its_windows(value: float, pool: str, name: str) -> None:
    """A kernel's row ends within a vector, and what lies behind it must not be seen."""
    arguments = {**arguments_of(name, torch.float32), "pool": pool}
    clean = with_gradients(lada_ext.conv_relu_pool, arguments)
    arguments["image"][1, 2, 0, 0] = value
    result, to_image, *_ = with_gradients(lada_ext.conv_relu_pool, arguments)
    expected, *_ = with_gradients(reference.conv_relu_pool, doubled(arguments))
    assert_close(result, expected, slack=8)
    assert torch.equal(result[1, :, 2:, 2:], clean[0][1, :, 2:, 2:])
    for actual, before in ((result, clean[0]), (to_image, clean[1])):
        assert torch.equal(actual[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("name", ["odd", "longer_than_a_vector"])
def test_a_gradient_that_is_infinite_stays_in_its_window(name: str) -> None:
    arguments = arguments_of(name, torch.float32)
    grad = torch.ones_like(lada_ext.conv_relu_pool(**arguments))
    clean = with_gradients(lada_ext.conv_relu_pool, arguments, grad.double())
    hit = (clean[0][1, 0, 0] > 0).nonzero()[0, 0]
    grad[1, 0, 0, hit] = INF
    _, to_image, *_ = with_gradients(lada_ext.conv_relu_pool, arguments, grad.double())
    _, expected, *_ = with_gradients(reference.conv_relu_pool, doubled(arguments), grad.double())
    assert torch.equal(to_image.isfinite(), expected.isfinite())
    assert torch.equal(to_image[[0, 2]], clean[1][[0, 2]])


def test_windows_that_are_cut_off_pass_nothing() -> None:
    arguments = arguments_of("odd", torch.float32)
    arguments["bias"].fill_(-1e3)
    result, *gradients = with_gradients(lada_ext.conv_relu_pool, arguments)
    assert not result.any()
    assert not any(gradient.any() for gradient in gradients)


def test_places_that_are_none_are_no_places() -> None:
    """`where` comes from the op; what a caller makes up is not followed out of bounds."""
    arguments = arguments_of("odd", torch.float32)
    result, where = torch.ops.lada_ext.conv_relu_pool(*[*arguments.values()][:4])
    backward = torch.ops.lada_ext.conv_relu_pool_backward
    rest = arguments["image"], arguments["weight"]
    made_up = [
        backward(torch.ones_like(result), *rest, torch.full_like(where, value), 1, False, [True] * 3)
        for value in (15, 255, 240, 0)
    ]
    for whole, with_more in zip(made_up[0], made_up[1], strict=True):
        assert torch.equal(whole, with_more)
    assert not any(gradient.any() for nothing in made_up[2:] for gradient in nothing)
    with pytest.raises(ValueError, match=r"where must have shape \[3, 4, 3, 4\], got \[3\]"):
        backward(torch.ones_like(result), *rest, where[:, 0, 0, 0], 1, False, [True] * 3)
    with pytest.raises(TypeError, match="where must have dtype uint8, got Float"):
        backward(torch.ones_like(result), *rest, where.float(), 1, False, [True] * 3)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_that_are_frozen_take_no_room_for_gradients() -> None:
    run = subprocess.run([sys.executable, "-c", IMAGE_ALONE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 80


def test_vmap_is_a_loop() -> None:
    arguments = arguments_of("odd", torch.float64)
    weights = torch.stack([arguments["weight"], -arguments["weight"]])
    function = lambda weight: lada_ext.conv_relu_pool(**{**arguments, "weight": weight})  # noqa: E731
    assert torch.equal(torch.vmap(function)(weights), torch.stack([function(weight) for weight in weights]))


def test_autocast_takes_the_wider_type() -> None:
    arguments = arguments_of("odd", torch.float32)
    half = arguments["image"].bfloat16()
    expected = lada_ext.conv_relu_pool(**{**arguments, "image": half.float()})
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lada_ext.conv_relu_pool(**{**arguments, "image": half}), expected)


def test_errors_name_the_argument() -> None:
    good = cast(convolution((2, 3, 5, 6), (4, 3, 3, 2), 0)(generator("good")), torch.float32, "cpu")
    for name, value, error, message in (
        ("image", None, TypeError, "image must be a tensor, got NoneType"),
        ("image", torch.zeros(3, 5, 6), ValueError, r"image must have shape \(B, C, H, W\) .* got \[3, 5, 6\]"),
        ("image", torch.zeros(2, 3, 5, 6).int(), TypeError, "image must have dtype float64, .* got Int"),
        ("image", torch.zeros(2, 3, 3, 6), ValueError, "image must be at least 4 high, .* got 3"),
        ("image", torch.zeros(2, 3, 5, 2), ValueError, "image must be at least 3 wide, .* got 2"),
        ("weight", torch.zeros(4, 2, 3, 2), ValueError, r"weight must have .* C = 3 as image, got \[4, 2, 3, 2\]"),
        ("weight", torch.zeros(0, 3, 3, 2), ValueError, r"weight must have .* none of them 0, .* got \[0, 3, 3, 2\]"),
        (
            "weight",
            torch.zeros(4, 3, 3, 2).half(),
            TypeError,
            r"weight must have the dtype of image \(Float\), got Half",
        ),
        ("bias", torch.zeros(3), ValueError, r"bias must have shape \[4\], got \[3\]"),
        ("padding", -1, ValueError, "padding must be at least 0, got -1"),
        ("pool", "min", ValueError, "pool must be 'max' or 'mean', got 'min'"),
    ):
        with pytest.raises(error, match=f"conv_relu_pool: {message}"):
            lada_ext.conv_relu_pool(**{**good, name: value})


@pytest.mark.parametrize("channels", [1, 3, 8, 64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("composed", [True, False, None])
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_the_module_is_the_layers_it_stands_for(channels: int, bias: bool, composed: bool, pool: Any) -> None:
    torch.manual_seed(channels)
    module = ConvReluPool(channels, 6, 5, padding=2, bias=bias, pool=pool)
    module.composed = composed
    image = torch.randn(3, channels, 13, 11)
    layers = torch.nn.Sequential(torch.nn.Conv2d(channels, 6, 5, padding=2, bias=bias), torch.nn.ReLU())
    layers[0].load_state_dict(module.state_dict())
    pooling = torch.nn.MaxPool2d(2) if pool == "max" else torch.nn.AvgPool2d(2)
    torch.testing.assert_close(module(image), pooling(layers(image)))
    if channels % 2 == 0:
        torch.testing.assert_close(module(torch.cat(image.chunk(2, 1)), torch.arange(6).view(2, 3).t()), module(image))
    assert repr(module).endswith(f"pool={pool!r})")


@pytest.mark.parametrize("padding", [(1, 2), "same"])
def test_one_padding_for_all_sides(padding: object) -> None:
    """The op has no other, and would take the first of two for both."""
    with pytest.raises(TypeError, match="ConvReluPool: padding must be an int, the same on each side, got"):
        ConvReluPool(30, 4, 3, padding=padding)  # type: ignore[arg-type]
