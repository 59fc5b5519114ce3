"""The look-ahead score and the policy learning, for every acquisition function and augmentation there is."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from lada_al import Config, View, acquire, augment, lookahead, models
from lada_al.data import Dataset
from lada_al.events import Bought
from lada_al.keys import Keys
from lada_al.models import SplitModel, frozen
from lada_al.pool import Pool, simulated_oracle
from lada_al.timing import Clock, NoMeter

import lada_ext

SCORING = [name for name in acquire.names() if acquire.load(name).score is not None]
COMBINATIONS = [(f_acq, f_aug) for f_acq in SCORING for f_aug in augment.names()]


@pytest.fixture
def pool(tiny: Dataset) -> Pool:
    return Pool(tiny, torch.device("cpu"))


@pytest.fixture
def net() -> SplitModel:
    with Keys(5).scope("network weights", 0):
        return models.small(1, (20, 20), 3)


def round_of(config: Config, f_acq: str, f_aug: str | None, number: int = 1) -> lookahead.Round:
    augmentation = augment.load(f_aug).make(config, (1, 20, 20)) if f_aug else None
    return lookahead.Round(number, config, Keys(1), acquire.load(f_acq), augmentation, NoMeter(), Clock())


def views_of(net: SplitModel, pool: Pool, now: lookahead.Round, count: int = 12) -> list[View]:
    assert now.f_aug is not None
    ids = torch.arange(count * now.f_aug.arity)
    k = 1 if now.f_aug.uses_hidden else 0
    with frozen(net), torch.no_grad():
        view = View(net, k, image=pool.pixels(ids), ids=ids).computed(7)
    return [view[part] for part in ids.split(count)]


@pytest.mark.parametrize("name", acquire.names())
def test_scores_keep_leading_axes_and_rank_uncertain_instances_first(name: str) -> None:
    f_acq = acquire.load(name)
    net = SplitModel([torch.nn.Identity()])
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.1, 0.0, 0.0], [3.0, 0.0, 0.0]])
    view = View(net, 0, hidden=logits, ids=torch.arange(3))
    picked = f_acq.pick(view, 2, torch.Generator().manual_seed(0))
    assert len(set(picked.tolist())) == 2
    if f_acq.score is not None:
        assert picked.tolist() == [1, 2]
        mixtures = View(net, 0, hidden=logits.expand(4, 3, 3), leading=2)
        assert f_acq.score(mixtures).shape == (4, 3)


def test_nan_never_ranks_first() -> None:
    scores = torch.tensor([0.1, torch.nan, 0.7, -torch.inf, 0.7])
    assert acquire.top(scores, 3).tolist() == [2, 4, 0]
    assert 1 not in acquire.top(scores, 4).tolist() or scores.isnan().sum() == 1


@pytest.mark.parametrize(("f_acq", "f_aug"), COMBINATIONS)
class TestEveryCombination:
    def test_fused_and_composed_scores_agree(
        self, f_acq: str, f_aug: str, net: SplitModel, pool: Pool, tiny_config: Config
    ) -> None:
        now = round_of(tiny_config.model_copy(update={"gamma": 0.7}), f_acq, f_aug)
        views = views_of(net, pool, now)
        with frozen(net), torch.no_grad():
            tau = now.f_aug.policy(*views, learn=False)(*views)
            scores, entropies = lookahead.unit_scores(views, tau, now)
            plain = dataclasses.replace(now, f_acq=dataclasses.replace(now.f_acq, fused=None))
            composed, again = lookahead.unit_scores(views, tau, plain)
        torch.testing.assert_close(scores, composed, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropies, again)
        assert torch.isfinite(scores).all()

    def test_batches_do_not_matter(
        self, f_acq: str, f_aug: str, net: SplitModel, pool: Pool, tiny_config: Config
    ) -> None:
        results = []
        for scoring_batch in (1, 10, 1000):
            now = round_of(tiny_config.model_copy(update={"scoring_batch": scoring_batch}), f_acq, f_aug)
            views = views_of(net, pool, now)
            with frozen(net), torch.no_grad():
                tau = now.f_aug.policy(*views, learn=False)(*views)
                results.append(lookahead.unit_scores(views, tau, now)[0])
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(results[0], results[2], rtol=1e-5, atol=1e-6)

    def test_a_unit_has_its_score_whatever_stands_beside_it(
        self, f_acq: str, f_aug: str, net: SplitModel, pool: Pool, tiny_config: Config
    ) -> None:
        now = round_of(tiny_config, f_acq, f_aug)
        views = views_of(net, pool, now)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(3))[:9]
        with frozen(net), torch.no_grad():
            tau = now.f_aug.policy(*views, learn=False)(*views)
            whole, _ = lookahead.unit_scores(views, tau, now)
            part, _ = lookahead.unit_scores([view[order] for view in views], tau[order], now)
        torch.testing.assert_close(part, whole[order], rtol=1e-5, atol=1e-6)

    def test_learning_raises_the_objective_and_touches_nothing_else(
        self, f_acq: str, f_aug: str, net: SplitModel, pool: Pool, tiny_config: Config
    ) -> None:
        config = tiny_config.model_copy(update={"policy_epochs": 30, "samples": 8, "policy_lr": 3e-3})
        now = round_of(config, f_acq, f_aug)
        views = views_of(net, pool, now)
        weights = copy.deepcopy(net.state_dict())
        trained = copy.deepcopy(now.f_aug.trained)
        key = lada_ext.make_key(99)
        with frozen(net), now.keys.scope("policy weights", 1):
            policy = now.f_aug.policy(*views, learn=True)
            before = lookahead.f_integ(views, policy(*views), key, now).mean()
            assert lookahead.learn_policy(policy, views, now) is None
            after = lookahead.f_integ(views, policy(*views), key, now).mean()
        assert after > before
        assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
        if trained is not None:  # Section 3.2.1: the localisation network that the classifier trains with is kept
            for kept, now_kept in zip(trained.parameters(), now.f_aug.trained.parameters(), strict=True):
                assert torch.equal(kept, now_kept)

    def test_acquire(
        self, f_acq: str, f_aug: str, net: SplitModel, pool: Pool, tiny: Dataset, tiny_config: Config
    ) -> None:
        short = acquire.load(f_acq).short
        config = tiny_config.model_copy(update={"method": f"lada-{short}-{f_aug}"})
        now = round_of(config, f_acq, f_aug)
        bought = lookahead.acquire(net, pool, simulated_oracle(tiny), now)
        arity = now.f_aug.arity
        assert len(set(bought.ids)) == 4
        assert bought.labels == tiny.train_labels[torch.tensor(bought.ids)].tolist()
        assert bought.tau is not None
        assert bought.virtual_entropy is not None
        assert len(bought.tau) == len(bought.virtual_entropy) == 4 // arity
        assert bought.scores is not None
        assert bought.scores[0] == bought.scores[arity - 1] == max(bought.scores)
        assert net.training  # as it was
        again = lookahead.acquire(net, pool, simulated_oracle(tiny), dataclasses.replace(now, clock=Clock()))
        assert (again.ids, again.tau, again.scores) == (bought.ids, bought.tau, bought.scores)


def test_eq_13_by_hand(net: SplitModel, pool: Pool, tiny_config: Config) -> None:
    """H(x) + H(x') + gamma / N sum_n H(lam_n h + (1 - lam_n) h'), with lam drawn apart."""
    config = tiny_config.model_copy(update={"gamma": 0.4})
    now = round_of(config, "entropy", "mix", number=6)
    views = views_of(net, pool, now, count=3)
    tau = torch.tensor([0.3, 1.0, 4.0])
    with frozen(net), torch.no_grad():
        scores, _ = lookahead.unit_scores(views, tau, now)
        lam = lada_ext.beta_sample(tau, config.samples, now.keys.key("score samples", 6), views[0].ids)
        for pair in range(3):
            h, other = (view.hidden[pair].double() for view in views)
            mixtures = torch.stack([value * h + (1 - value) * other for value in lam[pair].double()])
            entropy = lambda h: lada_ext.reference.entropy(copy.deepcopy(net).double().head(h, 1))  # noqa: E731
            expected = entropy(h[None]) + entropy(other[None]) + 0.4 * entropy(mixtures).mean()
            assert scores[pair].item() == pytest.approx(expected.item(), abs=1e-5)


def test_best_epoch_records_what_the_policy_said(net: SplitModel, pool: Pool, tiny_config: Config) -> None:
    config = tiny_config.model_copy(update={"tau_star": "best epoch", "policy_epochs": 1})
    now = round_of(config, "entropy", "mix")
    views = views_of(net, pool, now)
    with frozen(net), now.keys.scope("policy weights", 1):
        policy = now.f_aug.policy(*views, learn=True)
        first = policy(*views).detach()
        recorded = lookahead.learn_policy(policy, views, now)
    assert recorded is not None
    batches = torch.randperm(12, generator=Keys(1).generator("policy batches", 1, 0)).split(config.policy_batch)
    torch.testing.assert_close(recorded[batches[0]], first[batches[0]])  # before any step
    assert not torch.allclose(recorded, policy(*views).detach(), atol=1e-7)


def test_layers_are_drawn_for_features_only(tiny_config: Config) -> None:
    drawn = {lookahead.draw_layer(round_of(tiny_config, "entropy", "mix", number)) for number in range(40)}
    assert drawn == {1, 2}
    assert lookahead.draw_layer(round_of(tiny_config, "entropy", "stn")) == 0
    assert lookahead.draw_layer(round_of(tiny_config, "entropy", None)) == 0


def test_virtual_instances_for_training(net: SplitModel, pool: Pool, tiny: Dataset, tiny_config: Config) -> None:
    """Pairs are consecutive ids, labels are mixed by the lam that mixed the features, tau is the purchase's own."""
    ids = [3, 11, 40, 7]
    pool.add(ids, tiny.train_labels[ids])
    f_aug = augment.load("mix").make(tiny_config, (1, 20, 20))
    bought = Bought(1, ids, tiny.train_labels[ids].tolist(), k=2, tau=[0.7, 3.0])
    key = lada_ext.make_key(4)
    virtual = lookahead.virtual_view(net.eval(), pool, f_aug, bought, key)
    lam = lada_ext.beta_sample(torch.tensor([0.7, 3.0]), 1, key, torch.tensor([3, 40]))
    h = net.features(pool.pixels(torch.tensor(ids)), 2)
    expected = lam[:, :, None, None, None] * h[0::2][:, None] + (1 - lam)[:, :, None, None, None] * h[1::2][:, None]
    torch.testing.assert_close(virtual.hidden, expected)
    one_hot = torch.nn.functional.one_hot(tiny.train_labels[ids], 3).float()
    torch.testing.assert_close(
        virtual.target, lam[..., None] * one_hot[0::2][:, None] + (1 - lam)[..., None] * one_hot[1::2][:, None]
    )
    fixed = dataclasses.replace(bought, tau=None)
    assert lookahead.virtual_view(net, pool, f_aug, fixed, key).hidden.shape == virtual.hidden.shape
