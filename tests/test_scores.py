"""The row scores, BALD, top_k and pair_score against their definitions in float64."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator

import pytest
import scipy.special
import scipy.stats
import torch
from samples import INF, LOGITS, NAN, PAIRS, PASSES, cast, generator
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference

ROW_SCORES = ["entropy", "variation_ratio", "margin"]
PAIR_SCORES = ["entropy", "variation_ratio"]
PAIR_KINDS = [(gamma, score) for gamma in (1.0, 0.3) for score in PAIR_SCORES]


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


def test_bald_is_zero_for_equal_passes_and_log_c_for_certain_ones_that_disagree(device: str) -> None:
    same = torch.randn(7, 5, generator=generator("bald")).to(device).expand(4, 7, 5)
    assert_close(lada_ext.bald(same), torch.zeros(7))
    certain = torch.full((8, 1, 8), -math.inf, device=device)
    certain[range(8), 0, range(8)] = 0
    assert lada_ext.bald(certain).item() == pytest.approx(3.0)
    assert lada_ext.bald(certain, base=math.e).item() == pytest.approx(math.log(8))


@pytest.mark.parametrize("exponent", [-30, -10, -3])
@pytest.mark.parametrize("op", ROW_SCORES)
def test_almost_certain_rows_keep_relative_accuracy(op: str, exponent: int) -> None:
    logits = torch.tensor([[0.0, exponent * math.log(10), -80.0]], dtype=torch.float32)
    actual = getattr(lada_ext, op)(logits).double()
    p = 10.0**exponent
    expected = {
        "entropy": (math.log1p(p) - p / (1 + p) * math.log(p)) / math.log(2),
        "variation_ratio": p / (1 + p),
        "margin": 2 * p / (1 + p),
    }[op]
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
@pytest.mark.parametrize("score", PAIR_SCORES)
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


def test_entropy_is_that_of_scipy(dtype: torch.dtype, device: str) -> None:
    logits = (3 * torch.randn(200, 17, generator=generator("scipy"), dtype=torch.float64)).to(device, dtype)
    p = scipy.special.softmax(logits.double().cpu().numpy(), -1)
    assert_close(lada_ext.entropy(logits), torch.from_numpy(scipy.stats.entropy(p, base=2, axis=-1)))


@pytest.mark.parametrize("name", PASSES)
def test_bald(name: str, dtype: torch.dtype, device: str) -> None:
    logits = cast(PASSES[name](generator(name)), dtype, device)["logits"]
    assert_close(lada_ext.bald(logits), reference.bald(logits.double()))
    assert_close(lada_ext.bald(logits, base=math.e), reference.bald(logits.double(), math.e))


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "stride_0"])
@pytest.mark.parametrize("name", PASSES)
def test_bald_gradient(name: str, weighted: bool, dtype: torch.dtype, device: str) -> None:
    logits = cast(PASSES[name](generator(name)), dtype, device)["logits"]
    grad = torch.randn(logits.shape[1:-1], generator=generator("grad")).to(device) if weighted else None
    (actual,) = gradients(lada_ext.bald, [logits], grad)
    if name == "invalid_rows":  # the reference's gradient is NaN at -inf; ours only where the score is NaN
        assert torch.equal(actual.isnan().any(-1), lada_ext.bald(logits).isnan().expand(actual.shape[:-1]))
        return
    (expected,) = gradients(reference.bald, [logits.double()], grad)
    assert_close(actual, expected)


def test_bald_is_batchbalds_by_its_definition(device: str) -> None:
    """batchbald_redux: H(mean_k p_k) - mean_k H(p_k) of log-probabilities (N, K, C), in nats."""
    log_p = torch.randn(11, 8, 5, generator=generator("bald"), dtype=torch.float64).log_softmax(-1)
    mean = torch.logsumexp(log_p, 1) - math.log(8)
    marginal = -(mean * mean.exp()).sum(1)
    conditional = -(log_p * log_p.exp()).sum((1, 2)) / 8
    assert_close(lada_ext.bald(log_p.transpose(0, 1).to(device), base=math.e), marginal - conditional)


def test_bald_of_agreeing_passes_is_zero(device: str) -> None:
    logits = torch.randn(1, 50, 10, generator=generator("agree")).to(device).expand(20, 50, 10)
    assert lada_ext.bald(logits).abs().max().item() < 2e-6


@pytest.mark.parametrize("classes", [4, 10, 100, 1000])
@pytest.mark.parametrize("op", [*ROW_SCORES, "bald"])
def test_scores_do_not_depend_on_the_batch(op: str, classes: int, device: str) -> None:
    """A row's score is the same, to the last bit, in any batch, at any place and alignment."""
    logits = torch.randn(3, 83, classes, generator=generator("batch")).to(device)
    logits = logits if op == "bald" else logits[0]
    score = getattr(lada_ext, op)
    whole = score(logits)
    assert torch.equal(torch.cat([score(part) for part in logits.split([1, 6, 16, 60], -2)]), whole)
    order = torch.randperm(83, generator=generator("order")).to(device)
    assert torch.equal(score(logits.index_select(-2, order)), whole[order])
    shifted = torch.cat([logits.new_zeros(1), logits.flatten()])[1:].view(logits.shape)
    assert torch.equal(score(shifted), whole)


@pytest.mark.heavy
@pytest.mark.parametrize("classes", [4, 10, 103, 1000])
@pytest.mark.parametrize("op", ["entropy", "bald"])
def test_gradients_beyond_the_caches(op: str, classes: int, device: str) -> None:
    """More than 16 MiB, which on the CPU pass by the caches, are those of parts that do not."""
    g, rows = generator(f"large-{classes}"), (18 << 20) // (4 * classes) // 16 * 16 + 5
    passes = (2,) if op == "bald" else ()
    logits = 3 * torch.randn(*passes, rows, classes, generator=g).to(device)
    weights = torch.randn(rows, generator=g).to(device)

    def gradient(part: slice) -> Tensor:
        leaf = logits[..., part, :].clone().requires_grad_()
        return torch.autograd.grad(getattr(lada_ext, op)(leaf), leaf, weights[part])[0]

    whole, size = gradient(slice(None)), rows // 5 // 16 * 16
    assert whole.nbytes > 16 << 20
    parts = [gradient(slice(i, i + size)) for i in range(0, rows, size)]
    assert torch.equal(whole, torch.cat(parts, -2))
    few = logits[..., :20, :].double().requires_grad_()
    (expected,) = torch.autograd.grad(getattr(reference, op)(few), few, weights[:20].double())
    assert_close(whole[..., :20, :], expected)


@pytest.mark.parametrize("op", ROW_SCORES)
def test_scores_of_extreme_gaps(op: str, device: str) -> None:
    logits = torch.tensor([[1e4, 0, -1e4], [1e4, 1e4, 0], [-1e4, -1e4, -1e4], [3e38, -3e38, 0]], device=device)
    assert_close(getattr(lada_ext, op)(logits), getattr(reference, op)(logits.double()))
    logits.requires_grad_()
    getattr(lada_ext, op)(logits).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_margin_gradient_at_a_tie_goes_to_the_first_two(device: str) -> None:
    logits = torch.zeros(1, 70, device=device, requires_grad=True)
    lada_ext.margin(logits).sum().backward()
    assert logits.grad is not None
    p = 1 / 70
    expected = torch.zeros(1, 70)
    expected[0, 0], expected[0, 1] = -p, p
    assert_close(logits.grad, expected)


@pytest.mark.parametrize("k", [0, 1, 7, 100])
def test_top_k(k: int, dtype: torch.dtype, device: str) -> None:
    """Few different values, so that nearly all of it is ties; NaN and both infinities among them."""
    scores = torch.randint(5, (100,), generator=generator("top")).to(dtype)
    scores[[3, 40, 41]] = torch.tensor([NAN, INF, NAN], dtype=dtype)
    scores[70:75] = -INF
    values, indices = lada_ext.top_k(scores.to(device), k)
    expected, order = reference.top_k(scores, k)
    assert indices.tolist() == order.tolist()
    assert_close(values, expected)


@pytest.mark.parametrize("sizes", [[97], [1] * 97, [0, 40, 50, 7], [3, 94]])
@pytest.mark.parametrize("score", [*ROW_SCORES, "bald"])
def test_topk_scores_of_chunks_are_those_of_the_whole(score: str, sizes: list[int], device: str) -> None:
    logits = torch.randint(3, (2, 97, 4), generator=generator("chunks")).float().to(device)
    logits[:, 5, 1] = NAN
    logits = logits if score == "bald" else logits[0]
    k = 30
    values, indices = lada_ext.topk_scores(iter(logits.split(sizes, -2)), k, score)
    expected, order = lada_ext.top_k(getattr(lada_ext, score)(logits), k)
    assert torch.equal(indices, order)
    assert torch.equal(values, expected)
    assert 5 not in indices.tolist()


def test_topk_scores_holds_one_chunk_at_a_time() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def chunks() -> Iterator[Tensor]:
        nonlocal most
        for _ in range(20):
            chunk = torch.randn(50, 3)
            alive.add(chunk)
            most = max(most, len(alive))
            yield chunk
            del chunk

    lada_ext.topk_scores(chunks(), 5)
    assert most <= 2


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
    with pytest.raises(ValueError, match=r"bald: logits must have shape \(T, \.\.\., C\).*got \[0, 3, 4\]"):
        lada_ext.bald(torch.zeros(0, 3, 4))
    with pytest.raises(ValueError, match="top_k: k must lie between 0 and M = 3, got 4"):
        lada_ext.top_k(torch.zeros(3), 4)
    with pytest.raises(ValueError, match=r"top_k: scores must have shape \(M,\)"):
        lada_ext.top_k(good, 1)
    with pytest.raises(ValueError, match="topk_scores: k must be at most the number of instances, 6, got 7"):
        lada_ext.topk_scores([good, good], 7)
    with pytest.raises(ValueError, match="topk_scores: score must be one of 'entropy'.*got 'energy'"):
        lada_ext.topk_scores([good], 1, "energy")
    with pytest.raises(ValueError, match=r"pair_score: logits_b must have shape \[3, 4\], got \[2, 4\]"):
        lada_ext.pair_score(good, torch.zeros(2, 4), torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match=r"pair_score: mixed must have shape \(P, N, C\).*got \[3, 0, 4\]"):
        lada_ext.pair_score(good, good, torch.zeros(3, 0, 4))
    with pytest.raises(TypeError, match=r"pair_score: mixed must have the dtype of logits_a"):
        lada_ext.pair_score(good, good, torch.zeros(3, 2, 4).double())
    with pytest.raises(ValueError, match="score must be 'entropy' or 'variation_ratio', got 'margin'"):
        lada_ext.pair_score(good, good, torch.zeros(3, 2, 4), score="margin")


@pytest.mark.filterwarnings("error")  # torch's own way, a call for each, warns
@pytest.mark.parametrize("op", [*ROW_SCORES, "bald"])
def test_vmap_is_one_call(op: str, device: str) -> None:
    logits = torch.randn(3, 4, 2, 5, generator=generator("vmap")).to(device).requires_grad_()
    function = getattr(lada_ext, op)
    for dim in range(3):
        expected = torch.stack([function(part) for part in logits.unbind(dim)])
        actual = torch.vmap(function, dim)(logits)
        assert torch.equal(actual, expected)
        grad = torch.randn(actual.shape, generator=generator("grad")).to(device)
        for got, want in zip(*(torch.autograd.grad(out, logits, grad) for out in (actual, expected)), strict=True):
            assert torch.equal(got, want)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("op", [*ROW_SCORES, "bald"])
def test_gradients_of_many_outputs_at_once(op: str, device: str) -> None:
    logits = torch.randn(3, 4, 5, generator=generator("vmap")).to(device).requires_grad_()
    out = getattr(lada_ext, op)(logits)
    each = torch.eye(out.numel(), device=device).unflatten(1, out.shape)
    (actual,) = torch.autograd.grad(out, logits, each, is_grads_batched=True, retain_graph=True)
    expected = torch.stack([torch.autograd.grad(out, logits, grad, retain_graph=True)[0] for grad in each])
    assert torch.equal(actual, expected)


@pytest.mark.filterwarnings("error")
def test_vmap_of_pair_score(device: str) -> None:
    a, b = torch.randn(2, 3, 4, 5, generator=generator("vmap")).to(device)
    mixed = torch.randn(4, 3, 2, 5, generator=generator("mixed")).to(device)
    expected = torch.stack([lada_ext.pair_score(a[i], b[1], mixed[:, i]) for i in range(3)])
    assert torch.equal(torch.vmap(lada_ext.pair_score, (0, None, 1))(a, b[1], mixed), expected)


def test_pair_score_takes_the_widest_type_under_autocast(device: str) -> None:
    a, b = torch.randn(2, 4, 5, generator=generator("autocast")).to(device)
    mixed = torch.randn(4, 2, 5, generator=generator("mixed")).to(device).bfloat16()
    expected = lada_ext.pair_score(a, b.bfloat16().float(), mixed.float())
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(lada_ext.pair_score(a, b.bfloat16(), mixed), expected)


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="top_k: scores must be a tensor, got list"):
        lada_ext.top_k([1.0, 2.0], 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"topk_scores: a chunk must have 2 axes, got shape \(3,\)"):
        lada_ext.topk_scores(torch.rand(4, 3), 1)
    with pytest.raises(TypeError, match="pair_score: logits_b must be a tensor, got None"):
        lada_ext.pair_score(torch.rand(2, 3, requires_grad=True), None, torch.rand(2, 1, 3))  # type: ignore[arg-type]


def test_second_derivatives_are_refused() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(lada_ext.entropy(logits).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for lada_ext::.*_backward is not implemented"):
        grad.sum().backward()
