"""k-center greedy, BADGE and CAL's score: every pick against brute force in float64, ties, laws of the draws."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from samples import SELECTIONS, VIEWS, cast, generator
from scipy import stats
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference

# A squared distance may be off by this fraction of what it is summed from.
ROUNDING = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}


def pool(rows: int, width: int, seed: str = "pool", device: str = "cpu") -> Tensor:
    return torch.randn(rows, width, generator=generator(seed)).to(device)


def squared_distances(points: Tensor, others: Tensor) -> Tensor:
    return (points[:, None] - others).square().sum(-1)


def nearest_so_far(distances: Tensor, picks: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of each pick: its number, the rows that were left, and their smallest distance to the picks before."""
    left = torch.ones(len(distances), dtype=torch.bool)
    nearest = torch.full((len(distances),), torch.inf, dtype=torch.float64)
    for number, pick in enumerate(picks.tolist()):
        yield number, left.clone(), nearest.clone()
        left[pick] = False
        nearest = torch.minimum(nearest, distances[:, pick])


def assert_picks_of_k_center(picks: Tensor, features: Tensor, centers: Tensor) -> None:
    """Each pick is as far from what is covered as any row that was left, up to rounding of distances that tie."""
    tolerance = ROUNDING[features.dtype]
    x, fixed = features.double().cpu(), centers.double().cpu()
    assert len(set(picks.tolist())) == len(picks)
    covered = squared_distances(x, fixed).amin(1) if len(fixed) else torch.full((len(x),), torch.inf)
    for number, left, nearest in nearest_so_far(squared_distances(x, x), picks.cpu()):
        worth = torch.minimum(covered, nearest) if len(fixed) or number else x.square().sum(1)
        assert worth[picks[number]] >= worth[left].max() * (1 - 4 * tolerance)


def assert_picks_of_badge(picks: Tensor, features: Tensor, logits: Tensor, key: Tensor) -> None:
    """Each pick wins the race of worths among the rows that were left, up to the cancellation in the distances."""
    g = reference.badge_embedding(features.double().cpu(), logits.double().cpu())
    lengths = g.square().sum(1)
    tolerance = 4 * ROUNDING[features.dtype] * float(lengths.max()) if len(g) else 0.0
    assert len(set(picks.tolist())) == len(picks)
    for number, left, nearest in nearest_so_far(squared_distances(g, g), picks.cpu()):
        draws = reference.exponential_draws(key.cpu(), number, len(g)) if number else torch.ones(len(g))
        weights = nearest if number else lengths
        best = ((weights - tolerance) / draws)[left].max()
        assert (weights[picks[number]] + tolerance) / draws[picks[number]] >= best


@pytest.mark.parametrize("name", SELECTIONS)
def test_k_center_against_brute_force(name: str, dtype: torch.dtype, device: str) -> None:
    a = cast(SELECTIONS[name](generator(name)), dtype, device)
    picks = lada_ext.k_center_greedy(a["features"], a["centers"], a["k"])
    assert picks.shape == (a["k"],)
    assert_picks_of_k_center(picks, a["features"], a["centers"])


@pytest.mark.parametrize("name", SELECTIONS)
def test_badge_against_the_materialised_embedding(name: str, dtype: torch.dtype, device: str) -> None:
    a = cast(SELECTIONS[name](generator(name)), dtype, device)
    picks = lada_ext.badge_select(a["features"], a["logits"], a["k"], a["key"])
    assert picks.shape == (a["k"],)
    assert_picks_of_badge(picks, a["features"], a["logits"], a["key"])


@pytest.mark.parametrize("name", ["odd", "every_row", "many_rows", "many_centers", "packs", "offset", "duplicates"])
def test_the_same_picks_as_the_reference(name: str, device: str) -> None:
    a = cast(SELECTIONS[name](generator(name)), torch.float64, device)
    picks = lada_ext.k_center_greedy(a["features"], a["centers"], a["k"])
    assert torch.equal(picks, reference.k_center_greedy(a["features"], a["centers"], a["k"]))
    if name == "duplicates":
        return  # BADGE's distances of equal rows are rounded in the reference
    picks = lada_ext.badge_select(a["features"], a["logits"], a["k"], a["key"])
    assert torch.equal(picks, reference.badge_select(a["features"], a["logits"], a["k"], a["key"]))


def test_the_radius_is_within_twice_the_optimum(device: str) -> None:
    x = pool(11, 2, device=device)
    between = squared_distances(x.cpu().double(), x.cpu().double()).sqrt()

    def radius(chosen: Tensor) -> float:
        return float(between[:, chosen].amin(1).max())

    optimum = min(radius(torch.tensor(chosen)) for chosen in itertools.combinations(range(11), 4))
    assert radius(lada_ext.k_center_greedy(x, x[:0], 4).cpu()) <= 2 * optimum


def test_ties_go_to_the_lower_row(device: str) -> None:
    corners = torch.eye(9, device=device)
    assert lada_ext.k_center_greedy(corners, corners[:0], 9).tolist() == list(range(9))
    assert lada_ext.k_center_greedy(torch.zeros(7, 3, device=device), torch.zeros(1, 3, device=device), 7).tolist() == [
        *range(7)
    ]


def test_equal_distances_pick_after_pick() -> None:
    corners = torch.eye(1300)
    assert torch.equal(lada_ext.k_center_greedy(corners, corners[:0], 1300), torch.arange(1300))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_copy_of_a_pick_comes_after_every_other_row(dtype: torch.dtype, device: str) -> None:
    """The factorised distance of equal rows is exactly 0."""
    features = pool(20, 37, device=device).to(dtype)
    logits = pool(20, 5, seed="logits", device=device).to(dtype)
    picks = lada_ext.badge_select(features.repeat(2, 1), logits.repeat(2, 1), 20, lada_ext.make_key(1, device))
    assert sorted(picks.remainder(20).tolist()) == list(range(20))
    picks = lada_ext.k_center_greedy(features.repeat(2, 1), features[:0], 20)
    assert sorted(picks.remainder(20).tolist()) == list(range(20))


@pytest.mark.parametrize("centers", [0, 2])
def test_k_center_of_a_permuted_pool(centers: int, device: str) -> None:
    x, fixed = pool(270, 7, device=device), pool(centers, 7, seed="fixed", device=device)
    order = torch.randperm(270, generator=generator("order")).to(device)
    picks = lada_ext.k_center_greedy(x, fixed, 8)
    assert torch.equal(order[lada_ext.k_center_greedy(x[order], fixed, 8)], picks)


def test_picks_are_a_prefix_of_more_picks(device: str) -> None:
    x, z, key = pool(90, 6, device=device), pool(90, 3, seed="z", device=device), lada_ext.make_key(4, device)
    assert torch.equal(lada_ext.k_center_greedy(x, x[:2], 30)[:11], lada_ext.k_center_greedy(x, x[:2], 11))
    assert torch.equal(lada_ext.badge_select(x, z, 30, key)[:11], lada_ext.badge_select(x, z, 11, key))


def test_the_number_of_threads_changes_no_pick() -> None:
    x, z, key = pool(3000, 20), pool(3000, 4, seed="z"), lada_ext.make_key(9)
    threads = torch.get_num_threads()
    picks = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            picks.append((lada_ext.k_center_greedy(x, x[:3], 60), lada_ext.badge_select(x, z, 60, key)))
    finally:
        torch.set_num_threads(threads)
    for k_center, badge in picks[1:]:
        assert torch.equal(k_center, picks[0][0])
        assert torch.equal(badge, picks[0][1])


def assert_law(picks: list[int], weights: Tensor) -> None:
    """The picks are a sample of the law in proportion to the weights: chi-square over rows expected at least 5 times."""
    expected = weights.double() / weights.double().sum() * len(picks)
    counts = torch.bincount(torch.tensor(picks), minlength=len(weights)).double()
    assert counts[expected == 0].sum() == 0
    often = expected >= 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]]).clamp(min=1e-9)
    assert stats.chi2.sf(float(((observed - expected).square() / expected).sum()), len(observed) - 1) > 1e-4


@pytest.mark.heavy
@pytest.mark.parametrize("permuted", [False, True], ids=["pool", "permuted"])
def test_badge_draws_by_squared_distance(permuted: bool, device: str) -> None:
    features, logits = pool(24, 5), pool(24, 3, seed="logits")
    if permuted:
        order = torch.randperm(24, generator=generator("order"))
        features, logits = features[order], logits[order]
    g = reference.badge_embedding(features.double(), logits.double())
    between = squared_distances(g, g)
    select: Callable[[int], list[int]] = lambda seed: lada_ext.badge_select(  # noqa: E731
        features.to(device), logits.to(device), 3, lada_ext.make_key(seed, device)
    ).tolist()
    picks = [select(seed) for seed in range(6000)]
    first = int(g.square().sum(1).argmax())
    assert {p[0] for p in picks} == {first}
    assert_law([p[1] for p in picks], between[first])
    second = int(between[first].argmax())
    weights = torch.minimum(between[first], between[second])
    assert_law([p[2] for p in picks if p[1] == second], weights)


@pytest.mark.heavy
def test_badge_draws_uniformly_where_every_distance_is_zero(device: str) -> None:
    features, logits = pool(9, 5).to(device), torch.ones(9, 1, device=device)
    picks = [
        lada_ext.badge_select(features, logits, 2, lada_ext.make_key(seed, device)).tolist() for seed in range(3000)
    ]
    assert {p[0] for p in picks} == {0}
    assert_law([p[1] for p in picks], torch.arange(9).sign())


@pytest.mark.parametrize("classes", [10, 12, 100])
def test_equal_rows_have_no_distance(classes: int, device: str) -> None:
    """Copies of five rows: once one of each is picked, all others are drawn uniformly."""
    g = generator("copies")
    features, logits = torch.randn(5, 24, generator=g), torch.randn(5, classes, generator=g)
    copies = torch.arange(200) % 5
    later = []
    for seed in range(20):
        key = lada_ext.make_key(seed, device)
        picks = lada_ext.badge_select(features[copies].to(device), logits[copies].to(device), 25, key).cpu()
        assert copies[picks[:5]].unique().numel() == 5
        later.append(copies[picks[5:]])
    assert stats.chisquare(torch.cat(later).bincount(minlength=5)).pvalue > 1e-4


def test_badge_depends_on_its_key_and_its_stream() -> None:
    features, logits, key = pool(200, 5), pool(200, 3, seed="logits"), lada_ext.make_key(11)
    picks = lada_ext.badge_select(features, logits, 20, key)
    assert torch.equal(picks, lada_ext.badge_select(features, logits, 20, key.clone()))
    for other in (key + torch.tensor([1, 0]), key + torch.tensor([0, 1])):
        assert not torch.equal(picks, lada_ext.badge_select(features, logits, 20, other))


def test_an_almost_certain_row_keeps_its_residual() -> None:
    """1 - p would round to 0 in float32; the second pick has to be the row that is less certain, not a tie."""
    logits = torch.tensor([[0.0, 0.0], [0.0, -40.0], [0.0, -30.0]])
    features = torch.tensor([[1e-6, 0.0], [0.0, 1.0], [0.0, 1e6]])
    wins = [lada_ext.badge_select(features, logits, 1, lada_ext.make_key(seed))[0].item() for seed in range(3)]
    assert wins == [0, 0, 0]
    wins = [lada_ext.badge_select(features[1:], logits[1:], 1, lada_ext.make_key(seed))[0].item() for seed in range(3)]
    assert wins == [1, 1, 1]


@pytest.mark.parametrize("name", VIEWS)
def test_consistency_variance(name: str, dtype: torch.dtype, device: str) -> None:
    logits = cast(VIEWS[name](generator(name)), dtype, device)["logits"]
    assert_close(lada_ext.consistency_variance(logits), reference.consistency_variance(logits.double()))


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "stride_0"])
@pytest.mark.parametrize("name", VIEWS)
def test_gradient_of_consistency_variance(name: str, weighted: bool, dtype: torch.dtype, device: str) -> None:
    logits = cast(VIEWS[name](generator(name)), dtype, device)["logits"]
    grad = torch.randn(logits.shape[1], generator=generator("grad")).to(device) if weighted else None
    gradients = []
    for f, z in ((lada_ext.consistency_variance, logits), (reference.consistency_variance, logits.double())):
        leaf = z.detach().requires_grad_()
        out = f(leaf)
        (out.sum() if grad is None else (out * grad.to(out)).sum()).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert gradients[0].dtype == dtype
    valid = ~gradients[1].isnan().any(-1).any(0)  # of a row that is all -inf torch has 0 in other views' gradients
    assert_close(gradients[0][:, valid], gradients[1][:, valid])
    assert gradients[0][:, ~valid].isnan().any(-1).any(0).all()


def test_consistency_of_agreeing_and_of_opposite_views(device: str) -> None:
    logits = torch.tensor([[50.0, 0.0], [50.0, 0.0]], device=device)
    assert lada_ext.consistency_variance(torch.stack([logits, logits])).tolist() == [0.0, 0.0]
    opposite = torch.stack([logits, logits.flip(-1)])
    torch.testing.assert_close(lada_ext.consistency_variance(opposite).cpu(), torch.full((2,), 0.5))


def test_errors_name_the_argument() -> None:
    x, z, key = torch.zeros(4, 3), torch.zeros(4, 2), lada_ext.make_key(0)
    with pytest.raises(ValueError, match=r"k_center_greedy: k must lie in 0 \.\. 4 \(the rows of features\), got 5"):
        lada_ext.k_center_greedy(x, x, 5)
    with pytest.raises(ValueError, match=r"badge_select: k must lie in 0 \.\. 4 .*, got -1"):
        lada_ext.badge_select(x, z, -1, key)
    with pytest.raises(ValueError, match=r"k_center_greedy: features must have shape \(M, D\), got \[4\]"):
        lada_ext.k_center_greedy(x[:, 0], x, 2)
    with pytest.raises(ValueError, match=r"k_center_greedy: centers must have the D = 3 of features, got \[4, 2\]"):
        lada_ext.k_center_greedy(x, z, 2)
    with pytest.raises(TypeError, match=r"k_center_greedy: centers must have the dtype of features"):
        lada_ext.k_center_greedy(x, x.double(), 2)
    with pytest.raises(TypeError, match=r"k_center_greedy: features must have dtype float64.*got Int"):
        lada_ext.k_center_greedy(x.int(), x, 2)
    with pytest.raises(ValueError, match=r"badge_select: logits must have shape \(M, C\) with M = 4.*got \[3, 2\]"):
        lada_ext.badge_select(x, z[:3], 2, key)
    with pytest.raises(ValueError, match=r"badge_select: logits must have shape .*at least one class, got \[4, 0\]"):
        lada_ext.badge_select(x, z[:, :0], 2, key)
    with pytest.raises(TypeError, match="badge_select: key must have dtype int64"):
        lada_ext.badge_select(x, z, 2, key.double())
    with pytest.raises(ValueError, match=r"badge_select: key must have shape \[2\]"):
        lada_ext.badge_select(x, z, 2, key[:1])
    with pytest.raises(ValueError, match=r"consistency_variance: logits must have shape \(V, M, C\).*got \[0, 4, 2\]"):
        lada_ext.consistency_variance(torch.zeros(0, 4, 2))
    with pytest.raises(TypeError, match="consistency_variance: logits must have dtype"):
        lada_ext.consistency_variance(torch.zeros(2, 4, 2, dtype=torch.int64))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30], ids=["nan", "inf", "minus_inf", "overflow"])
def test_rows_without_a_finite_norm_are_named(bad: float) -> None:
    x, z, key = pool(6, 3), pool(6, 2, seed="z"), lada_ext.make_key(0)
    spoilt = x.index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(bad))
    with pytest.raises(ValueError, match=r"k_center_greedy: features\[4\] must have a finite squared norm"):
        lada_ext.k_center_greedy(spoilt, x, 2)
    with pytest.raises(ValueError, match=r"k_center_greedy: centers\[4\] must have a finite squared norm"):
        lada_ext.k_center_greedy(x, spoilt, 2)
    with pytest.raises(ValueError, match=r"badge_select: the gradient embedding of features\[4\] must have a finite"):
        lada_ext.badge_select(spoilt, z, 2, key)


@pytest.mark.parametrize("row", [[torch.nan, 0.0], [0.0, torch.nan], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
def test_rows_of_logits_without_a_softmax_are_named(row: list[float]) -> None:
    logits = pool(5, 2)
    logits[3] = torch.tensor(row)
    with pytest.raises(ValueError, match=r"badge_select: the softmax residual of logits\[3\] must have a finite"):
        lada_ext.badge_select(pool(5, 3), logits, 2, lada_ext.make_key(0))


def test_selections_take_the_wider_type_under_autocast(device: str) -> None:
    """A layer normalisation gives float32 there, and a linear layer half precision."""
    g = generator("autocast")
    features, logits, centers = (torch.randn(shape, generator=g).to(device) for shape in ((20, 6), (20, 4), (3, 6)))
    halves, key = (logits.bfloat16(), centers.bfloat16()), lada_ext.make_key(1, device)
    picked = lada_ext.badge_select(features, halves[0].float(), 5, key)
    spread = lada_ext.k_center_greedy(features, halves[1].float(), 5)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(lada_ext.badge_select(features, halves[0], 5, key), picked)
        assert torch.equal(lada_ext.k_center_greedy(features, halves[1], 5), spread)
