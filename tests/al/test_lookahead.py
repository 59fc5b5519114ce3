"""The look-ahead score and the policy learning, for every acquisition function and augmentation there is."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from lada_al import Config, View, acquire, all_methods, augment, diverse, lookahead
from lada_al.acquire import Occasion
from lada_al.data import Dataset, Task
from lada_al.errors import UsageError
from lada_al.events import Bought
from lada_al.keys import Keys
from lada_al.models import SplitModel, frozen
from lada_al.policy import curves_of, f_integ, learn_policy, reads_curves
from lada_al.pool import Pool, simulated_oracle
from lada_al.round import Round
from lada_al.run.build import make_learner
from lada_al.timing import Clock, NoMeter
from lada_al.virtual import Origins, virtual_view
from torch import nn

import lada_ext

TASK = Task("fashion", (1, 20, 20), 3, [0.3], [0.3])
LOOKING_AHEAD = sorted(
    {(m.acquisition.name, m.augmentation.name) for m in all_methods().values() if m.look_ahead and m.augmentation}
)


def round_of(
    net: SplitModel, pool: Pool, config: Config, f_acq: str, f_aug: str | None, *, number: int = 1, learn: bool = False
) -> Round:
    """A round of a composition, its acquisition function prepared."""
    acquisition, augmentation = acquire.load(f_acq), augment.load(f_aug) if f_aug else None
    name = f"lada-{acquisition.short}-{f_aug}" if f_aug else f_acq
    config = config.model_copy(update={"method": name if learn or not f_aug else f"{name}-fixed"})
    with Keys(5).scope("network weights", 0):
        made = acquisition.make(config, TASK, net)
        made_aug = augmentation.make(config, TASK, net) if augmentation else None
    now = Round(number, config, Keys(1), made, made_aug, NoMeter(), Clock(torch.device("cpu")))
    with frozen(net, made.trained), torch.no_grad():
        made.prepare(Occasion(net, pool, config, now.keys, number, layer_of(now)))
    return now


def layer_of(now: Round) -> int:
    return 1 if now.f_aug is not None and now.f_aug.uses_hidden else 0


def views_of(net: SplitModel, pool: Pool, now: Round, count: int = 12, k: int | None = None) -> list[View]:
    assert now.f_aug is not None
    ids = torch.arange(count * now.f_aug.arity)
    with frozen(net), torch.no_grad():
        view = View(net, layer_of(now) if k is None else k, image=pool.pixels(ids), ids=ids).computed(7)
    return [view[part] for part in ids.split(count)]


@pytest.mark.parametrize("name", ["entropy", "var-ratio"])
def test_scores_of_logits_keep_leading_axes_and_rank_uncertain_instances_first(name: str) -> None:
    net = SplitModel([torch.nn.Identity()])
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.1, 0.0, 0.0], [3.0, 0.0, 0.0]])
    f_acq = acquire.load(name).make(Config(), TASK, net)
    scores = f_acq.score(View(net, 0, hidden=logits, ids=torch.arange(3)))
    assert acquire.top(scores, 2).tolist() == [1, 2]
    mixtures = View(net, 0, hidden=logits.expand(4, 3, 3), leading=2)
    assert f_acq.score(mixtures).shape == (4, 3)


@pytest.mark.parametrize("name", acquire.names())
def test_every_acquisition_alone(name: str, net: SplitModel, pool: Pool, tiny_config: Config) -> None:
    """It buys different instances, says a finite score for each if it scores at all, and does so again."""
    now = round_of(net, pool, tiny_config, name, None)
    now = dataclasses.replace(now, config=now.config.model_copy(update={"method": plain_name(name)}))
    oracle = lambda ids: ids % 3  # noqa: E731
    bought = lookahead.acquire(net, pool, oracle, now)
    assert len(set(bought.ids)) == 4
    assert not set(bought.ids) & set(range(80, 90))
    assert (bought.scores is not None) == acquire.load(name).scores
    if bought.scores is not None:
        assert all(math.isfinite(score) for score in bought.scores)
        assert bought.scores == sorted(bought.scores, reverse=True)
    again = lookahead.acquire(net, pool, oracle, dataclasses.replace(now, clock=Clock(torch.device("cpu"))))
    assert (again.ids, again.scores) == (bought.ids, bought.scores)
    smaller = now.config.model_copy(update={"scoring_batch": 5})
    in_batches = lookahead.acquire(
        net, pool, oracle, dataclasses.replace(now, config=smaller, clock=Clock(torch.device("cpu")))
    )
    assert in_batches.ids == bought.ids
    assert net.training


def plain_name(acquisition: str) -> str:
    return next(m.name for m in all_methods().values() if m.acquisition.name == acquisition and not m.augmentation)


@pytest.mark.parametrize("f_aug", ["mix", "stn"])
def test_no_policy_is_learned_on_nan(f_aug: str, net: SplitModel, pool: Pool, tiny_config: Config) -> None:
    """A fixed one ranks such an image last."""
    image = torch.randn(12, 1, 20, 20)
    image[5] = torch.nan
    for learn in (False, True):
        now = round_of(net, pool, tiny_config, "entropy", f_aug, learn=learn)
        with frozen(net), torch.no_grad():
            view = View(net, layer_of(now), image=image, ids=torch.arange(40, 52))
            if not learn:
                assert 5 not in lookahead.look_ahead(view, now).positions.tolist()
                continue
            with pytest.raises(UsageError, match="NaN for 1 of 12 candidates, first image 45: no policy is learned"):
                lookahead.look_ahead(view, now)


def test_nan_never_ranks_first() -> None:
    scores = torch.tensor([0.1, torch.nan, 0.7, -torch.inf, 0.7])
    assert acquire.top(scores, 3).tolist() == [2, 4, 0]
    assert 1 not in acquire.top(scores, 4).tolist() or scores.isnan().sum() == 1


@pytest.mark.parametrize(("f_acq", "f_aug"), LOOKING_AHEAD)
class TestEveryCombination:
    def test_the_score_is_that_of_its_parts(
        self, f_acq: str, f_aug: str, net: SplitModel, pool: Pool, tiny_config: Config
    ) -> None:
        """Eq. 2, 5 and 13 spelled out, which the fused path must equal too."""
        now = round_of(net, pool, tiny_config.model_copy(update={"gamma": 0.7}), f_acq, f_aug)
        views = views_of(net, pool, now)
        with frozen(net), torch.no_grad():
            tau = now.f_aug.policy(*views, learn=False)(*views)
            scores, entropies = lookahead.unit_scores(views, tau, now)
            key = now.keys.key("score samples", 1)
            virtual = now.f_aug(*views, tau=tau, key=key, samples=now.config.samples)
            mean = lambda values: values.flatten(1).mean(1) if values.dim() > 1 else values  # noqa: E731
            expected = sum(now.f_acq.score(view) for view in views) + 0.7 * mean(now.f_acq.score(virtual))
            expected_entropies = mean(lada_ext.entropy(virtual.logits))
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropies, expected_entropies)
        assert torch.isfinite(scores).all()

    def test_batches_do_not_matter(
        self, f_acq: str, f_aug: str, net: SplitModel, pool: Pool, tiny_config: Config
    ) -> None:
        now = round_of(net, pool, tiny_config, f_acq, f_aug)
        views = views_of(net, pool, now)
        results = []
        for scoring_batch in (1, 10, 1000):
            config = now.config.model_copy(update={"scoring_batch": scoring_batch})
            with frozen(net), torch.no_grad():
                tau = now.f_aug.policy(*views, learn=False)(*views)
                results.append(lookahead.unit_scores(views, tau, dataclasses.replace(now, config=config))[0])
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(results[0], results[2], rtol=1e-5, atol=1e-6)

    def test_a_unit_has_its_score_whatever_stands_beside_it(
        self, f_acq: str, f_aug: str, net: SplitModel, pool: Pool, tiny_config: Config
    ) -> None:
        now = round_of(net, pool, tiny_config, f_acq, f_aug)
        views = views_of(net, pool, now)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(3))[:9]
        with frozen(net), torch.no_grad():
            tau = now.f_aug.policy(*views, learn=False)(*views)
            whole, _ = lookahead.unit_scores(views, tau, now)
            part, _ = lookahead.unit_scores([view[order] for view in views], tau[order], now)
        torch.testing.assert_close(part, whole[order], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("curve", [0, 9])
    def test_learning_raises_the_objective_and_touches_nothing_else(
        self, f_acq: str, f_aug: str, curve: int, net: SplitModel, pool: Pool, tiny_config: Config
    ) -> None:
        if not augment.load(f_aug).learnable:
            pytest.skip(f"{f_aug} has no policy that gradients could move")
        if curve and not augment.load(f_aug).mixes_by_beta:
            pytest.skip(f"{f_aug} has no curves over lam")
        changes = {"curve": curve, "policy_epochs": 30, "samples": 8, "policy_lr": 3e-3}
        now = round_of(net, pool, tiny_config.model_copy(update=changes), f_acq, f_aug, learn=True)
        views = views_of(net, pool, now)
        kept = nn.ModuleList(m for m in (net, now.f_aug.trained, now.f_acq.trained) if m is not None)
        weights = copy.deepcopy(kept.state_dict())
        key = lada_ext.make_key(99)
        with frozen(net, now.f_acq.trained), now.keys.scope("policy weights", 1):
            policy = now.f_aug.policy(*views, learn=True)
            before = f_integ(views, policy(*views), key, now).mean()
            assert learn_policy(policy, views, now, curves_of(views, now) if reads_curves(now) else None) is None
            after = f_integ(views, policy(*views), key, now).mean()
        assert after > before
        # Section 3.2.1: the localisation network that the classifier trains with is kept, as is all else.
        assert all(torch.equal(value, weights[name]) for name, value in kept.state_dict().items())

    def test_acquire(
        self, f_acq: str, f_aug: str, net: SplitModel, pool: Pool, tiny: Dataset, tiny_config: Config
    ) -> None:
        now = round_of(net, pool, tiny_config, f_acq, f_aug, learn=augment.load(f_aug).learnable)
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
        again = lookahead.acquire(
            net, pool, simulated_oracle(tiny), dataclasses.replace(now, clock=Clock(torch.device("cpu")))
        )
        assert (again.ids, again.tau, again.scores) == (bought.ids, bought.tau, bought.scores)


def test_eq_13_by_hand(net: SplitModel, pool: Pool, tiny_config: Config) -> None:
    """H(x) + H(x') + gamma / N sum_n H(lam_n h + (1 - lam_n) h'), with lam drawn apart."""
    config = tiny_config.model_copy(update={"gamma": 0.4})
    now = round_of(net, pool, config, "entropy", "mix", number=6)
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


@pytest.mark.parametrize(("f_acq", "score"), [("entropy", "entropy"), ("var-ratio", "variation_ratio")])
@pytest.mark.parametrize("k", [2, 3])
def test_where_mixing_is_mixing_logits_no_mixture_is_made(
    f_acq: str, score: str, k: int, net: SplitModel, pool: Pool, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores and entropies are those of mixtures at layer k, by the same draws."""
    now = round_of(net, pool, tiny_config.model_copy(update={"gamma": 0.7}), f_acq, "mix")
    ids = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    with frozen(net), torch.no_grad():
        view = View(net, k, image=pool.pixels(ids), ids=ids).computed(7)
        a, b = (view[part] for part in torch.arange(40).split(20))
        tau, key = torch.linspace(0.1, 5, 20), now.keys.key("score samples", 1)
        mixed = net.head(lada_ext.beta_mix(a.hidden, b.hidden, tau, 3, key, index=a.ids)[0].flatten(0, 1), k)
        monkeypatch.setattr(type(now.f_aug), "__call__", None)
        scores, entropies = lookahead.unit_scores([a, b], tau, now)
    mixed = mixed.unflatten(0, (20, 3))
    torch.testing.assert_close(scores, lada_ext.pair_score(a.logits, b.logits, mixed, 0.7, score), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropies, lada_ext.entropy(mixed).mean(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("f_acq", "gamma", "k", "scored"),
    [("entropy", 1.0, 2, 1), ("entropy", 0.7, 2, 2), ("var-ratio", 1.0, 2, 2), ("entropy", 1.0, 1, 0)],
)
def test_pairs_are_scored_once_where_their_score_is_in_bits(
    f_acq: str, gamma: float, k: int, scored: int, net: SplitModel, pool: Pool, tiny_config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """And no mean entropy of certain mixtures is below 0, whatever is left of a difference of sums."""
    calls = []
    op = lada_ext.mixed_pair_score
    monkeypatch.setattr(lada_ext, "mixed_pair_score", lambda *a, **b: calls.append(1) or op(*a, **b) - 1e-6)
    now = round_of(net, pool, tiny_config.model_copy(update={"gamma": gamma}), f_acq, "mix")
    with torch.no_grad():
        list(net.parameters())[-2].mul_(1e6)
    views = views_of(net, pool, now, k=k)
    with frozen(net), torch.no_grad():
        _, entropies = lookahead.unit_scores(views, torch.full((12,), 0.5), now)
    batches = -(-12 // max(1, now.config.scoring_batch // now.config.samples))
    assert len(calls) == scored * batches
    assert entropies.min() >= 0


@pytest.mark.parametrize("learn", [False, True])
def test_the_best_of_all_pairs_are_bought(
    learn: bool, net: SplitModel, pool: Pool, tiny: Dataset, tiny_config: Config
) -> None:
    """Fixed: greedily the best disjoint pairs by Eq. 13 under quadrature. Learned: a matching that begins with them."""
    config = tiny_config.model_copy(update={"pairs": "all", "layers": (2,)})
    now = round_of(net, pool, config, "entropy", "mix", learn=learn)
    bought = lookahead.acquire(net, pool, simulated_oracle(tiny), now)
    ids = pool.candidates(config.candidates, Keys(1).generator("candidates", 1))
    with frozen(net), torch.no_grad():
        view = View(net, 2, image=pool.pixels(ids), ids=ids)
        members = lookahead.match(view, now)
        nodes = lada_ext.beta_nodes(config.fixed_tau, 5)
        count = 12 if learn else 2
        _, best = lada_ext.reference.top_pairs(view.logits.double(), count, *nodes, disjoint=True)
    assert torch.equal(members.t(), best)
    pairs = [sorted(bought.ids[i : i + 2]) for i in (0, 2)]
    assert all(pair in [sorted(ids[p].tolist()) for p in members.t()] for pair in pairs)
    assert len(set(bought.ids)) == 4


@pytest.mark.parametrize(("f_acq", "f_aug"), LOOKING_AHEAD)
def test_diverse_batches_begin_with_the_best_unit(
    f_acq: str, f_aug: str, net: SplitModel, pool: Pool, tiny: Dataset, tiny_config: Config
) -> None:
    bought = {}
    for selection in ("greedy", "diverse"):
        config = tiny_config.model_copy(update={"selection": selection, "query": 6})
        now = round_of(net, pool, config, f_acq, f_aug)
        bought[selection] = lookahead.acquire(net, pool, simulated_oracle(tiny), now)
    arity = now.f_aug.arity
    assert bought["diverse"].ids[:arity] == bought["greedy"].ids[:arity]
    assert bought["diverse"].scores[:1] == bought["greedy"].scores[:1]
    assert len(set(bought["diverse"].ids)) == 6
    assert min(bought["diverse"].scores) <= min(bought["greedy"].scores)


@pytest.mark.parametrize(("f_acq", "f_aug"), [("entropy", "mix"), ("var-ratio", "mix"), ("entropy", "stn")])
def test_the_plain_way_buys_the_same(
    f_acq: str,
    f_aug: str,
    net: SplitModel,
    pool: Pool,
    tiny: Dataset,
    tiny_config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bought = {}
    for plain in (False, True):
        config = tiny_config.model_copy(update={"plain": plain, "layers": (2,), "samples": 3, "curve": 0})
        now = round_of(net, pool, config, f_acq, f_aug, learn=True)
        learner = make_learner(now.config, tiny, now.keys, torch.device("cpu"), net)
        assert learner.net.mixes_logits(2) != plain
        if plain:
            monkeypatch.setattr(lada_ext, "mixed_pair_score", None)
            monkeypatch.setattr(lada_ext, "pair_score", None)
        bought[plain] = lookahead.acquire(net, pool, simulated_oracle(tiny), now)
    assert bought[True].ids == bought[False].ids
    torch.testing.assert_close(bought[True].scores, bought[False].scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bought[True].tau, bought[False].tau, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arity", [1, 2])
def test_diverse_batches_hold_no_duplicates_while_there_is_something_else(net: SplitModel, arity: int) -> None:
    """Eight copies of one unit have the highest scores, then come other units."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(arity, 20, 1, 20, 20, generator=generator)
    images[:, :8] = images[:, :1]
    with frozen(net), torch.no_grad():
        views = [View(net, 0, image=images[i]) for i in range(arity)]
        picks = diverse.pick(torch.linspace(1, 0, 20), views, 4, batch=7)
        features = diverse.unit_features(views, 7)
    assert picks[0] == 0
    assert (picks[1:] >= 8).all()
    farthest = torch.cdist(features[8:], features[:1]).argmax() + 8
    assert picks[1] == farthest


def test_diverse_pairs_do_not_depend_on_which_end_comes_first(net: SplitModel) -> None:
    images = torch.randn(2, 5, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    with frozen(net), torch.no_grad():
        a, b = (View(net, 0, image=part) for part in images)
        torch.testing.assert_close(diverse.unit_features([a, b], 5), diverse.unit_features([b, a], 5))


def test_best_epoch_records_what_the_policy_said(net: SplitModel, pool: Pool, tiny_config: Config) -> None:
    config = tiny_config.model_copy(update={"tau_star": "best epoch", "policy_epochs": 1})
    now = round_of(net, pool, config, "entropy", "mix", learn=True)
    views = views_of(net, pool, now)
    with frozen(net), now.keys.scope("policy weights", 1):
        policy = now.f_aug.policy(*views, learn=True)
        first = policy(*views).detach()
        recorded = learn_policy(policy, views, now)
    assert recorded is not None
    batches = torch.randperm(12, generator=Keys(1).generator("policy batches", 1, 0)).split(config.policy_batch)
    torch.testing.assert_close(recorded[batches[0]], first[batches[0]])  # before any step
    assert not torch.allclose(recorded, policy(*views).detach(), atol=1e-7)


def test_layers_are_drawn_for_features_only(net: SplitModel, pool: Pool, tiny_config: Config) -> None:
    layer = lambda f_aug, number: lookahead.draw_layer(  # noqa: E731
        round_of(net, pool, tiny_config, "entropy", f_aug, number=number)
    )
    assert {layer("mix", number) for number in range(20)} == {1, 2}
    assert layer("stn", 1) == 0
    assert layer(None, 1) == 0


def test_virtual_instances_for_training(net: SplitModel, pool: Pool, tiny: Dataset, tiny_config: Config) -> None:
    """Pairs are consecutive ids, labels are mixed by the lam that mixed the features, tau is the purchase's own."""
    ids = [3, 11, 40, 7]
    pool.add(ids, tiny.train_labels[ids])
    f_aug = augment.load("mix").make(tiny_config, TASK, net)
    bought = Bought(1, ids, tiny.train_labels[ids].tolist(), k=2, tau=[0.7, 3.0])
    key = lada_ext.make_key(4)
    virtual = virtual_view(net.eval(), f_aug, Origins.of(pool, bought), key)
    lam = lada_ext.beta_sample(torch.tensor([0.7, 3.0]), 1, key, torch.tensor([3, 40]))
    h = net.features(pool.pixels(torch.tensor(ids)), 2)
    expected = lam[:, :, None, None, None] * h[0::2][:, None] + (1 - lam)[:, :, None, None, None] * h[1::2][:, None]
    torch.testing.assert_close(virtual.hidden, expected)
    one_hot = torch.nn.functional.one_hot(tiny.train_labels[ids], 3).float()
    torch.testing.assert_close(
        virtual.target, lam[..., None] * one_hot[0::2][:, None] + (1 - lam)[..., None] * one_hot[1::2][:, None]
    )
    fixed = dataclasses.replace(bought, tau=None)
    again = virtual_view(net, f_aug, Origins.of(pool, fixed), key)
    assert again.hidden.shape == virtual.hidden.shape
