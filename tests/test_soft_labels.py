"""mix_labels and soft_cross_entropy: against the reference, against torch's cross entropy, and their errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import LABELLED, cast, generator
from tolerance import assert_close
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext
from lada_ext import reference


def doubled(arguments: dict[str, Any], needs_gradient: bool = False) -> dict[str, Any]:
    floating = {k: v.detach().double() for k, v in arguments.items() if v.is_floating_point()}
    return {**arguments, **{k: v.requires_grad_(needs_gradient) for k, v in floating.items()}}


@pytest.mark.parametrize("name", LABELLED)
def test_mix_labels(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = cast(LABELLED[name](generator(name)), dtype, device)
    logits, y_a, y_b = (arguments[k] for k in ("logits", "y_a", "y_b"))
    lam = arguments["lam"].detach().requires_grad_()
    targets = lada_ext.mix_labels(y_a, y_b, lam, logits.shape[-1])
    exact_lam = lam.detach().double().requires_grad_()
    expected = reference.mix_labels(y_a, y_b, exact_lam, logits.shape[-1])
    assert_close(targets, expected)
    weights = torch.randn(targets.shape, generator=generator("grad")).to(device)
    (grad,) = torch.autograd.grad((targets * weights).sum(), lam)
    (exact,) = torch.autograd.grad((expected * weights).sum(), exact_lam)
    assert_close(grad, exact)


@pytest.mark.parametrize("name", LABELLED)
def test_soft_cross_entropy(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = cast(LABELLED[name](generator(name)), dtype, device)
    exact = doubled(arguments, needs_gradient=True)
    arguments.update({k: arguments[k].detach().requires_grad_() for k in ("logits", "lam")})
    loss = lada_ext.soft_cross_entropy(**arguments, reduction="none")
    expected = reference.soft_cross_entropy(**exact, reduction="none")
    assert_close(loss, expected, slack=4)
    weights = torch.randn(loss.shape, generator=generator("grad")).to(device)

    def gradients(loss: Tensor, inputs: dict[str, Any]) -> list[Tensor]:
        return list(torch.autograd.grad((loss * weights).sum(), [inputs["logits"], inputs["lam"]]))

    actual, wanted = gradients(loss, arguments), gradients(expected, exact)
    assert_close(actual[0], wanted[0], slack=4)
    if name != "extremes":  # the derivative to the weight of a logit of -inf is infinite; the reference leaves it out
        assert_close(actual[1], wanted[1], slack=4)


def test_equals_torch_of_soft_targets(device: str) -> None:
    arguments = cast(LABELLED["odd"](generator("odd")), torch.float64, device)
    logits, y_a, y_b, lam = arguments.values()
    targets = lada_ext.mix_labels(y_a, y_b, lam, logits.shape[-1])
    for reduction in ("mean", "sum"):
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1), reduction=reduction)
        assert_close(lada_ext.soft_cross_entropy(logits, y_a, y_b, lam, reduction), expected)


@pytest.mark.parametrize("needed", ["logits", "lam"])
def test_only_the_needed_gradient_is_computed(needed: str, device: str) -> None:
    arguments = cast(LABELLED["odd"](generator("odd")), torch.float64, device)
    every = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in arguments.items()}
    lada_ext.soft_cross_entropy(**every).backward()
    only = {**arguments, needed: arguments[needed].clone().requires_grad_()}
    lada_ext.soft_cross_entropy(**only).backward()
    assert torch.equal(only[needed].grad, every[needed].grad)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_invalid_rows_are_nan_alone(value: float, device: str) -> None:
    arguments = cast(LABELLED["odd"](generator("odd")), torch.float32, device)
    arguments["logits"][2, 1, 3] = value
    arguments["logits"][4, 0] = -torch.inf
    loss = lada_ext.soft_cross_entropy(**arguments, reduction="none")
    expected = torch.zeros(7, 3, dtype=torch.bool)
    expected[2, 1] = expected[4, 0] = True
    assert torch.equal(loss.isnan().cpu(), expected)


def test_gradcheck() -> None:
    logits, y_a, y_b, lam = LABELLED["odd"](generator("odd")).values()
    leaves = logits.requires_grad_(), lam.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, w: lada_ext.soft_cross_entropy(z, y_a, y_b, w, "none"), leaves)
    assert torch.autograd.gradcheck(lambda w: lada_ext.mix_labels(y_a, y_b, w, 10), leaves[1:])


def test_an_infinite_gradient_times_nothing_is_nan(device: str) -> None:
    """Where both classes are one lam changes nothing; inf times that is no number, as elsewhere."""
    lam, y = torch.full((2,), 0.5, device=device, requires_grad=True), torch.tensor([1, 1], device=device)
    loss = lada_ext.soft_cross_entropy(torch.randn(2, 3, device=device), y, y, lam, "none")
    loss.backward(torch.tensor([1.0, torch.inf], device=device))
    assert lam.grad is not None
    assert lam.grad[0] == 0
    assert lam.grad[1].isnan()


def test_vmap_is_a_loop() -> None:
    arguments = [torch.stack([v, v.flip(0)]) for v in LABELLED["odd"](generator("odd")).values()]
    for function in (
        lambda z, a, b, w: lada_ext.soft_cross_entropy(z, a, b, w, "none"),
        lambda z, a, b, w: lada_ext.mix_labels(a, b, w, z.shape[-1]),
    ):
        expected = torch.stack([function(*(v[i] for v in arguments)) for i in range(2)])
        assert torch.equal(torch.vmap(function)(*arguments), expected)


def test_sums_are_float32_under_autocast() -> None:
    logits, y_a, y_b, lam = cast(LABELLED["odd"](generator("odd")), torch.float32, "cpu").values()
    with torch.autocast("cpu", torch.bfloat16):
        loss = lada_ext.soft_cross_entropy((logits @ torch.eye(10)), y_a, y_b, lam)
    assert loss.dtype == torch.float32


def test_errors_name_the_argument() -> None:
    logits, lam = torch.zeros(3, 2, 5), torch.zeros(3, 2)
    y = torch.zeros(3, dtype=torch.long)
    for bad in (-1, 5):
        with pytest.raises(ValueError, match=rf"soft_cross_entropy: y_b must lie in \[0, 5\), got y_b\[1\] = {bad}"):
            lada_ext.soft_cross_entropy(logits, y, torch.tensor([0, bad, 0]), lam)
        with pytest.raises(ValueError, match=rf"mix_labels: y_a must lie in \[0, 5\), got y_a\[0\] = {bad}"):
            lada_ext.mix_labels(torch.tensor([bad, 0, 0]), y, lam, 5)
    with pytest.raises(ValueError, match="reduction must be 'none', 'mean' or 'sum', got 'max'"):
        lada_ext.soft_cross_entropy(logits, y, y, lam, "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lam must have shape \[3, 2\], got \[3\]"):
        lada_ext.soft_cross_entropy(logits, y, y, lam[:, 0])
    with pytest.raises(ValueError, match=r"y_a must have shape \[3\], got \[2\]"):
        lada_ext.mix_labels(y[:2], y, lam, 5)
    with pytest.raises(TypeError, match="y_a must have dtype int64, got Int"):
        lada_ext.mix_labels(y.int(), y, lam, 5)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        lada_ext.mix_labels(y, y, lam, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_classes_that_do_not_exist_are_nan_on_cuda() -> None:
    logits, lam = torch.zeros(3, 5, device="cuda", requires_grad=True), torch.full((3,), 0.5, device="cuda")
    y_a, y_b = torch.tensor([0, -1, 2], device="cuda"), torch.tensor([1, 0, 5], device="cuda")
    loss = lada_ext.soft_cross_entropy(logits, y_a, y_b, lam, "none")
    assert loss.isnan().tolist() == [False, True, True]
    assert lada_ext.mix_labels(y_a, y_b, lam, 5).isnan().any(1).tolist() == [False, True, True]
