"""Curves of f_integ over lam: what they read, what they are made of, and what a policy learns on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lada_al import Config, View, lookahead
from lada_al.curves import Curves
from lada_al.models import SplitModel, frozen
from lada_al.policy import curves_of, learn_policy, reads_curves, tau_of
from lada_al.pool import Pool
from lada_al.round import Round
from scipy.interpolate import CubicSpline
from test_lookahead import LOOKING_AHEAD, round_of, views_of
from torch import Tensor, nn

import lada_ext

PAIRS = 24
MIXING = [f_acq for f_acq, f_aug in LOOKING_AHEAD if f_aug == "mix"]


def through(*functions: Callable[[Tensor], Tensor], nodes: int = 9) -> Curves:
    lam = torch.linspace(0, 1, nodes, dtype=torch.float64)
    return Curves.through(torch.stack([f(lam) for f in functions])[..., None], of_logits=False)


class TestReading:
    @pytest.mark.parametrize("nodes", [2, 3, 9])
    def test_lines_are_read_as_they_are(self, nodes: int) -> None:
        curves = through(lambda x: 3 - 4 * x, lambda x: 5 + x, nodes=nodes)
        lam = torch.rand(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
        read = curves.at(lam).squeeze(-1)
        (slope,) = torch.autograd.grad(read.sum(), lam)
        torch.testing.assert_close(read.detach(), torch.stack([3 - 4 * lam[0], 5 + lam[1]]).detach())
        torch.testing.assert_close(slope, torch.tensor([[-4.0], [1.0]], dtype=torch.float64).expand(2, 50))

    def test_splines_are_those_of_scipy_and_so_are_their_derivatives(self) -> None:
        values = torch.randn(7, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        spline = CubicSpline(torch.linspace(0, 1, 7, dtype=torch.float64).numpy(), values.numpy(), bc_type="natural")
        lam = torch.rand(1, 40, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
        read = Curves.through(values[None], of_logits=True).at(lam)
        (slope,) = torch.autograd.grad(read[..., 1].sum(), lam)
        at = lam.detach()[0].numpy()
        torch.testing.assert_close(read[0].detach(), torch.from_numpy(spline(at)))
        torch.testing.assert_close(slope[0], torch.from_numpy(spline(at, 1)[:, 1]))

    def test_nodes_are_met_both_ends_too(self) -> None:
        values = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
        read = Curves.through(values, of_logits=True).at(torch.linspace(0, 1, 6).expand(4, -1))
        torch.testing.assert_close(read, values, rtol=0, atol=1e-5)

    def test_the_error_falls_with_the_fourth_power_of_the_spacing(self) -> None:
        def error(nodes: int) -> float:
            lam = torch.linspace(0, 1, 1001, dtype=torch.float64)
            read = through(lambda x: torch.sin(7 * torch.pi * x), nodes=nodes).at(lam[None])[0, :, 0]
            return (read - torch.sin(7 * torch.pi * lam)).abs().max().item()

        assert error(65) < error(33) / 12
        assert error(129) < error(65) / 12

    def test_a_part_reads_as_in_the_whole(self) -> None:
        values = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(2))
        curves = Curves.through(values, of_logits=True)
        lam, order = torch.rand(5, 3), torch.tensor([4, 0, 2])
        assert torch.equal(curves[order].at(lam[order]), curves.at(lam)[order])
        assert curves[:0].at(lam[:0]).shape == (0, 3, 2)

    def test_a_value_that_is_nan_stays_in_its_pair(self) -> None:
        values = torch.rand(2, 5, 1)
        values[0, 2] = torch.nan
        read = Curves.through(values, of_logits=False).at(torch.full((2, 1), 0.5))
        assert read.isnan().flatten().tolist() == [True, False]
        lam = torch.tensor([[0.5], [torch.nan]])
        assert Curves.through(torch.rand(2, 5, 1), of_logits=False).at(lam).isnan().flatten().tolist() == [False, True]


@pytest.mark.parametrize("f_acq", MIXING)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_curves_go_through_the_scores_of_mixtures(
    f_acq: str, k: int, net: SplitModel, pool: Pool, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the features of a real mixture at layer k, one node after the other; images are never asked for again."""
    if k != 1 and f_acq not in ("entropy", "var-ratio"):
        pytest.skip("its networks are made for features at k = 1")
    now = round_of(net, pool, tiny_config.model_copy(update={"curve": 6, "scoring_batch": 13}), f_acq, "mix")
    a, b = views_of(net, pool, now, PAIRS, k)
    with frozen(net, now.f_acq.trained), torch.no_grad():
        expected, lam = [], torch.linspace(0, 1, 6)
        for weight in lam:
            hidden = weight * a.hidden + (1 - weight) * b.hidden
            expected.append(now.f_acq.score(View(net, k, hidden=hidden, ids=a.ids)))
        monkeypatch.setattr(net, "run", refusing(net.run, before=net.cut(k)))
        curves = curves_of([a, b], now)
        read = scores_at(curves, lam.expand(PAIRS, -1), now, net)
    torch.testing.assert_close(read, torch.stack(expected, 1), rtol=1e-4, atol=1e-5)
    assert curves.of_logits == (f_acq in ("entropy", "var-ratio"))
    assert curves.coefficients.shape[1] == (1 if curves.of_logits and net.mixes_logits(k) else 5)


def scores_at(curves: Curves, lam: Tensor, now: Round, net: SplitModel) -> Tensor:
    values = curves.at(lam)
    if not curves.of_logits:
        return values.squeeze(-1)
    return now.f_acq.score(View(net, net.depth, hidden=values, leading=2))


@pytest.mark.parametrize("k", [1, 2])
def test_a_class_that_the_network_rules_out_keeps_its_score_at_the_nodes(
    k: int, net: SplitModel, pool: Pool, tiny_config: Config
) -> None:
    """Its logit is -inf, which no spline goes through: the curves are of the scores then."""
    net.stages[-1] = nn.Sequential(net.stages[-1], RulesOut(1))
    net = SplitModel(list(net.stages))
    now = round_of(net, pool, tiny_config.model_copy(update={"curve": 5}), "entropy", "mix")
    a, b = views_of(net, pool, now, PAIRS, k)
    with frozen(net), torch.no_grad():
        curves = curves_of([a, b], now)
        lam = torch.full((PAIRS, 1), 0.25)
        expected = now.f_acq.score(now.f_aug.at(a, b, lam))
    assert not curves.of_logits
    assert expected.isfinite().all()
    torch.testing.assert_close(curves.at(lam).squeeze(-1), expected, rtol=1e-4, atol=1e-5)


class RulesOut(nn.Module):
    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor([self.label]), -torch.inf)


def refusing(run: Callable[[Tensor, int, int], Tensor], before: int) -> Callable[[Tensor, int, int], Tensor]:
    def checked(h: Tensor, start: int, stop: int) -> Tensor:
        assert start >= before, "the layers below the mixtures ran again"
        return run(h, start, stop)

    return checked


@pytest.mark.parametrize("f_acq", MIXING)
def test_a_policy_learns_on_curves_what_it_learns_without(
    f_acq: str, net: SplitModel, pool: Pool, tiny_config: Config
) -> None:
    """By the same draws, so tau differs by what is lost between the nodes; with more of them by less."""
    tau = {}
    for curve in (0, 9, 65):
        changes = {"curve": curve, "policy_epochs": 10, "policy_lr": 1e-3}
        now = round_of(net, pool, tiny_config.model_copy(update=changes), f_acq, "mix", learn=True)
        views = views_of(net, pool, now, PAIRS)
        with frozen(net, now.f_acq.trained), now.keys.scope("policy weights", 1):
            policy = now.f_aug.policy(*views, learn=True)
            before = policy(*views).detach()
            learn_policy(policy, views, now, curves_of(views, now) if curve else None)
            tau[curve] = policy(*views).detach()
    moved = (tau[0] - before).abs().max()
    assert moved > 0.02
    coarse, fine = ((tau[curve] - tau[0]).abs().max() for curve in (9, 65))
    assert coarse < moved / 4
    assert fine < moved / 25


def test_the_classifier_sees_no_mixture_while_the_policy_learns(
    net: SplitModel, pool: Pool, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = round_of(net, pool, tiny_config.model_copy(update={"curve": 5}), "entropy", "mix", learn=True)
    views = views_of(net, pool, now, PAIRS)
    with frozen(net), now.keys.scope("policy weights", 1):
        policy = now.f_aug.policy(*views, learn=True)
        curves = curves_of(views, now)
        monkeypatch.setattr(type(now.f_aug), "__call__", None)
        monkeypatch.setattr(net, "run", None)
        learn_policy(policy, views, now, curves)


@pytest.mark.parametrize(("settings", "reads"), [({}, True), ({"plain": True}, False), ({"preset": "official"}, False)])
def test_when_curves_are_read(settings: dict[str, Any], reads: bool, net: SplitModel, pool: Pool) -> None:
    for f_aug, mixes in (("mix", True), ("stn", False)):
        now = round_of(net, pool, Config(**settings), "entropy", f_aug, learn=True)
        assert reads_curves(now) == (reads and mixes)
        assert not reads_curves(round_of(net, pool, Config(**settings), "entropy", f_aug))  # nothing to learn


@pytest.mark.parametrize("nodes", [1, 2])
def test_too_few_nodes_are_refused(nodes: int) -> None:
    with pytest.raises(ValueError, match=f"curve must be 0, .* or at least 3 nodes, got {nodes}"):
        Config(curve=nodes)


def test_mixtures_by_given_lam_are_those_of_beta_mix(net: SplitModel, pool: Pool, tiny_config: Config) -> None:
    now = round_of(net, pool, tiny_config, "entropy", "mix")
    key, tau = lada_ext.make_key(3), torch.linspace(0.2, 3, 24)
    for k in (1, 2):
        a, b = views_of(net, pool, now, PAIRS, k)
        with frozen(net), torch.no_grad():
            drawn = now.f_aug(a, b, tau=tau, key=key, samples=4)
            given = now.f_aug.at(a, b, lada_ext.beta_sample(tau, 4, key, index=a.ids))
            torch.testing.assert_close(given.hidden, drawn.hidden, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(given.logits, drawn.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("f_acq", ["entropy", "var-ratio"])
@pytest.mark.parametrize("selection", ["greedy", "diverse"])
def test_what_is_bought_is_scored_by_the_classifier_not_by_curves(
    f_acq: str, selection: str, net: SplitModel, pool: Pool, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curves of three nodes are rough, and tell only which pairs come into question: the purchase and its scores are
    those of all pairs scored by the classifier. Fewer are."""
    changes = {
        "curve": 3, "policy_lr": 1e-3, "selection": selection, "gamma": 0.8, "query": 2, "scoring_batch": 17
    }  # fmt: skip
    now = round_of(net, pool, tiny_config.model_copy(update=changes), f_acq, "mix", learn=True)
    monkeypatch.setattr(lookahead, "FEWEST_FINALISTS", 4)
    views, evaluated, unit_scores = views_of(net, pool, now, 40), [], lookahead.unit_scores
    with frozen(net), torch.no_grad():
        with now.keys.scope("policy weights", 1):
            policy = now.f_aug.policy(*views, learn=True)
        curves = curves_of(views, now)
        tau = tau_of(policy, views, now)
        expected, entropies = unit_scores(views, tau, now)
        monkeypatch.setattr(
            lookahead, "unit_scores", lambda *args: evaluated.append(len(args[1])) or unit_scores(*args)
        )
        found, found_entropies = lookahead._scores_to_buy_by(views, tau, now, curves)
        read = scores_at(curves, torch.full((40, 1), 0.2), now, net)
        exact = now.f_acq.score(now.f_aug.at(*views, torch.full((40, 1), 0.2)))
    assert (read - exact).abs().max() > 1e-5  # rough enough to tell one from the other
    best = expected.topk(now.shortlist).indices
    assert torch.equal(found.topk(now.shortlist).indices, best)
    torch.testing.assert_close(found[best], expected[best], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_entropies[best], entropies[best], rtol=1e-5, atol=1e-6)
    assert now.shortlist <= sum(evaluated) < 40


def test_where_scores_are_nan_the_classifier_scores_all(
    net: SplitModel, pool: Pool, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = round_of(net, pool, tiny_config.model_copy(update={"curve": 5}), "entropy", "mix", learn=True)
    monkeypatch.setattr(lookahead, "FEWEST_FINALISTS", 4)
    views = views_of(net, pool, now, PAIRS)
    with frozen(net), torch.no_grad():
        curves = curves_of(views, now)
        curves.coefficients[:] = torch.nan
        tau = torch.full((PAIRS,), 0.5)
        expected, _ = lookahead.unit_scores(views, tau, now)
        found, _ = lookahead._scores_to_buy_by(views, tau, now, curves)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
