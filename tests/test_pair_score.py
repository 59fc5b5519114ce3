"""Mixed pairs, the quadrature of Beta(tau, tau), and the best of all pairs, against brute force in float64."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.special
import torch
from samples import INDEXED, INF, LOGIT_PAIRS, NAN, cast, generator
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference

SCORES = ["entropy", "variation_ratio"]
BITS = {torch.float64: 64}  # of randomness; float32 and smaller types draw with 32


def gradients(f: Callable[..., Tensor], leaves: list[Tensor], grad: Tensor) -> list[Tensor | None]:
    out = f()
    (out * grad.to(out)).sum().backward()
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", INDEXED)
def test_indexed_pair_score(name: str, score: str, dtype: torch.dtype, device: str) -> None:
    a = cast(INDEXED[name](generator(name)), dtype, device)
    own = a["own"].to(torch.float64 if dtype == torch.float64 else torch.float32)
    grad = torch.randn(len(a["pairs"]), generator=generator("grad")).to(device)

    def run(op: Any, own: Tensor, mixed: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        leaves = [own.detach().requires_grad_(), mixed.detach().requires_grad_()]
        out = op(leaves[0], a["pairs"], leaves[1], 0.7, score)
        return out.detach(), gradients(lambda: out, leaves, grad)

    actual, actual_grads = run(lada_ext.indexed_pair_score, own, a["mixed"])
    expected, expected_grads = run(reference.indexed_pair_score, own.double(), a["mixed"].double())
    assert_close(actual, expected, slack=2)
    for got, want in zip(actual_grads, expected_grads, strict=True):
        assert got is not None
        assert want is not None
        assert_close(got, want, slack=2)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", LOGIT_PAIRS)
def test_mixed_pair_score_is_the_composition(name: str, score: str, dtype: torch.dtype, device: str) -> None:
    a = cast(LOGIT_PAIRS[name](generator(name)), dtype, device)
    wide = {key: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for key, v in a.items()}
    actual = lada_ext.mixed_pair_score(**a, gamma=0.7, score=score)
    expected = reference.mixed_pair_score(**wide, gamma=0.7, score=score, bits=BITS.get(dtype, 32))
    # with logits around 1e4 the rounding of lam itself moves the mixtures
    assert_close(actual, expected, slack=3e3 if name == "huge" else 3)


@pytest.mark.parametrize("score", SCORES)
def test_logits_near_the_largest_number(score: str, device: str) -> None:
    """As far as the docs say."""
    logits = torch.tensor([[2.3e38, 0.0, -2.3e38], [0.0, 2.3e38, 1.0], [1.0, 2.0, 3.0]], device=device)
    pairs, key = torch.tensor([[0, 0], [0, 1], [1, 2]], device=device), lada_ext.make_key(0, device)
    expected = reference.mixed_pair_score(
        logits.double(), pairs, torch.ones(3, device=device), 4, key, 1.0, score, bits=32
    )
    assert_close(lada_ext.mixed_pair_score(logits, pairs, 1.0, 4, key, 1.0, score), expected)


def test_a_class_stays_impossible_where_lam_underflows(dtype: torch.dtype, device: str) -> None:
    """0 times a logit of -inf would be NaN, as it is in the composition."""
    logits = torch.tensor([[0.0, -INF, 1.0], [1.0, 2.0, 0.0]], dtype=dtype, device=device)
    pairs, key = torch.tensor([[0, 1]], device=device).expand(64, 2), lada_ext.make_key(0, device)
    tau = torch.full((64,), 1e-5, dtype=torch.float64, device=device)
    mixed, lam = lada_ext.beta_mix_pairs(logits, pairs, tau, 1, key)
    assert 0 in lam
    assert lada_ext.pair_score(*logits[pairs].unbind(1), mixed).isnan().any()
    expected = reference.mixed_pair_score(logits.double(), pairs, tau, 1, key, bits=BITS.get(dtype, 32))
    assert expected.isfinite().all()
    assert_close(lada_ext.mixed_pair_score(logits, pairs, tau, 1, key), expected)


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", [name for name in LOGIT_PAIRS if name not in {"huge", "ties", "impossible_classes"}])
def test_mixed_pair_score_gradient(
    name: str, score: str, needed: tuple[bool, bool], dtype: torch.dtype, device: str
) -> None:
    a = cast(LOGIT_PAIRS[name](generator(name)), dtype, device)
    wide = {key: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for key, v in a.items()}
    grad = torch.randn(len(a["pairs"]), generator=generator("grad")).to(device)

    def run(op: Any, arguments: dict[str, Any], **more: Any) -> list[Tensor | None]:
        leaves = [
            arguments[key].detach().requires_grad_(need) for key, need in zip(("logits", "tau"), needed, strict=True)
        ]
        merged = {**arguments, "logits": leaves[0], "tau": leaves[1]}
        return gradients(lambda: op(**merged, gamma=0.7, score=score, **more), leaves, grad)

    actual = run(lada_ext.mixed_pair_score, a)
    expected = run(reference.mixed_pair_score, wide, bits=BITS.get(dtype, 32))
    assert [g is not None for g in actual] == list(needed)
    for got, want in zip(actual, expected, strict=True):
        if got is not None and want is not None:
            assert_close(got, want, slack=100 if dtype == torch.float64 else 6)


@pytest.mark.parametrize("score", SCORES)
def test_mixed_pair_score_gradient_where_classes_are_impossible(score: str, device: str) -> None:
    """-inf logits: finite gradients, equal to those of logits so low that their probability is zero."""
    a = cast(LOGIT_PAIRS["impossible_classes"](generator("x")), torch.float64, device)
    a["tau"] = a["tau"].clamp(min=1.0)
    finite = {**a, "logits": a["logits"].clamp(min=-1e7)}
    results = []
    for arguments in (a, finite):
        leaves = [arguments[key].detach().requires_grad_() for key in ("logits", "tau")]
        out = lada_ext.mixed_pair_score(**{**arguments, "logits": leaves[0], "tau": leaves[1]}, score=score)
        out.sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for got, want in zip(*results, strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 6])  # fewer pairs than rows, and more
def test_rows_of_no_pair_have_gradient_zero(count: int, device: str) -> None:
    logits = torch.full((4, 3), NAN, device=device)
    logits[:2] = torch.tensor([[0.0, 1, 2], [2, 0, 1]])
    logits.requires_grad_()
    pairs = torch.tensor([[0, 1]], device=device).expand(count, 2)
    lada_ext.mixed_pair_score(logits, pairs, 1.0, 3, lada_ext.make_key(0, device)).sum().backward()
    assert logits.grad is not None
    assert logits.grad[:2].isfinite().all()
    assert (logits.grad[2:] == 0).all()


def test_mixed_pairs_do_not_depend_on_the_batch(device: str) -> None:
    a = cast(LOGIT_PAIRS["more_pairs_than_rows"](generator("b")), torch.float32, device)
    whole = lada_ext.mixed_pair_score(**a)
    for part in (slice(0, 1), slice(3, 20), slice(20, 83)):
        some = {key: v[part] if key in {"pairs", "tau", "index"} else v for key, v in a.items()}
        assert torch.equal(lada_ext.mixed_pair_score(**some), whole[part])


def test_errors_of_mixed_pairs() -> None:
    logits, pairs, key = torch.zeros(4, 3), torch.tensor([[0, 1], [2, 4]]), lada_ext.make_key(0)
    good = torch.tensor([[0, 1], [2, 3]])
    with pytest.raises(ValueError, match=r"mixed_pair_score: pairs must lie in \[0, 4\), got pairs\[1, 1\] = 4"):
        lada_ext.mixed_pair_score(logits, pairs, 1.0, 2, key)
    with pytest.raises(ValueError, match=r"indexed_pair_score: pairs must lie in \[0, 4\), got pairs\[1, 1\] = 4"):
        lada_ext.indexed_pair_score(torch.zeros(4), pairs, torch.zeros(2, 3, 3))
    with pytest.raises(TypeError, match="indexed_pair_score: own must have dtype Float.*got Double"):
        lada_ext.indexed_pair_score(torch.zeros(4).double(), good, torch.zeros(2, 3, 3))
    with pytest.raises(TypeError, match="pairs must have dtype int64"):
        lada_ext.mixed_pair_score(logits, good.int(), 1.0, 2, key)
    with pytest.raises(ValueError, match=r"tau must be positive, got tau\[1\] = -1"):
        lada_ext.mixed_pair_score(logits, good, torch.tensor([1.0, -1.0]), 2, key)
    for n in (0, 2**31, 2**60):
        with pytest.raises(ValueError, match=rf"n must lie in \[1, 2\^31\), got {n}"):
            lada_ext.mixed_pair_score(logits, good, 1.0, n, key)
    with pytest.raises(ValueError, match="score must be 'entropy' or 'variation_ratio', got 'margin'"):
        lada_ext.mixed_pair_score(logits, good, 1.0, 2, key, score="margin")


@pytest.mark.parametrize("tau", [1e-3, 0.03, 0.5, 1.0, 2.0, 30.0, 1e3])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 12, 40])
def test_beta_nodes_are_exact_for_polynomials(tau: float, n: int) -> None:
    nodes, weights = lada_ext.beta_nodes(tau, n)
    assert nodes.dtype == weights.dtype == torch.float64
    assert ((nodes > 0) & (nodes < 1) & (weights > 0)).all()
    assert (nodes.diff() > 0).all()
    assert torch.equal(nodes + nodes.flip(0), torch.ones(n, dtype=torch.float64)) or n > 1
    torch.testing.assert_close(nodes + nodes.flip(0), torch.ones(n, dtype=torch.float64), rtol=0, atol=1e-15)
    for degree in range(2 * n):
        exact = math.exp(scipy.special.betaln(tau + degree, tau) - scipy.special.betaln(tau, tau))
        assert (weights * nodes**degree).sum().item() == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("tau", [0.3, 1.0, 7.0])
def test_beta_nodes_are_those_of_scipy(tau: float) -> None:
    x, w = scipy.special.roots_jacobi(9, tau - 1, tau - 1)
    nodes, weights = lada_ext.beta_nodes(tau, 9)
    torch.testing.assert_close(nodes, torch.from_numpy((1 + x) / 2), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(weights, torch.from_numpy(w / w.sum()), rtol=1e-10, atol=1e-13)


def test_nodes_are_on_the_cpu_whatever_the_default_device() -> None:
    logits = torch.randn(16, 4, generator=generator("default"))
    expected = lada_ext.top_pairs(logits, 3)
    with torch.device("meta"):
        found = lada_ext.top_pairs(logits, 3)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pairs, expected.pairs)
    with pytest.raises(RuntimeError, match="top_pairs: nodes must be on the CPU, got meta"):
        torch.ops.lada_ext.top_pairs(logits, 3, *torch.rand(2, 5, device="meta"), 1.0, "entropy", False, True)


def test_top_pairs_names_what_is_wrong() -> None:
    with pytest.raises(TypeError, match="top_pairs: logits must be a tensor, got list"):
        lada_ext.top_pairs([[0.0, 1.0]], 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"top_pairs: nodes must be \(lam, weights\), got 1 of them"):
        lada_ext.top_pairs(torch.rand(4, 3), 1, nodes=(torch.rand(1),))  # type: ignore[arg-type]


def test_one_tau_for_all_mixed_pairs() -> None:
    logits, pairs, key = (
        torch.randn(6, 4, generator=generator("tau")),
        torch.tensor([[0, 1], [4, 2]]),
        lada_ext.make_key(1),
    )
    expected = lada_ext.mixed_pair_score(logits, pairs, 0.4, 3, key)
    for tau in (torch.tensor(0.4), torch.full((2, 1), 0.4)):
        tau.requires_grad_()
        scores = lada_ext.mixed_pair_score(logits, pairs, tau, 3, key)
        assert torch.equal(scores, expected)
        scores.sum().backward()
        assert tau.grad is not None
        assert tau.grad.shape == tau.shape


def test_beta_nodes_refuse() -> None:
    for tau in (0.0, -1.0, 1e-17, 1e300, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"beta_nodes: tau must lie in \[1e-12, 1e150\], got"):
            lada_ext.beta_nodes(tau, 3)
    with pytest.raises(ValueError, match="beta_nodes: n must be at least 1, got 0"):
        lada_ext.beta_nodes(1.0, 0)
    with pytest.raises(TypeError, match="beta_nodes: n must be an int, got float"):
        lada_ext.top_pairs(torch.rand(4, 3), 1, n_nodes=3.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("tau", [1e-12, 1e150])
def test_beta_nodes_of_extreme_tau(tau: float) -> None:
    nodes, weights = lada_ext.beta_nodes(tau, 7)
    assert nodes.min() > 0
    assert nodes.max() < 1
    assert weights.sum() == pytest.approx(1)


def test_nodes_that_are_none() -> None:
    half, logits = torch.tensor([0.5], dtype=torch.float64), torch.eye(4)
    with pytest.raises(
        ValueError, match=r"lam and weights of nodes must both have shape \(n,\), got \(1,\) and \(2,\)"
    ):
        lada_ext.top_pairs(logits, 1, nodes=(half, half.repeat(2)))
    with pytest.raises(ValueError, match="weights of nodes must be finite"):
        lada_ext.top_pairs(logits, 1, nodes=(half, half / 0))
    with pytest.raises(TypeError, match="lam of nodes must be a tensor, got list"):
        lada_ext.top_pairs(logits, 1, nodes=([0.5], half))


class TestTopPairsTrace:
    """Of any nodes, and of pools of any size."""

    @pytest.mark.parametrize("symmetric", [True, False])
    def test_compile(self, symmetric: bool) -> None:
        lam, weights = lada_ext.beta_nodes(0.5, 3)
        nodes = (lam if symmetric else lam**2, weights)
        best = lambda z, lam, weights: lada_ext.top_pairs(z, 4, nodes=(lam, weights))  # noqa: E731
        compiled = torch.compile(best, fullgraph=True, dynamic=True, backend="aot_eager")
        for rows in (6, 7):
            logits = torch.randn(rows, 3, generator=generator("trace"))
            for got, want in zip(compiled(logits, *nodes), best(logits, *nodes), strict=True):
                assert torch.equal(got, want)

    def test_export(self) -> None:
        class Best(torch.nn.Module):
            def forward(self, logits: Tensor) -> Tensor:
                return lada_ext.top_pairs(logits, 1).evaluated

        logits = torch.randn(6, 3, generator=generator("trace"))
        program = torch.export.export(Best(), (logits,), dynamic_shapes=({0: torch.export.Dim("m", min=2)},))
        for rows in (2, 5):
            assert program.module()(logits[:rows]) == Best()(logits[:rows])

    def test_saved_and_loaded_as_weights_alone(self) -> None:
        best, file = lada_ext.top_pairs(torch.eye(6, 3), 2), io.BytesIO()
        torch.save(best, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        assert isinstance(loaded, lada_ext.TopPairs)
        assert all(map(torch.equal, loaded, best))

    def test_evaluated_is_float64(self) -> None:
        assert lada_ext.top_pairs(torch.zeros(3, 2), 1).evaluated.dtype == torch.float64
        assert lada_ext.top_pairs(torch.zeros(1, 2), 0).evaluated == 0


@pytest.mark.parametrize("score", SCORES)
def test_a_mixture_without_a_finite_logit_has_no_score(score: str, dtype: torch.dtype, device: str) -> None:
    """Wherever it is among the others, and whatever they are: of many, since it was rounding that gave some a score."""
    g = generator("invalid mixture")
    mixed = (3 * torch.randn(500, 5, 10, generator=g)).to(dtype)
    mixed[torch.arange(500), torch.arange(500) % 5] = -torch.inf
    ends = torch.zeros(500, 10, dtype=dtype, device=device)
    assert lada_ext.pair_score(ends, ends, mixed.to(device), score=score).isnan().all()


def brute_force(logits: Tensor, k: int, nodes: tuple[Tensor, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    return reference.top_pairs(logits.double().cpu(), k, *nodes, **options)


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("rows", range(2, 61))
def test_top_pairs_are_those_of_brute_force(rows: int, score: str, disjoint: bool, device: str) -> None:
    logits = 3 * torch.randn(rows, 4, generator=generator(f"{rows}"), dtype=torch.float64).to(device)
    nodes, most = lada_ext.beta_nodes(0.5, 3), rows // 2 if disjoint else rows * (rows - 1) // 2
    for k in {1, min(7, most), most}:
        for prune in (True, False):
            got = lada_ext.top_pairs(logits, k, 0.5, 3, 0.8, score, disjoint, prune=prune)
            scores, pairs = brute_force(logits, k, nodes, gamma=0.8, score=score, disjoint=disjoint)
            assert torch.equal(got.pairs.cpu(), pairs)
            assert_close(got.scores, scores)
            assert 0 < got.evaluated.item() <= 1 or disjoint


@pytest.mark.parametrize("gamma", [0.0, -0.5, 3.0])
def test_top_pairs_for_any_gamma(gamma: float, device: str) -> None:
    logits = 3 * torch.randn(200, 5, generator=generator("gamma"), dtype=torch.float64).to(device)
    got = lada_ext.top_pairs(logits, 40, gamma=gamma)
    scores, pairs = brute_force(logits, 40, lada_ext.beta_nodes(1.0, 5), gamma=gamma)
    assert torch.equal(got.pairs.cpu(), pairs)
    assert_close(got.scores, scores)


@pytest.mark.parametrize(
    ("lam", "weights"), [((0.2, 0.5), (0.0, 1.0)), ((0.1, 0.3, 0.5), (0.0, 2.0, 0.0)), ((0.5,), (0.0,))]
)
def test_nodes_without_weight_do_not_count(
    lam: tuple[float, ...], weights: tuple[float, ...], dtype: torch.dtype, device: str
) -> None:
    logits = (4 * torch.randn(200, 10, generator=generator("weights"))).to(device, dtype)
    nodes = torch.tensor(lam, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    got = lada_ext.top_pairs(logits, 100, nodes=nodes)
    every = lada_ext.top_pairs(logits, 100, nodes=nodes, prune=False)
    assert torch.equal(got.pairs, every.pairs)
    assert torch.equal(got.scores, every.scores)


def test_nodes_so_light_that_float32_has_none_of_them(device: str) -> None:
    logits = (4 * torch.randn(200, 10, generator=generator("light"))).to(device)
    lam, weights = lada_ext.beta_nodes(0.5, 5)
    nodes = lam, weights * torch.tensor([1e-60, 1, 1, 1, 1e-60], dtype=torch.float64)
    got, every = (lada_ext.top_pairs(logits, 100, nodes=nodes, prune=prune) for prune in (True, False))
    assert torch.equal(got.pairs, every.pairs)


def test_ties_under_a_large_weight(device: str) -> None:
    """Scores of which most is rounding: pruning still drops none that would win its tie."""
    logits = (1e-3 * torch.randn(300, 10, generator=generator("large gamma"))).to(device)
    got, every = (lada_ext.top_pairs(logits, 50, gamma=1000.0, prune=prune) for prune in (True, False))
    assert torch.equal(got.pairs, every.pairs)


@pytest.mark.parametrize("classes", [9, 17])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("score", SCORES)
def test_top_pairs_in_every_dtype(score: str, scale: float, classes: int, dtype: torch.dtype, device: str) -> None:
    """Scores agree with brute force, and pruning changes nothing; pairs may part where scores agree to rounding."""
    logits = (scale * torch.randn(150, classes, generator=generator("dtype"))).to(device, dtype)
    got = lada_ext.top_pairs(logits, 60, score=score)
    every = lada_ext.top_pairs(logits, 60, score=score, prune=False)
    scores, _ = brute_force(logits, 60, lada_ext.beta_nodes(1.0, 5), score=score)
    assert_close(got.scores, scores, slack=3 if scale < 1e3 else 3e3)
    assert torch.equal(got.pairs, every.pairs)
    assert torch.equal(got.scores, every.scores)
    twice = 64 * 63 / (150 * 149)  # the pairs of 64 rows
    assert every.evaluated.item() == pytest.approx(1 + twice)
    assert got.evaluated.item() <= 1 + twice + 1e-6


def test_top_pairs_skip_most_of_a_large_pool(device: str) -> None:
    logits = 3 * torch.randn(1500, 10, generator=generator("large")).to(device)
    got = lada_ext.top_pairs(logits, 20)
    assert got.evaluated.item() < 0.05
    every = lada_ext.top_pairs(logits[:400], 20, prune=False)
    assert torch.equal(lada_ext.top_pairs(logits[:400], 20).pairs, every.pairs)


def test_ties_go_to_the_smaller_indices(device: str) -> None:
    constant = torch.zeros(300, 4, device=device)
    got = lada_ext.top_pairs(constant, 400)
    expected = torch.combinations(torch.arange(300))[:400]
    assert torch.equal(got.pairs.cpu(), expected)
    assert_close(got.scores, torch.full((400,), 6.0, dtype=torch.float64))
    twice = torch.randn(40, 5, generator=generator("twice"), dtype=torch.float64).repeat(2, 1).to(device)
    scores, pairs = brute_force(twice, 300, lada_ext.beta_nodes(1.0, 5))
    got = lada_ext.top_pairs(twice, 300)
    assert_close(got.scores, scores)
    same = (scores[:-1] - scores[1:]).abs() > 1e-9  # between different scores the order is fixed
    assert torch.equal(got.pairs.cpu()[1:][same & same.roll(-1)], pairs[1:][same & same.roll(-1)])


def test_constant_pool_of_any_size_is_quick() -> None:
    """Every pair ties: only the order of the indices can end the search."""
    got = lada_ext.top_pairs(torch.zeros(20_000, 10), 50)
    assert got.pairs.tolist() == [[0, j] for j in range(1, 51)]
    assert got.evaluated.item() < 1e-3


@pytest.mark.parametrize("disjoint", [False, True])
def test_pairs_without_a_score_come_last(disjoint: bool, device: str) -> None:
    logits = torch.randn(8, 4, generator=generator("nan"), dtype=torch.float64)
    logits[2, 1], logits[5] = NAN, -INF
    logits[6, :2], logits[7, 2:] = -INF, -INF  # each valid, but every mixture of the two is impossible
    k = 4 if disjoint else 28
    got = lada_ext.top_pairs(logits.to(device), k, disjoint=disjoint)
    scores, pairs = brute_force(logits, k, lada_ext.beta_nodes(1.0, 5), disjoint=disjoint)
    valid = ~scores.isnan()
    assert torch.equal(got.scores.isnan().cpu(), ~valid)
    assert torch.equal(got.pairs.cpu()[valid], pairs[valid])
    if not disjoint:
        assert torch.equal(got.pairs.cpu(), pairs)
    assert len({tuple(pair) for pair in got.pairs.tolist()}) == k


def test_top_pairs_by_samples_of_lam(device: str) -> None:
    """Samples with equal weights; the rule is made symmetric, since a pair has no order."""
    logits = 2 * torch.randn(30, 4, generator=generator("samples"), dtype=torch.float64).to(device)
    lam = torch.rand(6, generator=generator("lam"), dtype=torch.float64)
    got = lada_ext.top_pairs(logits, 50, nodes=(lam, torch.full_like(lam, 1 / 6)))
    both = torch.cat([lam, 1 - lam])
    scores, pairs = brute_force(logits, 50, (both, torch.full_like(both, 1 / 12)))
    assert torch.equal(got.pairs.cpu(), pairs)
    assert_close(got.scores, scores)


def test_top_pairs_follow_a_permutation(device: str) -> None:
    logits = 2 * torch.randn(90, 6, generator=generator("permute"), dtype=torch.float64).to(device)
    order = torch.randperm(90, generator=generator("order")).to(device)
    plain, permuted = lada_ext.top_pairs(logits, 30), lada_ext.top_pairs(logits[order], 30)
    assert torch.equal(order[permuted.pairs].sort(1).values, plain.pairs)
    assert_close(permuted.scores, plain.scores)


@pytest.mark.parametrize("classes", [1, 2, 33, 300])
def test_top_pairs_of_few_and_many_classes(classes: int, device: str) -> None:
    logits = 2 * torch.randn(60, classes, generator=generator("classes"), dtype=torch.float64).to(device)
    got = lada_ext.top_pairs(logits, 25)
    scores, pairs = brute_force(logits, 25, lada_ext.beta_nodes(1.0, 5))
    assert_close(got.scores, scores)
    assert torch.equal(got.pairs.cpu(), pairs)


@pytest.mark.parametrize("classes", [1000, 3000, 10_000])
def test_top_pairs_of_many_equal_logits(classes: int) -> None:
    """The mixture of the last two rows is uniform, that of the first two but for one class, so all additions of a sum
    round alike."""
    logits = torch.zeros(4, classes)
    for row, peak in enumerate((37.0, 37.0, 40.0, 40.0)):
        own, other = (row, row ^ 1)
        logits[row] = -peak
        logits[row, own], logits[row, other] = 0, -2 * peak
    logits[:2, -1] = -INF
    middle = (torch.tensor([0.5], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    scores, pairs = reference.top_pairs(logits.double(), 2, *middle)
    for k in (1, 2):
        for prune in (True, False):
            got = lada_ext.top_pairs(logits, k, nodes=middle, prune=prune)
            assert torch.equal(got.pairs, pairs[:k])
            assert_close(got.scores, scores[:k], slack=10)


@pytest.mark.parametrize("score", SCORES)
def test_scores_of_pairs_with_very_many_classes(score: str) -> None:
    logits = torch.randn(6, 100_000, generator=generator("very many classes")).relu()
    mixed = logits[:, None].roll(1, 0).repeat(1, 2, 1)
    got = lada_ext.pair_score(logits, logits.flip(0), mixed, 0.7, score)
    wide = [each.double() for each in (logits, logits.flip(0), mixed)]
    assert_close(got, reference.pair_score(*wide, 0.7, score))
    pairs, key = torch.tensor([[0, 1], [2, 3], [4, 5]]), lada_ext.make_key(1)
    got = lada_ext.mixed_pair_score(logits, pairs, torch.full((3,), 0.8), 3, key, 0.7, score)
    assert_close(
        got, reference.mixed_pair_score(wide[0], pairs, torch.full((3,), 0.8), 3, key, 0.7, score, bits=32), slack=3
    )


def test_a_search_that_finds_more_than_it_stores_goes_on(device: str) -> None:
    """400 rows make more pairs than the buffer of a CUDA scan holds."""
    logits = torch.randn(400, 3, generator=generator("overflow"), dtype=torch.float64).to(device)
    got = lada_ext.top_pairs(logits, 5, prune=False)
    scores, pairs = brute_force(logits, 5, lada_ext.beta_nodes(1.0, 5))
    assert torch.equal(got.pairs.cpu(), pairs)
    assert_close(got.scores, scores)


def test_disjoint_pairs_use_each_row_once(device: str) -> None:
    logits = 3 * torch.randn(500, 10, generator=generator("disjoint"), dtype=torch.float64).to(device)
    got = lada_ext.top_pairs(logits, 250, disjoint=True)
    assert sorted(got.pairs.flatten().tolist()) == list(range(500))
    assert (got.scores.diff() <= 0).all()
    _, pairs = brute_force(logits, 250, lada_ext.beta_nodes(1.0, 5), disjoint=True)
    assert torch.equal(got.pairs.cpu(), pairs)


def test_errors_of_top_pairs() -> None:
    logits = torch.zeros(5, 3)
    with pytest.raises(ValueError, match="k must lie between 0 and the number of pairs of M = 5 rows, 10, got 11"):
        lada_ext.top_pairs(logits, 11)
    with pytest.raises(ValueError, match="number of disjoint pairs of M = 5 rows, 2, got 3"):
        lada_ext.top_pairs(logits, 3, disjoint=True)
    with pytest.raises(ValueError, match="nodes must lie in"):
        lada_ext.top_pairs(logits, 1, nodes=(torch.tensor([1.5]).double(), torch.ones(1).double()))
    with pytest.raises(ValueError, match="weights must not be negative"):
        lada_ext.top_pairs(logits, 1, nodes=(torch.tensor([0.5]).double(), -torch.ones(1).double()))
    with pytest.raises(ValueError, match="gamma must be finite"):
        lada_ext.top_pairs(logits, 1, gamma=math.nan)
    with pytest.raises(ValueError, match="score must be"):
        lada_ext.top_pairs(logits, 1, score="margin")
    with pytest.raises(TypeError, match="logits must have dtype"):
        lada_ext.top_pairs(logits.int(), 1)
    assert lada_ext.top_pairs(logits, 0).pairs.shape == (0, 2)
    assert lada_ext.top_pairs(torch.zeros(0, 3), 0).scores.shape == (0,)
