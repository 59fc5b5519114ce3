"""entropy, variation_ratio and pair_score against their definitions in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from samples import LOGITS, PAIRS, cast, generator
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference

ROW_SCORES = ["entropy", "variation_ratio"]
PAIR_KINDS = [(gamma, score) for gamma in (1.0, 0.3) for score in ROW_SCORES]


def gradients(f: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor | None) -> list[Tensor]:
    """Gradients of f's output, weighted by `grad`, or of its sum, whose gradient has stride 0."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = f(*leaves)
    (out.sum() if grad is None else (out * grad.to(out)).sum()).backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("op", ROW_SCORES)
@pytest.mark.parametrize("name", LOGITS)
def test_row_score(op: str, name: str, dtype: torch.dtype, device: str) -> None:
    logits = cast(LOGITS[name](generator(name)), dtype, device)["logits"]
    assert_close(getattr(lada_ext, op)(logits), getattr(reference, op)(logits.double()))


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "stride_0"])
@pytest.mark.parametrize("op", ROW_SCORES)
@pytest.mark.parametrize("name", LOGITS)
def test_row_score_gradient(op: str, name: str, weighted: bool, dtype: torch.dtype, device: str) -> None:
    logits = cast(LOGITS[name](generator(name)), dtype, device)["logits"]
    grad = torch.randn(logits.shape[:-1], generator=generator("grad")).to(device) if weighted else None
    (actual,) = gradients(getattr(lada_ext, op), [logits], grad)
    (expected,) = gradients(getattr(reference, op), [logits.double()], grad)
    assert actual.dtype == dtype
    assert_close(actual, expected)


@pytest.mark.parametrize("name", [n for n in LOGITS if LOGITS[n](generator(n))["logits"].dim() > 1])
def test_bald(name: str, dtype: torch.dtype, device: str) -> None:
    logits = cast(LOGITS[name](generator(name)), dtype, device)["logits"]
    passes = torch.stack([logits, logits.flip(-1), 0.5 * logits])
    assert_close(lada_ext.bald(passes), reference.bald(passes.double()), slack=4)


def test_bald_is_zero_for_equal_passes_and_log_c_for_certain_ones_that_disagree(device: str) -> None:
    same = torch.randn(7, 5, generator=generator("bald")).to(device).expand(4, 7, 5)
    assert_close(lada_ext.bald(same), torch.zeros(7))
    certain = torch.full((8, 1, 8), -math.inf, device=device)
    certain[range(8), 0, range(8)] = 0
    assert lada_ext.bald(certain).item() == pytest.approx(3.0)
    assert lada_ext.bald(certain, base=math.e).item() == pytest.approx(math.log(8))


def test_bald_gradient(device: str) -> None:
    logits = torch.randn(4, 6, 5, generator=generator("bald"), dtype=torch.float64).to(device)
    (actual,) = gradients(lada_ext.bald, [logits], None)
    (expected,) = gradients(reference.bald, [logits], None)
    assert_close(actual, expected)
    for bad in (torch.zeros(5), torch.zeros(0, 3, 5)):
        with pytest.raises(ValueError, match=r"bald: logits must have shape \(T, \.\.\., C\)"):
            lada_ext.bald(bad)


@pytest.mark.parametrize("exponent", [-30, -10, -3])
@pytest.mark.parametrize("op", ROW_SCORES)
def test_almost_certain_rows_keep_relative_accuracy(op: str, exponent: int) -> None:
    logits = torch.tensor([[0.0, exponent * math.log(10), -80.0]], dtype=torch.float32)
    actual = getattr(lada_ext, op)(logits).double()
    p = 10.0**exponent
    expected = p / (1 + p) if op == "variation_ratio" else (math.log1p(p) - p / (1 + p) * math.log(p)) / math.log(2)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_entropy_base() -> None:
    logits = torch.zeros(1, 8)
    assert lada_ext.entropy(logits).item() == pytest.approx(3.0)
    assert lada_ext.entropy(logits, base=math.e).item() == pytest.approx(math.log(8))
    assert lada_ext.entropy(logits, base=0.5).item() == pytest.approx(-3.0)


def test_first_of_tied_classes_takes_the_gradient(device: str) -> None:
    logits = torch.zeros(1, 70, device=device, requires_grad=True)
    lada_ext.variation_ratio(logits).sum().backward()
    assert logits.grad is not None
    assert logits.grad.argmin().item() == 0
    assert logits.grad[0, 1:].min().item() > 0


@pytest.mark.parametrize(("gamma", "score"), PAIR_KINDS)
@pytest.mark.parametrize("name", PAIRS)
def test_pair_score(name: str, gamma: float, score: str, dtype: torch.dtype, device: str) -> None:
    tensors = list(cast(PAIRS[name](generator(name)), dtype, device).values())
    expected = reference.pair_score(*(t.double() for t in tensors), gamma, score)
    assert_close(lada_ext.pair_score(*tensors, gamma, score), expected, slack=2)


@pytest.mark.parametrize("needed", [(True, True, True), (False, False, True), (True, False, False)])
@pytest.mark.parametrize("score", ROW_SCORES)
@pytest.mark.parametrize("name", PAIRS)
def test_pair_score_gradient(name: str, score: str, needed: tuple[bool, ...], dtype: torch.dtype, device: str) -> None:
    tensors = list(cast(PAIRS[name](generator(name)), dtype, device).values())
    grad = torch.randn(len(tensors[0]), generator=generator("grad")).to(device)

    def run(f: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor | None]:
        leaves = [t.detach().requires_grad_(need) for t, need in zip(inputs, needed, strict=True)]
        out = f(*leaves, 0.7, score)
        (out * grad.to(out)).sum().backward()
        return [leaf.grad for leaf in leaves]

    actual = run(lada_ext.pair_score, tensors)
    expected = run(reference.pair_score, [t.double() for t in tensors])
    assert [g is not None for g in actual] == list(needed)
    for got, want in zip(actual, expected, strict=True):
        if got is not None and want is not None:
            assert_close(got, want)


@pytest.mark.parametrize("op", ROW_SCORES)
def test_scores_under_autocast_keep_their_accuracy(op: str, device: str) -> None:
    logits = torch.randn(9, 10, generator=generator("autocast")).to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert_close(getattr(lada_ext, op)(logits), getattr(reference, op)(logits.double()))


def test_errors_name_the_argument() -> None:
    good = torch.zeros(3, 4)
    with pytest.raises(TypeError, match=r"entropy: logits must have dtype float64.*got Int"):
        lada_ext.entropy(torch.zeros(3, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"entropy: logits must have shape \(\.\.\., C\).*got \[3, 0\]"):
        lada_ext.entropy(torch.zeros(3, 0))
    with pytest.raises(ValueError, match=r"variation_ratio: logits must have shape"):
        lada_ext.variation_ratio(torch.tensor(1.0))
    for base in (0.0, -2.0, 1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="entropy: base must be positive, finite and not 1"):
            lada_ext.entropy(good, base=base)
    with pytest.raises(ValueError, match=r"pair_score: logits_b must have shape \[3, 4\], got \[2, 4\]"):
        lada_ext.pair_score(good, torch.zeros(2, 4), torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match=r"pair_score: mixed must have shape \(P, N, C\).*got \[3, 0, 4\]"):
        lada_ext.pair_score(good, good, torch.zeros(3, 0, 4))
    with pytest.raises(TypeError, match=r"pair_score: mixed must have the dtype of logits_a"):
        lada_ext.pair_score(good, good, torch.zeros(3, 2, 4).double())
    with pytest.raises(ValueError, match="score must be 'entropy' or 'variation_ratio', got 'bald'"):
        lada_ext.pair_score(good, good, torch.zeros(3, 2, 4), score="bald")


def test_second_derivatives_are_refused() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(lada_ext.entropy(logits).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not supported"):
        grad.sum().backward()
