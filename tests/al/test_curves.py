"""Curves of f_integ over lam: what they read, what they are made of, and what a policy learns on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lada_al import Config, View, lookahead
from lada_al.curves import Curves
from lada_al.models import SplitModel, frozen
from lada_al.pool import Pool
from test_lookahead import LOOKING_AHEAD, round_of, views_of
from torch import Tensor

import lada_ext

PAIRS = 24
MIXING = [f_acq for f_acq, f_aug in LOOKING_AHEAD if f_aug == "mix"]


def curves_of(*functions: Callable[[Tensor], Tensor], nodes: int = 9) -> Curves:
    lam = torch.linspace(0, 1, nodes, dtype=torch.float64)
    return Curves.through(torch.stack([f(lam) for f in functions]))


class TestReading:
    @pytest.mark.parametrize("nodes", [3, 9])
    def test_parabolas_are_read_as_they_are_and_so_are_their_derivatives(self, nodes: int) -> None:
        curves = curves_of(lambda x: 3 * x * x - x + 2, lambda x: 5 - x, nodes=nodes)
        lam = torch.rand(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
        read = curves.at(lam)
        (slope,) = torch.autograd.grad(read.sum(), lam)
        x = lam.detach()
        torch.testing.assert_close(read.detach(), torch.stack([3 * x[0] ** 2 - x[0] + 2, 5 - x[1]]))
        torch.testing.assert_close(slope, torch.stack([6 * x[0] - 1, torch.full_like(x[1], -1)]))

    def test_nodes_are_met_both_ends_too(self) -> None:
        scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
        read = Curves.through(scores).at(torch.linspace(0, 1, 6).expand(4, -1))
        torch.testing.assert_close(read, scores, rtol=0, atol=1e-5)

    def test_the_error_falls_with_the_third_power_of_the_spacing(self) -> None:
        def error(nodes: int) -> float:
            lam = torch.linspace(0, 1, 1001, dtype=torch.float64)
            read = curves_of(lambda x: torch.sin(7 * x), nodes=nodes).at(lam[None])
            return (read - torch.sin(7 * lam)).abs().max().item()

        assert error(17) < error(9) / 7
        assert error(33) < error(17) / 7

    def test_a_part_reads_as_in_the_whole(self) -> None:
        curves = Curves.through(torch.randn(5, 4, generator=torch.Generator().manual_seed(2)))
        lam, order = torch.rand(5, 3), torch.tensor([4, 0, 2])
        assert torch.equal(curves[order].at(lam[order]), curves.at(lam)[order])
        assert curves[:0].at(lam[:0]).shape == (0, 3)

    def test_a_score_that_is_nan_stays_in_its_pair(self) -> None:
        scores = torch.rand(2, 5)
        scores[0, 2] = torch.nan
        read = Curves.through(scores).at(torch.full((2, 1), 0.5))
        assert read.isnan().flatten().tolist() == [True, False]


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
        expected = []
        for lam in torch.linspace(0, 1, 6):
            hidden = lam * a.hidden + (1 - lam) * b.hidden
            expected.append(now.f_acq.score(View(net, k, hidden=hidden, ids=a.ids)))
        monkeypatch.setattr(net, "run", refusing(net.run, before=net.cut(k)))
        made = lookahead._curves([a, b], now).scores
    torch.testing.assert_close(made, torch.stack(expected, 1), rtol=1e-4, atol=1e-5)


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
            lookahead.learn_policy(policy, views, now)
            tau[curve] = policy(*views).detach()
    moved = (tau[0] - before).abs().max()
    assert moved > 0.02
    coarse, fine = ((tau[curve] - tau[0]).abs().max() for curve in (9, 65))
    assert coarse < moved / 4
    assert fine < moved / 40


def test_the_classifier_sees_no_mixture_while_the_policy_learns(
    net: SplitModel, pool: Pool, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = round_of(net, pool, tiny_config.model_copy(update={"curve": 5}), "entropy", "mix", learn=True)
    views, seen = views_of(net, pool, now, PAIRS), []
    score = now.f_acq.score
    monkeypatch.setattr(now.f_acq, "score", lambda view: seen.append(view.logits.shape[:-1]) or score(view))
    with frozen(net), now.keys.scope("policy weights", 1):
        policy = now.f_aug.policy(*views, learn=True)
        monkeypatch.setattr(type(now.f_aug), "__call__", None)
        lookahead.learn_policy(policy, views, now)
    assert sorted(map(tuple, seen)) == [(24,), (24,), (24, 3)]


@pytest.mark.parametrize(("settings", "reads"), [({}, True), ({"plain": True}, False), ({"preset": "official"}, False)])
def test_when_curves_are_read(settings: dict[str, Any], reads: bool, net: SplitModel, pool: Pool) -> None:
    for f_aug, mixes in (("mix", True), ("stn", False)):
        now = round_of(net, pool, Config(**settings), "entropy", f_aug, learn=True)
        assert lookahead._reads_curves(now) == (reads and mixes)


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
