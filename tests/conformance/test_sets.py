"""Coreset and BADGE choose sets: the first is brute force, the second follows its law of squared distances."""

from __future__ import annotations

import pytest
import torch
from lada_al import View
from lada_al.data import Dataset
from lada_al.keys import Keys
from lada_al.models import frozen
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from toys import acquisition, config, occasion, pool_of, small_net, trained, view_of

import lada_ext


def test_coreset_is_farthest_first_by_brute_force(data: Dataset) -> None:
    learner, pool = trained("coreset", data, torch.arange(12))
    net, candidates = learner.net, torch.arange(20, 70)
    view = view_of(net, pool, candidates)
    with frozen(net):
        picked = learner.f_acq.pick(view, 10, occasion(net, pool, learner.config))

    features = view_of(net, pool, torch.arange(len(pool))).penultimate.double()
    covered, expected = list(range(12)), []
    for _ in range(10):
        distance = torch.cdist(features[candidates], features[covered]).min(1).values
        expected.append(int(distance.argmax()))
        covered.append(int(candidates[expected[-1]]))
    assert picked.tolist() == expected


def test_coreset_starts_from_everything_labelled(data: Dataset) -> None:
    """A candidate that equals a labelled instance is worth nothing."""
    copies = data.train_images.clone()
    copies[20:40] = copies[:1]
    twin = type(data)(**{**data.__dict__, "train_images": copies})
    net = small_net(data).eval()
    pool = pool_of(twin, torch.arange(12))
    picked = acquisition("coreset", config("coreset"), data, net).pick(
        view_of(net, pool, torch.arange(20, 70)), 15, occasion(net, pool, config("coreset"))
    )
    assert picked.min() >= 20


def gradient_embeddings(view: View) -> Tensor:
    """d CE(logits, argmax) / d W of the last layer, one instance at a time by autograd: (M, C D)."""
    last = view.net.stages[-1]
    rows = []
    for h in view.penultimate:
        logits = last(h.detach())
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits[None], logits.argmax()[None]), last.weight)
        rows.append(gradient.flatten())
    return torch.stack(rows).double()


def test_badge_embeddings_are_the_last_layers_gradients(data: Dataset) -> None:
    learner, pool = trained("badge", data, torch.arange(12), epochs=2)
    view = view_of(learner.net, pool, torch.arange(20, 40))
    p = view.logits.softmax(1)
    factored = (p - F.one_hot(p.argmax(1), 3))[:, :, None] * view.penultimate[:, None, :]
    torch.testing.assert_close(factored.flatten(1).double(), gradient_embeddings(view), rtol=1e-4, atol=1e-6)


def test_badge_follows_the_law_of_squared_distances(data: Dataset) -> None:
    """The first pick is the longest; the second has probability D^2 / sum D^2, by a chi-squared test over keys."""
    learner, pool = trained("badge", data, torch.arange(12), epochs=2)
    view = view_of(learner.net, pool, torch.arange(20, 28))
    g = gradient_embeddings(view)
    longest = int(g.norm(dim=1).argmax())
    law = (g - g[longest]).square().sum(1)
    law = law / law.sum()
    draws, counts = 3000, torch.zeros(8)
    for seed in range(draws):
        first, second = lada_ext.badge_select(view.penultimate, view.logits, 2, lada_ext.make_key(seed)).tolist()
        assert first == longest
        counts[second] += 1
    others = law > 0
    statistic = ((counts - draws * law).square() / (draws * law))[others].sum()
    assert counts[longest] == 0
    assert statistic < 24.3  # the 0.999 quantile for 7 degrees of freedom

    now = occasion(learner.net, pool, learner.config)
    picked = learner.f_acq.pick(view, 4, now)
    key = Keys(1).key("pick", 1)
    assert picked.tolist() == lada_ext.badge_select(view.penultimate, view.logits, 4, key).tolist()
    assert len(set(picked.tolist())) == 4


@pytest.mark.parametrize("name", ["badge", "coreset"])
def test_small_pools(name: str, data: Dataset) -> None:
    """All that is left can be bought."""
    net = small_net(data).eval()
    pool = pool_of(data, torch.arange(12))
    view = view_of(net, pool, torch.arange(20, 25))
    picked = acquisition(name, config(name), data, net).pick(view, 5, occasion(net, pool, config(name)))
    assert sorted(picked.tolist()) == [0, 1, 2, 3, 4]
