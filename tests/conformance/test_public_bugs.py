"""Bugs of public code of these methods, each as a test that ours lacks it; switches of the preset `official` keep some.

In the order in which they were found: the authors' own code, then that of the baselines.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from lada_al import Bought, Config, Trained, View, acquire, lookahead
from lada_al.data import Dataset
from lada_al.keys import Keys
from lada_al.methods import GROUPS, rows
from lada_al.models import frozen
from lada_al.pool import simulated_oracle
from lada_al.report.read import Run
from lada_al.round import Round
from lada_al.run.config import PRESETS
from lada_al.timing import Clock, NoMeter
from lada_al.train import Learner
from lada_al.virtual import Origins, virtual_view
from torch import nn
from toys import (
    FAST,
    acquisition,
    augmentation,
    config,
    dataset,
    occasion,
    only_logits,
    pool_of,
    prepare,
    run,
    small_net,
    trained,
    view_of,
)

import lada_ext

KEY = lada_ext.make_key(8)


class TestTheAuthorsCode:
    def test_it_starts(self) -> None:
        """Theirs imports a module that is not there; here every row of every table is made."""
        for group in GROUPS:
            for name in rows(group):
                assert config(name, query=10).chosen.name == name

    def test_the_most_confident_is_not_bought_first(self, data: Dataset) -> None:
        """A softmax that underflows makes 0 log 0 = NaN there, and NaN ranks first."""
        view = only_logits(torch.tensor([[500.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, -200.0, 0.0]]))
        for name in ("entropy", "var-ratio"):
            scores = acquisition(name, config(name), data, view.net).score(view)
            assert torch.isfinite(scores).all()
            assert acquire.top(scores, 3).tolist() == [1, 2, 0]

    @pytest.mark.parametrize("candidates", [37, 60, 500])
    def test_pools_of_any_size(self, candidates: int, data: Dataset) -> None:
        """Pools not divisible by 100 leave zero rows there; fewer than 2,000 images left stop it."""
        bought, pool = run("lada-ent-mix-fixed", data, candidates=candidates, scoring_batch=7)
        assert len(set(bought[1].ids)) == 10
        assert len(pool.unlabelled()) == 120 - 22

    def test_stale_gradients_stay_out(self, data: Dataset) -> None:
        """The step of the mixtures descends their loss alone; `stale_gradient` adds the last labelled batch's."""

        def step(stale: bool) -> torch.Tensor:
            own = {"virtual_loss": "own step", "stale_gradient": stale, "epochs": 1, "batch": 100}
            learner, _ = trained("ent+manifold-mixup", data, torch.arange(24), rounds=2, **own)
            return torch.cat([p.detach().flatten() for p in learner.net.parameters()])

        assert not torch.equal(step(True), step(False))
        assert PRESETS["official"]["stale_gradient"]
        assert not Config().stale_gradient
        gradients: list[float] = []
        settings = config("ent+manifold-mixup", virtual_loss="own step", epochs=1, batch=100)
        net = small_net(data)
        learner = Learner(
            net,
            acquisition("entropy", settings, data, net),
            augmentation("mix", settings, data, net),
            settings,
        )
        virtual = learner.virtual_loss

        def watched(*arguments: Any) -> torch.Tensor:
            gradients.append(sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None))
            return virtual(*arguments)

        learner.virtual_loss = watched  # type: ignore[method-assign]
        event = Bought(1, [0, 1, 2, 3], data.train_labels[:4].tolist(), k=1)
        learner.fit(pool_of(data, torch.arange(24)), event, Keys(1), NoMeter())
        assert gradients == [0.0]

    def test_what_is_mixed_is_normalised(self, data: Dataset) -> None:
        """There, CIFAR-100's mixtures are made of images in [0, 1]."""
        cifar = dataclasses.replace(data, name="cifar100", random_crop=True)
        net, pool = small_net(cifar).eval(), pool_of(cifar, torch.arange(12))
        f_aug = augmentation("mix", config("entropy"), cifar, net)
        origins = Origins.of(pool, Bought(1, [0, 1, 2, 3], [0, 1, 2, 0], k=1))
        virtual = virtual_view(net, f_aug, origins, KEY)
        for parent in virtual.parents:
            assert torch.equal(parent.image, pool.pixels(parent.ids))
            assert abs(parent.image.mean()) < 0.5
            assert parent.image.min() < 0

    def test_adamixups_networks_are_trained(self, data: Dataset) -> None:
        """There they are made again after the optimiser was; `adamixup_untrained` keeps them as they are."""

        def moved(**changes: Any) -> bool:
            learner, _ = trained("ent+adamixup", data, torch.arange(24), rounds=1, **changes)
            assert learner.f_aug is not None
            assert learner.f_aug.trained is not None
            before = copy.deepcopy(learner.f_aug.trained.state_dict())
            event = Bought(1, [0, 1, 2, 3], data.train_labels[:4].tolist(), k=1)
            learner.fit(pool_of(data, torch.arange(24)), event, Keys(1), NoMeter())
            return any(not torch.equal(v, before[name]) for name, v in learner.f_aug.trained.state_dict().items())

        assert moved()
        assert not moved(adamixup_untrained=True)
        assert PRESETS["official"]["adamixup_untrained"]
        assert not Config(preset="official", dataset="cifar100").adamixup_untrained

    def test_adamixups_labels_are_mixed_pair_by_pair(self, data: Dataset) -> None:
        """There the loss is a batch mean first, so all pairs get the mean weight; `adamixup_mean_label` keeps that."""
        net = small_net(data).eval()
        view = view_of(net, pool_of(data, torch.arange(12)), torch.arange(20, 40), k=1)
        tau = torch.tensor([[0.05, 0.0], [0.9, 0.05]]).repeat(5, 1)

        def shares(**changes: Any) -> torch.Tensor:
            f_aug = augmentation("adamixup", config("ent+adamixup", **changes), data, net)
            target = f_aug(view[:10], view[10:], tau=tau, key=KEY).target
            assert target is not None
            return target[:, 0].gather(1, view[:10].target.argmax(1, keepdim=True)).squeeze(1)

        assert shares().std() > 0.3
        assert shares(adamixup_mean_label=True).std() < 1e-6
        assert PRESETS["official"]["adamixup_mean_label"]

    def test_a_record_is_kept_of_what_was_bought(self, data: Dataset) -> None:
        """Pool ids, not places in a subset; the labels in the record are those of these ids."""
        bought, pool = run("entropy", data, rounds=3)
        ids = [i for event in bought for i in event.ids]
        assert pool.labelled.tolist() == ids
        assert [label for event in bought for label in event.labels] == data.train_labels[ids].tolist()

    def test_words_are_not_taken_for_true(self) -> None:
        """`type=bool` there makes True of the word False."""
        assert Config(restart_weights="False").restart_weights is False
        with pytest.raises(ValueError, match="restart_weights"):
            Config(restart_weights="maybe")

    @pytest.mark.parametrize("largest", [1.0, 8.0])
    def test_learned_and_fixed_concentrations_can_overlap(self, largest: float, data: Dataset) -> None:
        """There the learned tau is below 1 and the fixed one 2; `largest_tau` widens the range."""
        assert Config().largest_tau == 1.0 < Config().fixed_tau
        bought, _ = run("lada-ent-mix", data, **FAST, largest_tau=largest)
        assert bought[1].tau is not None
        assert (max(bought[1].tau) > Config().fixed_tau) == (largest > Config().fixed_tau)

    def test_batchnorm_sees_both_halves_of_the_pairs_at_once(self, data: Dataset) -> None:
        """There each mixing step runs three forwards of half a batch through the first layers."""
        net, pool = small_net(data), pool_of(data, torch.arange(12))
        f_aug = augmentation("mix", config("entropy"), data, net)
        origins = Origins.of(pool, Bought(1, [0, 1, 2, 3], [0, 1, 2, 0], k=1))
        virtual = virtual_view(net, f_aug, origins, KEY)
        virtual.logits  # noqa: B018
        assert int(net.stages[0][1].num_batches_tracked) == 1
        assert int(net.stages[1][1].num_batches_tracked) == 1

    @pytest.mark.parametrize("preset", ["clean", "official"])
    def test_tau_star_is_what_the_learned_policy_says(
        self, preset: str, data: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There it is tau of the epoch of least loss, recorded before the steps of that epoch."""
        quick = {**FAST, "epochs": 1, "policy_lr": 1e-2, "preset": preset}
        learner, pool = trained("lada-ent-mix", data, torch.arange(12), **quick)
        assert learner.f_aug is not None
        policies, scored = [], []
        make, score = learner.f_aug.policy, lookahead.unit_scores

        def made(*views: View, learn: bool) -> nn.Module:
            policies.append(make(*views, learn=learn))
            return policies[-1]

        def watched(views: list[View], tau: torch.Tensor, now: Round) -> tuple[torch.Tensor, torch.Tensor]:
            scored.append((views, tau))
            return score(views, tau, now)

        monkeypatch.setattr(learner.f_aug, "policy", made)
        monkeypatch.setattr(lookahead, "unit_scores", watched)
        now = Round(1, learner.config, Keys(1), learner.f_acq, learner.f_aug, NoMeter(), Clock(torch.device("cpu")))
        lookahead.acquire(learner.net, pool, simulated_oracle(data), now)
        ((views, tau),) = scored
        with frozen(learner.net), torch.no_grad():
            assert torch.equal(tau, policies[0](*views)) == (preset == "clean")

    @pytest.mark.parametrize(("preset", "headline"), [("clean", 0.6), ("paper", 0.9), ("official", 0.9)])
    def test_nothing_is_chosen_on_the_test_set(self, preset: Any, headline: float) -> None:
        """There, as the paper has it, the best round's accuracy is reported; by default it is the last one's."""
        trained_rounds = [Trained(r, 10 + r, accuracy, 0.0) for r, accuracy in enumerate([0.2, 0.9, 0.6])]
        assert Run(Path("."), Config(preset=preset), ["a", "b"], 0, [], trained_rounds).headline == headline

    @pytest.mark.parametrize("method", ["entropy", "lada-ent-mix", "lada-ll4al-stn", "bald"])
    def test_scoring_builds_no_graph_and_leaves_no_gradient(self, method: str, data: Dataset) -> None:
        settings = config(method, **FAST)
        learner, pool = trained(method, data, torch.arange(12), **{**FAST, "epochs": 1})
        learner.optimizer.zero_grad()
        now = Round(1, settings, Keys(1), learner.f_acq, learner.f_aug, NoMeter(), Clock(torch.device("cpu")))
        lookahead.acquire(learner.net, pool, simulated_oracle(data), now)
        assert all(p.grad is None for p in learner.modules.parameters())


class TestBaselines:
    @pytest.mark.parametrize("method", ["bald", "vaal", "ll4al", "cal", "badge", "coreset"])
    def test_scoring_leaves_batchnorm_alone(self, method: str, data: Dataset) -> None:
        """Public BALD calls train(), so BatchNorm learns the pool; public VAAL leaves the classifier in evaluation."""
        learner, pool = trained(method, data, torch.arange(12), **{**FAST, "epochs": 1})
        before = copy.deepcopy(learner.modules.state_dict())
        now = Round(1, learner.config, Keys(1), learner.f_acq, learner.f_aug, NoMeter(), Clock(torch.device("cpu")))
        lookahead.acquire(learner.net, pool, simulated_oracle(data), now)
        assert all(torch.equal(value, before[name]) for name, value in learner.modules.state_dict().items())
        assert learner.net.training

    def test_bgadl_buys_what_it_scored_highest_and_its_pool_shrinks(self, data: Dataset) -> None:
        """There the scores are of a shuffled pool but index the unshuffled one, and the pool grows by duplicates."""
        settings = config("bgadl", **FAST, candidates=40)
        learner, pool = trained("bgadl", data, torch.arange(12), **{**FAST, "epochs": 1})
        now = Round(1, settings, Keys(1), learner.f_acq, learner.f_aug, NoMeter(), Clock(torch.device("cpu")))
        bought = lookahead.acquire(learner.net, pool, simulated_oracle(data), now)
        assert bought.scores is not None
        candidates = pool.candidates(40, Keys(1).generator("candidates", 1))
        prepare(learner.f_acq, occasion(learner.net, pool, settings))
        with frozen(learner.net), torch.no_grad():
            score = lambda ids: learner.f_acq.score(view_of(learner.net, pool, ids))  # noqa: E731
            torch.testing.assert_close(
                torch.tensor(bought.scores), score(torch.tensor(bought.ids)), rtol=1e-3, atol=1e-4
            )
            others = torch.tensor([i for i in candidates.tolist() if i not in bought.ids])
            assert score(others).max() <= min(bought.scores) + 1e-4
        free = len(pool.unlabelled())
        pool.add(bought.ids, bought.labels)
        assert len(pool.unlabelled()) == free - 10
        assert len(pool) == len(data.train_images)

    def test_bgadls_generator_is_trained_with_twenty_labels(self, data: Dataset) -> None:
        """There `len // 100` batches are none."""
        net, pool = small_net(data), pool_of(data, torch.arange(20))
        f_aug = augmentation("bgadl", config("bgadl", bgadl_width=4), data, net)
        f_aug.adapt(net, pool, 0, 50)
        before = copy.deepcopy(f_aug.nets.state_dict())
        f_aug.adapt(net, pool, 1, 50)
        for part in ("encoder", "generator", "discriminator"):
            names = [name for name in before if name.startswith(part) and name.endswith("weight")]
            assert any(not torch.equal(f_aug.nets.state_dict()[name], before[name]) for name in names)

    @pytest.mark.parametrize("labels", [3, 20])
    def test_vaal_trains_with_fewer_labels_than_a_batch(self, labels: int, data: Dataset) -> None:
        """There `drop_last` with a batch of 128 loops for ever."""
        net, pool = small_net(data), pool_of(data, torch.arange(labels))
        f_acq = acquisition("vaal", config("vaal", vaal_steps=3, vaal_width=4, vaal_batch=128), data, net)
        prepare(f_acq, occasion(net, pool, config("vaal")))
        assert torch.isfinite(f_acq.score(view_of(net, pool, torch.arange(30, 60)))).all()

    def test_vaals_two_sides_have_two_labels(self, data: Dataset) -> None:
        """One public version calls both sides labelled; then the discriminator's loss goes to zero for any input."""
        net, pool = small_net(data).eval(), pool_of(data, torch.arange(20))
        settings = config("vaal", vaal_steps=60, vaal_width=4, vaal_probabilities=False)
        f_acq = acquisition("vaal", settings, data, net)
        prepare(f_acq, occasion(net, pool, settings))
        for part in (f_acq.autoencoder, f_acq.discriminator):
            part.requires_grad_(True)
        same = view_of(net, pool, torch.arange(30, 60))
        told = [float(f_acq.step(same, same)[1]) for _ in range(30)]
        assert min(told) > 0.5  # the same images on both sides: it cannot fall below log 2 for long

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_ll4al_takes_odd_batches(self, size: int, data: Dataset) -> None:
        learner, _ = trained("ll4al", data, torch.arange(21), epochs=1, batch=size)
        assert all(torch.isfinite(p).all() for p in learner.modules.parameters())

    def test_coreset_and_badge_and_all_others_buy_the_last_images_of_a_pool(self) -> None:
        small = dataset(train=42)
        for method in rows("table1"):
            bought, pool = run(method, small, rounds=3, epochs=1)
            assert len(pool.unlabelled()) == 0, method
            assert len({i for event in bought for i in event.ids}) == 42

    def test_tiny_concentrations_are_not_all_one_half(self) -> None:
        """torch's Beta sampler gives exactly 0.5 for most draws at tau = 1e-4."""
        lam = lada_ext.beta_sample(torch.full((1000,), 1e-4), 5, KEY)
        assert (lam == 0.5).float().mean() < 0.01
        assert ((lam < 0.01) | (lam > 0.99)).float().mean() > 0.9

    def test_twenty_labels_and_batches_of_ten_break_no_row(self, data: Dataset) -> None:
        for group in ("table1", "table2", "table3"):
            for method in rows(group):
                bought, _ = run(method, data, initial=20, batch=10, epochs=1)
                assert len(set(bought[1].ids)) == 10, method


def test_every_switch_of_the_official_preset_is_off_by_default() -> None:
    default, official = Config(), Config(preset="official", dataset="cifar10")
    switches = {name for name in PRESETS["official"] if getattr(default, name) != getattr(official, name)}
    assert switches == set(PRESETS["official"])
