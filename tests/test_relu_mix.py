"""relu_mix_logits: against the reference, its gradient, what it refuses, and what a mixture must not depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import NAN, RELU_MIXES, SANITIZED, cast, generator, relu_mix
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference


def arguments_of(name: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    return cast(RELU_MIXES[name](generator(name)), dtype, device)


def doubled(arguments: dict[str, Any]) -> dict[str, Any]:
    return {k: v if v is None else v.detach().double() for k, v in arguments.items()}


def logits_and_gradient(op: Any, arguments: dict[str, Any], grad: Tensor) -> tuple[Tensor, Tensor]:
    lam = arguments["lam"].detach().requires_grad_()
    logits = op(**{**arguments, "lam": lam})
    return logits, torch.autograd.grad(logits, lam, grad.to(logits))[0]


def grad_for(arguments: dict[str, Any]) -> Tensor:
    shape = (*arguments["lam"].shape, arguments["weight"].shape[0])
    return torch.randn(shape, generator=generator("grad"), dtype=torch.float64)


@pytest.mark.parametrize("name", RELU_MIXES)
def test_like_the_reference(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = arguments_of(name, dtype, device)
    grad = grad_for(arguments)
    logits, to_lam = logits_and_gradient(lada_ext.relu_mix_logits, arguments, grad)
    expected, exact = logits_and_gradient(reference.relu_mix_logits, doubled(arguments), grad)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert to_lam.dtype == arguments["lam"].dtype
    assert_close(logits, expected, slack=8)
    finite = expected.isfinite().all(-1)  # at a mixture of -inf the reference multiplies infinity by a gradient of 0
    scale = max(1.0, exact[finite].abs().max().item() if finite.any() else 0.0)
    assert_close(to_lam[finite] / scale, exact[finite] / scale, slack=8)


def test_lam_of_another_precision(device: str) -> None:
    arguments = arguments_of("odd", torch.bfloat16, device)
    lam = torch.rand(arguments["lam"].shape, generator=generator("lam"), dtype=torch.float64).to(device)
    logits, to_lam = logits_and_gradient(lada_ext.relu_mix_logits, {**arguments, "lam": lam}, grad_for(arguments))
    assert (logits.dtype, to_lam.dtype) == (torch.float32, torch.float64)
    assert_close(logits, reference.relu_mix_logits(**{**doubled(arguments), "lam": lam}), slack=8)


def test_gradcheck(device: str) -> None:
    a, b, lam, weight, bias = arguments_of("few_features", torch.float64, device).values()
    function = lambda lam: lada_ext.relu_mix_logits(a, b, lam, weight, bias)  # noqa: E731
    assert torch.autograd.gradcheck(function, lam.requires_grad_())


def test_gradient_that_is_one_number(device: str) -> None:
    arguments = arguments_of("odd", torch.float32, device)
    lam = arguments["lam"].requires_grad_()
    (actual,) = torch.autograd.grad(lada_ext.relu_mix_logits(**arguments).sum(), lam)
    _, exact = logits_and_gradient(reference.relu_mix_logits, doubled(arguments), torch.ones(7, 5, 10))
    assert_close(actual, exact, slack=8)


@pytest.mark.parametrize("name", ["odd", "many_samples", "hundred_classes", "wide"])
def test_a_pair_does_not_depend_on_the_others(name: str, device: str) -> None:
    if SANITIZED and name == "wide":
        pytest.skip("many features; the plain emulation takes them")
    arguments = arguments_of(name, torch.float32, device)
    grad = grad_for(arguments)
    whole = logits_and_gradient(lada_ext.relu_mix_logits, arguments, grad)
    for pair in range(len(arguments["a"])):
        part = {k: v[pair : pair + 1] if k in ("a", "b", "lam") else v for k, v in arguments.items()}
        for one, all_ in zip(
            logits_and_gradient(lada_ext.relu_mix_logits, part, grad[pair : pair + 1]), whole, strict=True
        ):
            assert torch.equal(one[0], all_[pair])


def test_a_sample_and_a_class_do_not_depend_on_the_others(device: str) -> None:
    arguments = arguments_of("many_samples", torch.float32, device)
    a, b, lam, weight, bias = arguments.values()
    grad = grad_for(arguments)
    whole, to_lam = logits_and_gradient(lada_ext.relu_mix_logits, arguments, grad)
    assert torch.equal(lada_ext.relu_mix_logits(a, b, lam, weight[3:], bias[3:]), whole[..., 3:])
    some = {**arguments, "lam": lam[:, 4:7]}
    logits, to_some = logits_and_gradient(lada_ext.relu_mix_logits, some, grad[:, 4:7])
    assert torch.equal(logits, whole[:, 4:7])
    assert torch.equal(to_some, to_lam[:, 4:7])


@pytest.mark.parametrize("place", ["a", "b", "lam"])
def test_nan_stays_in_its_mixtures(place: str, device: str) -> None:
    for name in ("odd", "vectors"):
        arguments = arguments_of(name, torch.float32, device)
        grad = grad_for(arguments)
        clean = logits_and_gradient(lada_ext.relu_mix_logits, arguments, grad)
        arguments[place][1, 3] = NAN
        hit = torch.zeros_like(clean[0], dtype=torch.bool)
        hit[1, 3 if place == "lam" else slice(None)] = True
        logits, to_lam = logits_and_gradient(lada_ext.relu_mix_logits, arguments, grad)
        assert torch.equal(logits.isnan(), hit)
        assert torch.equal(logits[~hit], clean[0][~hit])
        assert torch.equal(to_lam[~hit.any(-1)], clean[1][~hit.any(-1)])
        assert place == "lam" or to_lam[1].isnan().all()


def test_rows_off_the_alignment(device: str) -> None:
    arguments = arguments_of("vectors", torch.float32, device)
    shifted = dict(arguments)
    for name in ("a", "b", "weight"):
        memory = torch.empty(arguments[name].numel() + 1, device=device)[1:]
        shifted[name] = memory.view(arguments[name].shape).copy_(arguments[name])
    grad = grad_for(arguments)
    for actual, expected in zip(
        logits_and_gradient(lada_ext.relu_mix_logits, shifted, grad),
        logits_and_gradient(lada_ext.relu_mix_logits, arguments, grad),
        strict=True,
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("frozen", ["a", "b", "weight", "bias"])
def test_only_lam_has_a_gradient(frozen: str, device: str) -> None:
    arguments = arguments_of("odd", torch.float32, device)
    arguments[frozen].requires_grad_()
    with pytest.raises(ValueError, match=rf"{frozen} must not require a gradient.*detach it, or compose beta_mix"):
        lada_ext.relu_mix_logits(**arguments)
    with torch.no_grad():
        lada_ext.relu_mix_logits(**arguments)
    arguments[frozen] = arguments[frozen].detach()
    assert not lada_ext.relu_mix_logits(**arguments).requires_grad


def test_vmap_is_a_loop() -> None:
    arguments = arguments_of("odd", torch.float64, "cpu")
    maps = [torch.stack([v, v.flip(0)]) for v in arguments.values()]
    for dims in ((0, 0, 0, None, None), (0, None, 0, None, None), (0, 0, 0, 0, 0), (None, None, None, 0, None)):
        inputs = [m if d == 0 else v for m, v, d in zip(maps, arguments.values(), dims, strict=True)]
        one = lambda i, inputs=inputs, dims=dims: [v if d is None else v[i] for v, d in zip(inputs, dims, strict=True)]  # noqa: E731
        expected = torch.stack([lada_ext.relu_mix_logits(*one(i)) for i in range(2)])
        assert torch.equal(torch.vmap(lada_ext.relu_mix_logits, dims)(*inputs), expected)


def test_autocast_takes_the_wider_type() -> None:
    a, b, lam, weight, bias = arguments_of("odd", torch.float32, "cpu").values()
    halves = a.bfloat16(), b.bfloat16()
    expected = lada_ext.relu_mix_logits(*(h.float() for h in halves), lam, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lada_ext.relu_mix_logits(*halves, lam, weight, bias), expected)


def test_errors_name_the_argument() -> None:
    good = cast(relu_mix(3, 2, 5, 4)(generator("good")), torch.float32, "cpu")
    for name, value, error, message in (
        ("a", torch.zeros(3, 5, 1), ValueError, r"a must have shape \(P, D\), got \[3, 5, 1\]"),
        ("a", torch.zeros(3, 5, dtype=torch.int64), TypeError, "a must have dtype float64, .* got Long"),
        ("b", torch.zeros(3, 4), ValueError, r"b must have shape \[3, 5\], got \[3, 4\]"),
        ("b", torch.zeros(3, 5).half(), TypeError, r"b must have the dtype of a \(Float\), got Half"),
        ("lam", torch.zeros(3), ValueError, r"lam must have shape \(P, N\), got \[3\]"),
        ("lam", torch.zeros(2, 2), ValueError, r"lam must have shape \(P, N\) with P = 3 as a, got \[2, 2\]"),
        ("lam", torch.zeros(3, 2).int(), TypeError, "lam must have dtype float64, .* got Int"),
        ("weight", torch.zeros(4), ValueError, r"weight must have shape \(C, D\), got \[4\]"),
        ("weight", torch.zeros(4, 6), ValueError, r"weight must have shape .* D = 5 as a, got \[4, 6\]"),
        ("weight", torch.zeros(0, 5), ValueError, r"weight must have .* at least one class .* got \[0, 5\]"),
        ("weight", torch.zeros(4, 5).double(), TypeError, r"weight must have the dtype of a \(Float\), got Double"),
        ("bias", torch.zeros(5), ValueError, r"bias must have shape \[4\], got \[5\]"),
        ("bias", torch.zeros(4).double(), TypeError, r"bias must have the dtype of a \(Float\), got Double"),
    ):
        with pytest.raises(error, match=f"relu_mix_logits: {message}"):
            lada_ext.relu_mix_logits(**{**good, name: value})
    with pytest.raises(ValueError, match=r"grad must have shape \[3, 2, 4\], got \[3, 2\]"):
        torch.ops.lada_ext.relu_mix_logits_backward(torch.zeros(3, 2), *list(good.values())[:4])
