"""Mixup and STN with their policies, AdaMixup, AutoAugment, BGADL's generator and the Pi-model do what their papers say."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from lada_al import View, acquire
from lada_al.augment.adamixup import AdaMixup
from lada_al.augment.autoaugment import AutoAugment
from lada_al.augment.bgadl import Bgadl, VaeAcgan
from lada_al.augment.mix import Concentration
from lada_al.augment.stn import Stn
from lada_al.data import Dataset, Task
from lada_al.keys import Keys
from lada_al.models import frozen
from lada_al.policy import learn_policy
from lada_al.round import Round
from lada_al.timing import Clock, NoMeter
from lada_al.train_pi import PiModel, ramp_up
from toys import acquisition, augmentation, config, pool_of, small_net, trained, view_of

import lada_ext

KEY = lada_ext.make_key(8)


def round_of(learner: object, number: int = 1) -> Round:
    return Round(
        number,
        learner.config,
        Keys(1),
        learner.f_acq,
        learner.f_aug,
        NoMeter(),
        Clock(torch.device("cpu")),  # type: ignore[attr-defined]
    )


def mean_entropy(virtual: View) -> float:
    return float(lada_ext.entropy(virtual.logits).mean().detach())


class TestMixup:
    def test_labels_are_mixed_by_the_lam_that_mixed_the_features(self, data: Dataset) -> None:
        net = small_net(data).eval()
        view = view_of(net, pool_of(data, torch.arange(12)), torch.arange(20, 40), k=1)
        a, b = view[:10], view[10:]
        mixed = augmentation("mix", config("entropy"), data, net)(a, b, tau=torch.full((10,), 2.0), key=KEY, samples=3)
        lam = ((mixed.hidden - b.hidden[:, None]) * (a.hidden - b.hidden)[:, None]).flatten(2).sum(2)
        lam = lam / (a.hidden - b.hidden).square().flatten(1).sum(1)[:, None]
        expected = lam[..., None] * a.target[:, None] + (1 - lam[..., None]) * b.target[:, None]
        torch.testing.assert_close(mixed.target, expected, rtol=1e-3, atol=1e-3)
        assert lam.std() > 0.1

    def test_the_input_itself_can_be_mixed(self, data: Dataset) -> None:
        """At k = 0 the mixed image, not the first one, goes through the network."""
        net = small_net(data).eval()
        view = view_of(net, pool_of(data, torch.arange(12)), torch.arange(20, 40))
        a, b = view[:10], view[10:]
        mixed = augmentation("mix", config("entropy", layers=(0,)), data, net)(
            a, b, tau=torch.full((10,), 50.0), key=KEY
        )
        torch.testing.assert_close(mixed.logits[:, 0], net(mixed.hidden[:, 0]))
        assert (mixed.logits[:, 0] - a.logits).abs().max() > 0.01

    @pytest.mark.parametrize("largest_tau", [1.0, 20.0])
    def test_the_learned_policy_raises_the_entropy_of_held_out_pairs(self, largest_tau: float, data: Dataset) -> None:
        """Over the policy before learning; over the fixed tau = 2 too, where the policy's range allows it."""
        learner, pool = trained(
            "lada-ent-mix", data, torch.arange(12), largest_tau=largest_tau, policy_epochs=30, policy_lr=1e-3, samples=8
        )
        now = round_of(learner)
        ids = 20 + torch.randperm(100, generator=torch.Generator().manual_seed(0))
        seen, held_out = view_of(learner.net, pool, ids[:60], k=1), view_of(learner.net, pool, ids[60:], k=1)
        views, others = [seen[:30], seen[30:]], [held_out[:20], held_out[20:]]
        f_aug = now.f_aug
        assert f_aug is not None
        with frozen(learner.net), now.keys.scope("policy weights", 1):
            policy = f_aug.policy(*views, learn=True)
            entropy = lambda tau: mean_entropy(f_aug(*others, tau=tau, key=KEY, samples=50))  # noqa: E731
            before = entropy(policy(*others))
            learn_policy(policy, views, now)
            after = entropy(policy(*others))
            fixed = entropy(torch.full((20,), 2.0))
        assert isinstance(policy, Concentration)
        assert policy(*others).max() <= largest_tau
        assert after > before
        assert (after > fixed) == (largest_tau > 2)


class TestStn:
    def test_it_starts_at_the_identity(self, data: Dataset) -> None:
        net = small_net(data).eval()
        view = view_of(net, pool_of(data, torch.arange(12)), torch.arange(20, 30))
        f_aug = augmentation("stn", config("entropy"), data, net)
        virtual = f_aug(view, tau=f_aug.policy(view, learn=False)(view), key=KEY)
        torch.testing.assert_close(virtual.image, view.image, rtol=1e-4, atol=1e-4)

    def test_infostn_raises_the_entropy_over_the_cross_entropy_trained_one(self, data: Dataset) -> None:
        learner, pool = trained(
            "lada-ent-stn", data, torch.arange(24), rounds=2, policy_epochs=20, policy_lr=1e-3, policy_batch=20
        )
        now = round_of(learner)
        assert isinstance(now.f_aug, Stn)
        seen = view_of(learner.net, pool, torch.arange(30, 80))
        held_out = view_of(learner.net, pool, torch.arange(80, 120))
        with frozen(learner.net):
            fixed, learned = now.f_aug.policy(seen, learn=False), now.f_aug.policy(seen, learn=True)
            learn_policy(learned, [seen], now)
            entropy = lambda policy: mean_entropy(now.f_aug(held_out, tau=policy(held_out), key=KEY))  # noqa: E731
            assert entropy(learned) > entropy(fixed) + 0.01

    def test_it_cannot_zoom_out_to_blank_padding(self, data: Dataset) -> None:
        """However far it is driven, the map scales by at most 1.5, and the middle of the image stays in sight."""
        stn = augmentation("stn", config("entropy"), data, small_net(data))
        assert isinstance(stn, Stn)
        torch.nn.init.constant_(stn.trained.localisation.regression.bias, 1e6)
        theta = stn.trained.theta(torch.randn(3, 1, 20, 20))
        middle = theta @ torch.tensor([0.0, 0.0, 1.0])
        assert (theta[:, [0, 1], [0, 1]] <= 1.5).all()
        assert (middle.abs() <= 0.5).all()

    def test_images_need_not_be_square(self) -> None:
        stn = Stn((3, 20, 34))
        image = torch.randn(2, 3, 20, 34)
        virtual = stn.trained(image)
        torch.testing.assert_close(virtual, image, rtol=1e-4, atol=1e-4)


class TestAdaMixup:
    def test_lam_is_uniform_in_the_policys_interval(self, data: Dataset) -> None:
        net = small_net(data).eval()
        view = view_of(net, pool_of(data, torch.arange(12)), torch.arange(20, 40), k=1)
        a, b = view[:10], view[10:]
        f_aug = augmentation("adamixup", config("ent+adamixup"), data, net)
        tau = f_aug.policy(a, b, learn=False)(a, b).detach()
        mixed = f_aug(a, b, tau=tau, key=KEY, samples=400)
        first, second = a.target.argmax(1), b.target.argmax(1)
        differ = first != second
        lam = mixed.target[differ].gather(2, first[differ][:, None, None].expand(-1, 400, 1)).squeeze(2)
        alpha, delta = tau[differ].unbind(1)
        assert (tau.sum(1) < 1).all()
        assert (lam >= alpha[:, None] - 1e-6).all()
        assert (lam <= (alpha + delta)[:, None] + 1e-6).all()
        torch.testing.assert_close(lam.mean(1), alpha + delta / 2, rtol=0, atol=0.05)
        assert lam.std(0).max() > 0  # each pair has its own

    def test_policy_and_intrusion_discriminator_both_move_and_tell(
        self, data: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The intrusion loss falls below that of the best constant guess, log 3 + 2 log 3/2."""
        losses: list[float] = []
        loss = AdaMixup.loss

        def recording(self: AdaMixup, virtual: View) -> torch.Tensor:
            value = loss(self, virtual)
            losses.append(float(value.detach()))
            return value

        monkeypatch.setattr(AdaMixup, "loss", recording)
        before, _ = trained("ent+adamixup", data, torch.arange(60), rounds=1, layers=(1,))
        after, _ = trained("ent+adamixup", data, torch.arange(60), rounds=2, epochs=100, layers=(1,), lr=3e-3)
        assert isinstance(before.f_aug, AdaMixup)
        assert isinstance(after.f_aug, AdaMixup)
        for part in ("regions", "discriminator"):
            pairs = zip(getattr(before.f_aug, part).parameters(), getattr(after.f_aug, part).parameters(), strict=True)
            assert any(not torch.equal(old, new) for old, new in pairs), part
        assert len(losses) == 100
        assert sum(losses[-20:]) / 20 < min(math.log(3) + 2 * math.log(1.5), sum(losses[:20]) / 20)

    def test_look_ahead_learns_on_a_copy(self, data: Dataset) -> None:
        learner, pool = trained("lada-ent-adamixup", data, torch.arange(12), layers=(1,), policy_lr=1e-2)
        now = round_of(learner)
        assert isinstance(now.f_aug, AdaMixup)
        kept = copy.deepcopy(now.f_aug.regions.state_dict())
        view = view_of(learner.net, pool, torch.arange(20, 60), k=1)
        views = [view[:20], view[20:]]
        with frozen(learner.net):
            learn_policy(now.f_aug.policy(*views, learn=True), views, now)
        assert all(torch.equal(value, kept[name]) for name, value in now.f_aug.regions.state_dict().items())


class TestAutoAugment:
    @pytest.fixture
    def view(self, data: Dataset) -> View:
        net = small_net(data).eval()
        return view_of(net, pool_of(data, torch.arange(12)), torch.arange(20, 40))

    def test_each_image_has_its_own_draw_by_its_id(self, view: View, data: Dataset) -> None:
        f_aug = augmentation("autoaugment", config("entropy"), data, view.net)
        same = View(view.net, 0, image=view.image[:1].expand(20, -1, -1, -1), ids=view.ids)
        virtual = f_aug(same, tau=torch.ones(20), key=KEY, samples=4).image
        different = {image.numpy().tobytes() for image in virtual.flatten(0, 1)}
        assert len(different) > 20
        order = torch.tensor([7, 2, 11])
        torch.testing.assert_close(f_aug(same[order], tau=torch.ones(3), key=KEY, samples=4).image, virtual[order])
        assert not torch.equal(f_aug(same, tau=torch.ones(20), key=lada_ext.make_key(9), samples=4).image, virtual)

    def test_it_says_whose_policy_it_uses(self) -> None:
        task = lambda name, channels: Task(name, (channels, 32, 32), 10, [0.5] * channels, [0.2] * channels)  # noqa: E731
        assert AutoAugment(task("cifar10", 3)).note is None
        assert AutoAugment(task("svhn", 3)).operations.policy.value == "svhn"
        assert "no AutoAugment policy for fashion; ImageNet's is used" in str(AutoAugment(task("fashion", 1)).note)

    def test_global_randomness_is_left_alone(self, view: View, data: Dataset) -> None:
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        augmentation("autoaugment", config("entropy"), data, view.net)(view, tau=torch.ones(20), key=KEY)
        assert torch.equal(torch.rand(2), expected)


class TestBgadl:
    def test_twenty_labels_train_the_generator(self, data: Dataset) -> None:
        net = small_net(data).eval()
        pool = pool_of(data, torch.arange(20))
        f_aug = augmentation("bgadl", config("bgadl", bgadl_width=16), data, net)
        assert isinstance(f_aug, Bgadl)
        errors = []
        with Keys(1).scope("training batches", 1):
            for epoch in range(100):
                f_aug.adapt(net, pool, epoch, 100)
                pixels, labels = data.task.to_pixels(pool.pixels(torch.arange(20))), data.train_labels[:20]
                if epoch in (0, 99):
                    reconstructed, _, _, _ = f_aug.nets.siblings(pixels, labels, torch.zeros(2, 20, 100))
                    errors.append((reconstructed - pixels).square().mean().item())
        assert errors[1] < 0.8 * errors[0]

    def test_its_siblings_have_the_label_and_lie_in_the_image(self, data: Dataset) -> None:
        learner, pool = trained("bgadl", data, torch.arange(20), rounds=2, epochs=2, bgadl_width=8)
        view = view_of(learner.net, pool, torch.arange(10))
        assert learner.f_aug is not None
        virtual = learner.f_aug(view, tau=torch.ones(10), key=KEY)
        assert virtual.image.shape == (10, 2, 1, 20, 20)
        assert torch.equal(virtual.target, view.target[:, None].expand(10, 2, 3))
        pixels = data.task.to_pixels(virtual.image)
        torch.testing.assert_close(data.task.normalised(pixels), virtual.image, rtol=1e-4, atol=1e-4)

    def test_the_classifiers_statistics_stay_out_of_it(self, data: Dataset) -> None:
        """G is judged by the classifier as it is: neither its weights nor BatchNorm's statistics move."""
        net = small_net(data)
        before = copy.deepcopy(net.state_dict())
        augmentation("bgadl", config("bgadl", bgadl_width=8), data, net).adapt(
            net, pool_of(data, torch.arange(20)), 0, 1
        )
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert all(p.grad is None for p in net.parameters())
        assert net.training

    @pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 30), (3, 32, 32), (1, 5, 7)])
    def test_odd_sizes(self, shape: tuple[int, int, int]) -> None:
        nets = VaeAcgan(shape, 4, 8)
        made = nets.siblings(torch.rand(3, *shape), torch.tensor([0, 1, 2]), torch.randn(2, 3, 100))[0]
        assert made.shape == (3, *shape)
        assert nets.discriminator(made).shape == (3,)

    def test_images_that_are_too_small_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 4 x 4, got 3 x 20"):
            VaeAcgan((1, 3, 20), 4, 8)


class TestPiModel:
    def test_ramps(self) -> None:
        assert ramp_up(0.0) == pytest.approx(math.exp(-5))
        assert ramp_up(40 / 300) == pytest.approx(math.exp(-5 * 0.25))
        assert ramp_up(80 / 300) == ramp_up(0.9) == 1.0
        pi = PiModel(config("pi+entropy"))
        assert pi.adam(0.5) == (1.0, 0.9)
        assert pi.adam(250 / 300) == pytest.approx((1.0, 0.9))
        factor, beta_1 = pi.adam(1.0)
        assert factor == pytest.approx(math.exp(-12.5))
        assert beta_1 == pytest.approx(0.5, abs=1e-5)

    def test_the_term_is_the_mean_squared_difference_of_two_looks(self, data: Dataset) -> None:
        net, pool = small_net(data).eval(), pool_of(data, torch.arange(12))
        pi = PiModel(config("pi+entropy", pi_weight=7.0, pi_batch=30))
        looks: list[torch.Tensor] = []
        net.register_forward_hook(lambda module, inputs, output: looks.append(output))
        with Keys(1).scope("training batches", 1):
            loss = pi.loss(net, pool, 0.5)
        first, second = (logits.softmax(1) for logits in looks)
        assert loss.item() == pytest.approx(7.0 * (first - second).square().mean().item(), rel=1e-5)
        assert loss > 0
        loss.backward()
        assert net.stages[0][0].weight.grad.abs().sum() > 0

    def test_it_makes_predictions_consistent(self, data: Dataset) -> None:
        def inconsistency(method: str) -> float:
            from lada_al import Bought
            from lada_al.train import Learner

            settings = config(method, epochs=20)
            net = small_net(data)
            pi = PiModel(settings) if settings.chosen.semi_supervised else None
            learner = Learner(net, acquisition("entropy", settings, data, net), None, settings, pi)
            pool = pool_of(data, torch.arange(12))
            learner.fit(pool, Bought(0, [0], [0]), Keys(1), NoMeter())
            with frozen(net), torch.no_grad(), Keys(2).scope("training batches", 0):
                return float(PiModel(settings).loss(net, pool, 1.0))

        assert inconsistency("pi+entropy") < inconsistency("entropy")


def test_every_acquisition_with_a_score_can_look_ahead() -> None:
    from lada_al import all_methods

    ahead = {m.acquisition.name for m in all_methods().values() if m.look_ahead}
    assert ahead == {name for name in acquire.names() if acquire.load(name).scores}
