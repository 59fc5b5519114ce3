"""VAAL and LL4AL: the helpers they train do learn what their papers say, and scores mean it."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from lada_al import View, lookahead
from lada_al.acquire import vaal
from lada_al.acquire.ll4al import LL4AL, LossPrediction, ranking_loss
from lada_al.acquire.vaal import Autoencoder, Vaal, negative_elbo
from lada_al.data import Dataset
from lada_al.keys import Keys
from lada_al.models import frozen
from lada_al.round import Round
from lada_al.timing import Clock, NoMeter
from toys import acquisition, augmentation, config, occasion, pool_of, prepare, small_net, trained, view_of

STRIPES = torch.arange(0, 120, 3)


@pytest.fixture(scope="module", params=[True, False], ids=["with probabilities", "latent code alone"])
def prepared(request: pytest.FixtureRequest, data: Dataset) -> tuple[Vaal, View]:
    """VAAL where only stripes are labelled, and all that is not."""
    settings = {"vaal_steps": 200, "vaal_width": 8, "vaal_latent": 16, "vaal_probabilities": request.param}
    learner, pool = trained("vaal", data, STRIPES[:20], **settings)
    prepare(learner.f_acq, occasion(learner.net, pool, learner.config))
    assert isinstance(learner.f_acq, Vaal)
    return learner.f_acq, view_of(learner.net, pool, pool.unlabelled())


class TestVaal:
    def test_the_discriminator_tells_and_the_pick_is_what_it_calls_unlabelled(
        self, prepared: tuple[Vaal, View]
    ) -> None:
        f_acq, view = prepared
        scores = f_acq.score(view)
        assert view.ids is not None
        is_stripes = view.ids % 3 == 0
        assert ((scores > 0) & (scores < 1)).all()
        assert scores[~is_stripes].mean() > scores[is_stripes].mean() + 0.1
        best = scores.argsort(descending=True)[:20]
        assert not is_stripes[best].any()

    def test_the_code_did_not_collapse(self, prepared: tuple[Vaal, View]) -> None:
        """The code carries information (KL), and reconstructs better than the mean image does."""
        f_acq, view = prepared
        mean, log_variance = f_acq.autoencoder.encode(view.image)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        assert divergence.mean() > 1
        reconstructed = f_acq.autoencoder.decode(mean)
        error = (view.image - reconstructed).square().mean()
        assert error < 0.95 * (view.image - view.image.mean(0)).square().mean()

    def test_the_adversary_hides_what_the_discriminator_looks_for(
        self, data: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the evidence bound, steps of the autoencoder make the call 'labelled' likelier for both sides."""
        settings = config("vaal", vaal_probabilities=False, vaal_steps=40, vaal_width=8, vaal_latent=8)
        net = small_net(data).eval()
        pool = pool_of(data, STRIPES[:20])
        f_acq = acquisition("vaal", settings, data, net)
        assert isinstance(f_acq, Vaal)
        prepare(f_acq, occasion(net, pool, settings))
        monkeypatch.setattr(vaal, "negative_elbo", lambda *_: torch.zeros(()))
        f_acq.autoencoder.requires_grad_(True)
        f_acq.discriminator.requires_grad_(True)
        f_acq.optimizers = [torch.optim.SGD(f_acq.autoencoder.parameters(), 0.01), torch.optim.SGD([torch.zeros(1)])]
        view = view_of(net, pool, torch.arange(20, 80))
        before = f_acq.score(view).mean()
        for _ in range(5):
            f_acq.step(view[:30], view[30:])
        assert f_acq.score(view).mean() < before

    def test_the_bound_is_that_of_one_instance(self) -> None:
        """Both terms are summed over an instance: the weight of the divergence does not depend on the batch."""
        h, r = torch.randn(6, 1, 4, 4), torch.randn(6, 1, 4, 4)
        mean, log_variance = torch.randn(6, 3), torch.randn(6, 3)
        normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
        divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0, 1)).sum(1)
        expected = ((h - r).square().sum((1, 2, 3)) / 2 + divergence).mean()
        torch.testing.assert_close(negative_elbo(h, r, mean, log_variance), expected)

    @pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (8, 10, 10), (64, 7, 7), (1, 19, 33), (4, 1, 1)])
    def test_maps_of_any_size(self, shape: tuple[int, ...]) -> None:
        net = Autoencoder(shape, width=4, latent=5)
        mean, _ = net.encode(torch.randn(2, *shape))
        assert mean.shape == (2, 5)
        assert net.decode(mean).shape == (2, *shape)


class TestLL4AL:
    def test_the_loss_is_the_papers(self) -> None:
        """max(0, 1 - sign(l_i - l_j) (p_i - p_j)) for the pairs (i, B - 1 - i)."""
        predicted, losses = torch.tensor([0.2, 3.0, 0.1, 0.5]), torch.tensor([1.0, 2.0, 0.0, 4.0])
        expected = (max(0, 1 + (0.2 - 0.5)) + max(0, 1 - (3.0 - 0.1))) / 2
        loss = ranking_loss(predicted, losses)
        assert loss is not None
        assert loss.item() == pytest.approx(expected)

    def test_odd_batches_leave_one_out(self) -> None:
        predicted, losses = torch.randn(5), torch.rand(5)
        keep = [0, 1, 3, 4]
        assert torch.equal(ranking_loss(predicted, losses), ranking_loss(predicted[keep], losses[keep]))
        assert ranking_loss(predicted[:1], losses[:1]) is None

    def test_it_learns_to_rank_losses(self, data: Dataset) -> None:
        """Its loss falls below that of a module that says nothing, and it ranks held-out losses better than chance."""
        learner, pool = trained("ll4al", data, torch.arange(90), epochs=15)
        view = view_of(learner.net, pool, torch.arange(90, 120))
        losses = torch.nn.functional.cross_entropy(view.logits, data.train_labels[90:], reduction="none")
        predicted = learner.f_acq.score(view).detach()
        held_out = scipy.stats.kendalltau(predicted.numpy(), losses.numpy())
        assert held_out.statistic > 0
        assert held_out.pvalue < 0.05
        seen = view_of(learner.net, pool, torch.arange(90))
        truth = torch.nn.functional.cross_entropy(seen.logits, data.train_labels[:90], reduction="none")
        order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
        loss = ranking_loss(learner.f_acq.score(seen).detach()[order], truth[order])
        assert loss is not None
        assert loss < 1.0

    def test_from_the_cut_on_it_no_longer_moves_the_classifier(self, data: Dataset) -> None:
        net = small_net(data)
        f_acq = acquisition("ll4al", config("ll4al", ll4al_cut=0.5), data, net)
        pool = pool_of(data, torch.arange(12))
        for progress, moves in ((0.4, True), (0.5, False)):
            net.zero_grad()
            view = View(net, 0, image=pool.pixels(torch.arange(12)))
            view.logits  # noqa: B018
            loss = f_acq.loss(view, torch.rand(12), progress)
            assert loss is not None
            loss.backward()
            assert (net.stages[0][0].weight.grad is not None) == moves

    def test_the_batch_runs_through_the_classifier_once(self, data: Dataset) -> None:
        """The module reads the features of the same pass, so BatchNorm does not see the batch twice."""
        net = small_net(data)
        f_acq = acquisition("ll4al", config("ll4al"), data, net)
        view = View(net, 0, image=torch.randn(8, 1, 20, 20))
        view.logits  # noqa: B018
        f_acq.loss(view, torch.rand(8), 0.0)
        assert int(net.stages[0][1].num_batches_tracked) == 1

    def test_four_blocks_of_resnet18(self) -> None:
        assert sum(p.numel() for p in LossPrediction([64, 128, 256, 512]).parameters()) == 123_905


class TestInsideLookAhead:
    """Our reading of what Appendix D says of f_integ with VAAL and LL4AL."""

    @pytest.mark.parametrize("k", [1, 2])
    def test_a_mixed_instance_has_all_that_a_real_one_has(self, k: int, data: Dataset) -> None:
        """lam = 1 mixes nothing: the virtual instance is the first of the pair, and scores like it."""
        for name in ("vaal", "ll4al"):
            settings = config(f"lada-{name}-mix", vaal_steps=5, vaal_width=4)
            net = small_net(data).eval()
            pool = pool_of(data, torch.arange(12))
            f_acq = acquisition(name, settings, data, net)
            prepare(f_acq, occasion(net, pool, settings, k))
            with frozen(net, f_acq.trained):
                real = view_of(net, pool, torch.arange(20, 30), k)
                mixed = View(net, k, hidden=real.hidden[:, None], leading=2)
                torch.testing.assert_close(f_acq.score(mixed)[:, 0], f_acq.score(real), rtol=1e-4, atol=1e-5)

    def test_a_transformed_instance_at_the_identity_is_the_image(self, data: Dataset) -> None:
        for name in ("vaal", "ll4al"):
            settings = config(f"lada-{name}-stn", vaal_steps=5, vaal_width=4)
            net = small_net(data).eval()
            pool = pool_of(data, torch.arange(12))
            f_acq, f_aug = acquisition(name, settings, data, net), augmentation("stn", settings, data, net)
            prepare(f_acq, occasion(net, pool, settings))
            with frozen(net, f_acq.trained):
                real = view_of(net, pool, torch.arange(20, 30))
                virtual = f_aug(real, tau=f_aug.policy(real, learn=False)(real), key=Keys(1).key("pick", 1))
                torch.testing.assert_close(f_acq.score(virtual), f_acq.score(real), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (1.0, -7.0), (0.01, 100.0)])
    def test_the_scale_of_predicted_losses_does_not_matter(self, scale: float, shift: float, data: Dataset) -> None:
        """Real and virtual instances are scored by one module, so Eq. 13 orders pairs alike under s -> a s + b."""
        settings = config("lada-ll4al-mix-fixed")
        net = small_net(data).eval()
        pool = pool_of(data, torch.arange(12))
        f_acq, f_aug = acquisition("ll4al", settings, data, net), augmentation("mix", settings, data, net)
        assert isinstance(f_acq, LL4AL)
        now = Round(1, settings, Keys(1), f_acq, f_aug, NoMeter(), Clock(torch.device("cpu")))
        view = view_of(net, pool, torch.arange(20, 60), k=1)
        views = [view[:20], view[20:]]
        with frozen(net, f_acq.trained), torch.no_grad():
            tau = f_aug.policy(*views, learn=False)(*views)
            plain, _ = lookahead.unit_scores(views, tau, now)
            f_acq.trained.last.weight.mul_(scale)
            f_acq.trained.last.bias.mul_(scale).add_(shift)
            other, _ = lookahead.unit_scores(views, tau, now)
        torch.testing.assert_close(other, scale * plain + 3 * shift, rtol=1e-4, atol=1e-4)
        assert scipy.stats.kendalltau(plain.numpy(), other.numpy()).statistic > 0.98

    def test_vaals_scores_are_probabilities_for_real_and_virtual(self, data: Dataset) -> None:
        settings = config("lada-vaal-mix-fixed", vaal_steps=20, vaal_width=4)
        net = small_net(data).eval()
        pool = pool_of(data, torch.arange(12))
        f_acq, f_aug = acquisition("vaal", settings, data, net), augmentation("mix", settings, data, net)
        prepare(f_acq, occasion(net, pool, settings, k=1))
        view = view_of(net, pool, torch.arange(20, 60), k=1)
        views = [view[:20], view[20:]]
        with frozen(net), torch.no_grad():
            tau = f_aug.policy(*views, learn=False)(*views)
            virtual = f_acq.score(f_aug(*views, tau=tau, key=Keys(1).key("pick", 1), samples=3))
            real = f_acq.score(view)
        assert virtual.shape == (20, 3)
        for scores in (real, virtual):
            assert ((scores > 0) & (scores < 1)).all()
