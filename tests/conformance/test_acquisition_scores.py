"""Scores of logits: entropy, variation ratio, BALD and CAL equal their definitions on constructed nets."""

from __future__ import annotations

import math

import pytest
import torch
from lada_al import View
from lada_al.acquire.bald import Bald
from lada_al.acquire.cal import PADDING, Cal
from lada_al.data import Dataset
from lada_al.models import frozen
from torch.nn import functional as F  # noqa: N812
from toys import Fixed, acquisition, config, occasion, only_logits, pool_of, prepare, small_net, trained, view_of


def test_entropy_and_variation_ratio(data: Dataset) -> None:
    view = only_logits(torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -torch.inf, -torch.inf], [9e9, 0, 0, 0]]))
    entropy = acquisition("entropy", config("entropy"), data, view.net).score(view)
    ratio = acquisition("var-ratio", config("entropy"), data, view.net).score(view)
    assert entropy.tolist() == pytest.approx([2.0, 1.0, 0.0])
    assert ratio.tolist() == pytest.approx([0.75, 0.5, 0.0])


class TestBald:
    def test_a_deterministic_net_has_nothing_to_disagree_about(self) -> None:
        """The last layer reads no feature, so no mask changes the prediction, however unsure it is."""
        net = Fixed(torch.zeros(4, 6)).eval()
        f_acq = Bald(samples=10, dropout=0.5, features=6)
        f_acq.masks = (torch.rand(10, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
        assert f_acq.score(View(net, 0, hidden=torch.randn(5, 6))).abs().max() < 1e-6

    def test_full_disagreement_is_log_c_bits(self) -> None:
        """Each mask leaves one feature, and each feature is sure of another class."""
        net = Fixed(1000 * torch.eye(8)).eval()
        f_acq = Bald(samples=8, dropout=0.5, features=8)
        f_acq.masks = torch.eye(8)
        scores = f_acq.score(View(net, 0, hidden=torch.ones(3, 8)))
        assert scores.tolist() == pytest.approx([math.log2(8)] * 3, abs=1e-5)

    def test_it_is_mutual_information_over_the_masks(self, data: Dataset) -> None:
        settings = config("bald", bald_samples=12)
        net = small_net(data, 0.5).eval()
        pool = pool_of(data, torch.arange(12))
        f_acq = acquisition("bald", settings, data, net)
        prepare(f_acq, occasion(net, pool, settings))
        view = view_of(net, pool, torch.arange(20, 50))
        p = torch.stack([net.stages[-1](view.penultimate * mask).softmax(1) for mask in f_acq.masks]).double()
        entropy = lambda p: -(p * p.log2()).sum(-1)  # noqa: E731
        torch.testing.assert_close(
            f_acq.score(view).double(), entropy(p.mean(0)) - entropy(p).mean(0), rtol=1e-3, atol=1e-5
        )

    def test_masks_are_those_of_training(self, data: Dataset) -> None:
        """Half of the features dropped, the others doubled: what the classifier's own dropout does."""
        settings = config("bald", bald_samples=200)
        net = small_net(data, 0.5)
        f_acq = acquisition("bald", settings, data, net)
        prepare(f_acq, occasion(net, pool_of(data, torch.arange(12)), settings))
        assert set(f_acq.masks.unique().tolist()) == {0.0, 2.0}
        assert f_acq.masks.mean() == pytest.approx(1.0, abs=0.02)
        assert net.stages[-1].dropout == 0.5


class TestCal:
    def test_it_is_the_variance_over_views(self, data: Dataset) -> None:
        learner, pool = trained("cal", data, torch.arange(12))
        assert isinstance(learner.f_acq, Cal)
        prepare(learner.f_acq, occasion(learner.net, pool, learner.config))
        view = view_of(learner.net, pool, torch.arange(20, 40))
        black = F.pad(data.train_images[20:40].float() / 255, [PADDING] * 4)
        predictions = []
        for top, left, mirrored in learner.f_acq.shifts.tolist():
            crop = black[:, :, top : top + 20, left : left + 20]
            crop = data.task.normalised(crop.flip(3) if mirrored else crop)
            with frozen(learner.net), torch.no_grad():
                predictions.append(learner.net(crop).softmax(1))
        expected = torch.stack(predictions).var(0, correction=0).sum(1)
        assert len(predictions) == 50
        with frozen(learner.net):
            torch.testing.assert_close(learner.f_acq.score(view), expected, rtol=1e-3, atol=1e-5)
        assert expected.max() > 0.01

    def test_what_no_shift_changes_scores_zero(self, data: Dataset) -> None:
        settings = config("cal")
        net = small_net(data).eval()
        f_acq = acquisition("cal", settings, data, net)
        prepare(f_acq, occasion(net, pool_of(data, torch.arange(12)), settings))
        black = data.task.normalised(torch.zeros(2, 1, 20, 20))
        assert f_acq.score(View(net, 0, image=black)).abs().max() < 1e-6

    def test_the_row_of_the_table_mixes_after_the_acquisition(self) -> None:
        method = config("cal").chosen
        assert (method.acquisition.name, method.look_ahead) == ("cal", False)
        assert method.augmentation is not None
        assert method.augmentation.name == "mix"
        assert config("cal+none").chosen.augmentation is None
