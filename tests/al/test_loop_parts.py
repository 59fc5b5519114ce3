"""View, models, pool, keys: the parts that everything else of the loop rests on."""

from __future__ import annotations

import itertools

import pytest
import torch
from lada_al import View, models
from lada_al.augment.mix import Concentration
from lada_al.augment.stn import LocalisationNet, Stn
from lada_al.data import Dataset
from lada_al.keys import Keys
from lada_al.loop import balanced_choice
from lada_al.models import SplitModel, frozen
from lada_al.pair_net import PairNet
from lada_al.pool import Pool
from lada_al.view import pairs_within
from torch import Tensor, nn

SIZES = {"small": (1, (20, 20)), "resnet18": (3, (32, 32))}


class Counting(nn.Module):
    """Counts how often a stage runs."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage, self.calls = stage, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.stage(x)


def counting_net() -> SplitModel:
    return SplitModel([Counting(nn.Sequential(nn.Flatten(), nn.Linear(4, 3))), Counting(nn.Linear(3, 2))])


class TestView:
    image = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))

    def test_everything_is_computed_at_most_once(self) -> None:
        net = counting_net()
        view = View(net, 1, image=self.image)
        assert [stage.calls for stage in net.stages] == [0, 0]
        for _ in range(3):
            view.logits, view.hidden, view.logits  # noqa: B018
        assert [stage.calls for stage in net.stages] == [1, 1]

    def test_a_part_shares_what_is_known(self) -> None:
        net = counting_net()
        view = View(net, 1, image=self.image, ids=torch.arange(5), target=torch.eye(5, 2))
        whole = view.logits
        part = view[torch.tensor([3, 1])]
        assert torch.equal(part.logits, whole[[3, 1]])
        assert part.ids is not None
        assert part.ids.tolist() == [3, 1]
        assert part.target is not None
        assert torch.equal(part.target, torch.eye(5, 2)[[3, 1]])
        assert net.stages[0].calls == 1

    def test_a_part_takes_out_what_it_is_asked_for(self) -> None:
        """And of a part's part; with gradients, whoever asks first."""
        net = counting_net()
        view = View(net, 1, image=self.image.clone().requires_grad_())
        view.logits  # noqa: B018
        part = view[torch.tensor([4, 3, 1])]
        few = part[1:]
        assert (len(part), len(few)) == (3, 2)
        with torch.no_grad():
            logits = few.logits
        assert logits.requires_grad
        assert torch.equal(logits, view.logits[[3, 1]])
        assert [stage.calls for stage in net.stages] == [1, 1]

    @pytest.mark.parametrize("index", [torch.tensor([2, 0]), slice(1, None)])
    def test_a_part_of_a_part_is_not_copied_twice(self, index: torch.Tensor | slice) -> None:
        """The candidates' features are a round's largest tensor, and half of them are in each half of the pairs."""
        view = View(counting_net(), 1, image=self.image)
        view.logits  # noqa: B018
        part = view[torch.tensor([4, 3, 1])]
        assert torch.equal(part[index].logits, view.logits[[4, 3, 1]][index])
        assert part.device == view.device
        assert not part._known._own

    @pytest.mark.parametrize("same", [True, False])
    def test_pairs_are_found_where_they_lie(self, same: bool) -> None:
        """In the candidates' features, as long as nobody took them out of these."""
        net = counting_net()
        view = View(net, 1, image=self.image).computed(5)
        a, b = view[torch.tensor([4, 3, 1])][1:], view[torch.tensor([0, 2])]
        if not same:
            b.hidden  # noqa: B018
        h, pairs = pairs_within(a, b, net.cut(1))
        assert (h is view.hidden) == same
        assert torch.equal(h[pairs[:, 0]], view.hidden[[3, 1]])
        assert torch.equal(h[pairs[:, 1]], view.hidden[[0, 2]])

    def test_what_the_whole_learns_later_a_part_computes(self) -> None:
        net = counting_net()
        view = View(net, 1, image=self.image)
        part = view[torch.tensor([0, 2])]
        view.logits  # noqa: B018
        torch.testing.assert_close(part.logits, view.logits[[0, 2]])
        assert [stage.calls for stage in net.stages] == [2, 2]

    def test_batches_give_what_the_whole_gives(self) -> None:
        net = counting_net()
        view = View(net, 1, image=self.image).computed(2)
        assert net.stages[0].calls == 3
        torch.testing.assert_close(view.logits, net(self.image))
        torch.testing.assert_close(view.hidden, net.features(self.image, 1))

    def test_mixtures_have_two_leading_axes(self) -> None:
        net = counting_net()
        hidden = torch.randn(4, 6, 3)
        view = View(net, 1, hidden=hidden, leading=2)
        assert view.logits.shape == (4, 6, 2)
        torch.testing.assert_close(view.logits[2, 5], net.head(hidden[2, 5][None], 1)[0])
        with pytest.raises(ValueError, match="mixed at layer 1 have no image"):
            view.image  # noqa: B018

    def test_a_first_touch_without_gradients_keeps_them(self) -> None:
        net = counting_net()
        with frozen(net):
            tau = torch.ones(4, 6, 3, requires_grad=True)
            view = View(net, 1, hidden=tau * 2, leading=2)
            with torch.no_grad():
                view.logits  # noqa: B018
            view.logits.sum().backward()
        assert tau.grad is not None
        assert all(p.grad is None for p in net.parameters())

    def test_an_old_view_refuses_new_weights(self) -> None:
        net = counting_net()
        view = View(net, 1, image=self.image)
        net.version += 1
        with pytest.raises(RuntimeError, match="the network was trained after this view was made"):
            view.logits  # noqa: B018

    def test_image_or_hidden_not_both(self) -> None:
        for arguments in ({}, {"image": self.image, "hidden": self.image}):
            with pytest.raises(ValueError, match="exactly one of image, hidden and mix"):
                View(counting_net(), 0, **arguments)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_cut_composes_to_the_whole(name: str) -> None:
    channels, size = SIZES[name]
    net = models.MODELS[name](channels, size, 7).eval()
    image = torch.randn(2, channels, *size)
    with torch.no_grad():
        whole = net(image)
        for k in range(net.depth + 1):
            torch.testing.assert_close(net.head(net.features(image, k), k), whole)
    assert whole.shape == (2, 7)


def test_frozen_puts_everything_back() -> None:
    net = models.small(1, (20, 20), 3)
    net.stages[0].eval()
    net.stages[3].requires_grad_(False)
    modes = [m.training for m in net.modules()]
    needs = [p.requires_grad for p in net.parameters()]

    def fail_inside() -> None:
        with frozen(net):
            assert not any(m.training for m in net.modules())
            assert not any(p.requires_grad for p in net.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == needs


def test_sizes_of_the_networks_are_the_papers() -> None:
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert count(PairNet(64, (28, 28))) == 77_246
    assert count(PairNet(64, (32, 32))) == 98_366
    assert count(LocalisationNet(1, 28, 28)) == 5_520
    assert count(LocalisationNet(3, 32, 32)) == 8_544
    assert count(models.resnet18(3, (32, 32), 10)) == 11_173_962


def test_localisation_starts_at_the_identity_and_stays_bounded() -> None:
    stn = Stn((1, 20, 20)).trained
    image = torch.randn(4, 1, 20, 20)
    assert torch.equal(stn.theta(image), torch.eye(2, 3).expand(4, 2, 3))
    nn.init.normal_(stn.localisation.regression.weight, std=100)
    theta = stn.theta(image)
    assert (theta - torch.eye(2, 3)).abs().max() > 0.2
    corners = torch.tensor([[x, y, 1.0] for x in (-0.5, 0.5) for y in (-0.5, 0.5)])
    assert (theta @ corners.T).abs().max() <= 1
    with pytest.raises(ValueError, match="at least 18 x 18, got 10 x 20"):
        LocalisationNet(1, 10, 20)


@pytest.mark.parametrize("size", [(28, 28), (14, 14), (7, 7), (5, 9)])
def test_policy_network_takes_maps_of_any_size(size: tuple[int, int]) -> None:
    view = View(counting_net(), 1, hidden=1e4 * torch.randn(3, 4, *size))
    tau = Concentration(PairNet(4, size), 1.0)(view, view)
    assert tau.shape == (3,)
    assert ((tau > 0) & (tau <= 1)).all()


class TestPool:
    def test_ids_are_rows_for_ever(self, tiny: Dataset) -> None:
        pool = Pool(tiny, torch.device("cpu"))
        pool.add([5, 2], tiny.train_labels[[5, 2]])
        assert pool.unlabelled().tolist() == [i for i in range(90) if i not in (2, 5)]
        assert pool.targets(torch.tensor([2, 5])).argmax(1).tolist() == tiny.train_labels[[2, 5]].tolist()
        candidates = pool.candidates(30, torch.Generator().manual_seed(0))
        assert len(set(candidates.tolist())) == 30
        assert not {2, 5} & set(candidates.tolist())
        assert len(pool.candidates(1000, torch.Generator())) == 88

    def test_candidates_differ_by_what_was_bought(self, tiny: Dataset) -> None:
        """Methods of a seed look at the same images, but for what one of them has."""
        one, other = Pool(tiny, torch.device("cpu")), Pool(tiny, torch.device("cpu"))
        one.add([0, 1, 2, 40], tiny.train_labels[[0, 1, 2, 40]])
        other.add([50, 51], tiny.train_labels[[50, 51]])
        drawn = [pool.candidates(30, torch.Generator().manual_seed(1)).tolist() for pool in (one, other)]
        assert [len(set(ids)) for ids in drawn] == [30, 30]
        assert not {0, 1, 2, 40} & set(drawn[0])
        assert not {50, 51} & set(drawn[1])
        assert len(set(drawn[0]) & set(drawn[1])) >= 30 - 6
        whole = one.candidates(1000, torch.Generator().manual_seed(1))
        assert whole.sort().values.tolist() == one.unlabelled().tolist()

    def test_pixels_are_normalised(self, tiny: Dataset) -> None:
        pool = Pool(tiny, torch.device("cpu"))
        pixels = pool.pixels(torch.arange(90))
        assert pixels.mean().abs() < 1e-5
        assert abs(pixels.std(correction=0) - 1) < 1e-5
        assert pool.images.dtype == torch.uint8

    def test_errors(self, tiny: Dataset) -> None:
        pool = Pool(tiny, torch.device("cpu"))
        pool.add([1], [0])
        for ids, labels, message in [
            ([1], [0], "bought twice"),
            ([3, 3], [0, 0], "bought twice"),
            ([90], [0], r"ids must lie in 0\.\.89"),
            ([4], [0, 1], "1 ids but 2 labels"),
        ]:
            with pytest.raises(ValueError, match=message):
                pool.add(ids, labels)
        assert pool.labelled.tolist() == [1]


class TestKeys:
    def test_a_key_depends_on_seed_purpose_round_and_step(self) -> None:
        keys = {
            tuple(Keys(seed).key(purpose, round_, step).tolist())
            for seed, purpose, round_, step in itertools.product(
                (1, 2), ("pick", "layer", "score samples"), (0, 1, 11), (0, 1)
            )
        }
        assert len(keys) == 2 * 3 * 3 * 2
        assert torch.equal(Keys(3).key("pick", 4), Keys(3).key("pick", 4))

    def test_scope_leaves_no_trace(self) -> None:
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        with Keys(1).scope("training batches", 5):
            inside = torch.rand(3)
        assert torch.equal(torch.rand(3), expected)
        with Keys(1).scope("training batches", 5):
            assert torch.equal(torch.rand(3), inside)


def test_balanced_choice() -> None:
    labels = torch.arange(300) % 10
    chosen = balanced_choice(labels, 10, 23, torch.Generator().manual_seed(1))
    counts = labels[chosen].bincount(minlength=10)
    assert len(chosen.unique()) == 23
    assert counts.min() == 2
    assert counts.max() == 3
    assert not torch.equal(chosen, balanced_choice(labels, 10, 23, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("positions", [[3, 0, 3], []])
def test_a_part_of_a_view_holds_its_rows(memory_format, positions):
    maps, index = torch.arange(120.0).view(5, 2, 3, 4).to(memory_format=memory_format), torch.tensor(positions).long()
    whole = View(counting_net(), 1, hidden=maps)
    part = whole[index].hidden
    assert torch.equal(part, maps[index])
    assert not len(index) or part.is_contiguous(memory_format=memory_format)
