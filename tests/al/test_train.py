"""Training: Eq. 14 on a toy, the official code's switches, crops and flips, accuracy."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from lada_al import Bought, Config, augment, models, train
from lada_al.data import Dataset, Task
from lada_al.keys import Keys
from lada_al.pool import Pool
from lada_al.timing import NoMeter
from lada_al.virtual import Origins, virtual_of
from torch import nn
from torch.nn import functional as F  # noqa: N812

TASK = Task("fashion", (1, 20, 20), 3, [0.3], [0.3])
IDS = [0, 1, 2, 3, 4, 5, 6, 7]


def learner_of(config: Config, f_aug: str | None) -> train.Learner:
    with Keys(5).scope("network weights", 0):
        net = models.small(1, (20, 20), 3)
        acquisition = config.chosen.acquisition.make(config, TASK, net)
        augmentation = augment.load(f_aug).make(config, TASK, net) if f_aug else None
    return train.Learner(net, acquisition, augmentation, config)


def pool_of(tiny: Dataset) -> Pool:
    pool = Pool(tiny, torch.device("cpu"))
    pool.add(IDS, tiny.train_labels[IDS])
    return pool


def bought_of(tiny: Dataset, **fields: Any) -> Bought:
    return Bought(**{"round": 1, "ids": [4, 5, 6, 7], "labels": tiny.train_labels[[4, 5, 6, 7]].tolist(), **fields})


@pytest.mark.parametrize("f_aug", augment.names())
def test_eq_14(f_aug: str, tiny: Dataset, tiny_config: Config) -> None:
    """One step on the whole labelled set descends the sum of both mean cross entropies, and of what the augmentation adds.
    Labelled and virtual instances are one batch to the network.

    A step of gradient descent: Adam's first one has the same length for a gradient of rounding errors.
    """
    config = tiny_config.model_copy(
        update={"epochs": 1, "batch": 100, "restart_weights": False, "keep_optimizer": True}
    )
    learner, pool = learner_of(config, f_aug), pool_of(tiny)
    learner.optimizer = torch.optim.SGD(learner.modules.parameters(), lr=1e-2)
    bought = bought_of(tiny, k=int(augment.load(f_aug).uses_hidden), tau=[0.5, 2.0] if f_aug == "mix" else None)

    expected = learner_of(config, f_aug)
    images, labels = pool.pixels(torch.tensor(IDS)), tiny.train_labels[IDS]
    key = Keys(1).key("virtual samples", 1, 0)
    with Keys(1).scope("training batches", 1):
        expected.f_aug.adapt(expected.net, pool, 0, 1)
    net, k, origins = expected.net, bought.k, Origins.of(pool, bought)
    labelled, hidden = net.features(torch.cat([images, origins.image]), k).split(len(IDS))
    real = origins.view(net)
    real.remember(k, hidden)
    virtual = virtual_of(real, expected.f_aug, origins, key)
    mixed = virtual.hidden.flatten(0, virtual.leading - 1)
    seen = net.run(torch.cat([labelled, mixed]), net.cut(k), net.cut(net.depth - 1))
    virtual.remember(net.depth - 1, seen[len(IDS) :].unflatten(0, virtual.hidden.shape[: virtual.leading]))
    real_logits, logits = net.head(seen, net.depth - 1).tensor_split([len(IDS)])
    real_loss = F.cross_entropy(real_logits, labels)
    extra = expected.f_aug.loss(virtual)
    target = virtual.target.flatten(0, -2)
    (real_loss - (target * logits.log_softmax(1)).sum(1).mean() + (0 if extra is None else extra)).backward()
    torch.optim.SGD(expected.modules.parameters(), lr=1e-2).step()

    loss = learner.fit(pool, bought, Keys(1), NoMeter())
    assert loss == pytest.approx(real_loss.item(), rel=1e-5)
    for got, want in zip(learner.modules.parameters(), expected.modules.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=5e-5)


def test_the_initial_round_has_no_virtual_instances(tiny: Dataset, tiny_config: Config) -> None:
    with_aug, without = learner_of(tiny_config, "mix"), learner_of(tiny_config, None)
    for learner in (with_aug, without):
        learner.fit(pool_of(tiny), bought_of(tiny, round=0), Keys(1), NoMeter())
    for a, b in zip(with_aug.net.parameters(), without.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_localisation_network_is_trained_along(tiny: Dataset, tiny_config: Config) -> None:
    learner = learner_of(tiny_config, "stn")
    before = copy.deepcopy(learner.f_aug.trained.state_dict())
    learner.fit(pool_of(tiny), bought_of(tiny), Keys(1), NoMeter())
    after = learner.f_aug.trained.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)


def weights_after_two_fits(tiny: Dataset, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    learner, pool = learner_of(config, "mix"), pool_of(tiny)
    weights = []
    for _ in range(2):
        learner.fit(pool, bought_of(tiny, k=1), Keys(1), NoMeter())
        weights.append(torch.cat([p.detach().flatten() for p in learner.net.parameters()]))
    return weights[0], weights[1]


def test_restarted_weights_forget(tiny: Dataset, tiny_config: Config) -> None:
    first, second = weights_after_two_fits(tiny, tiny_config)
    assert torch.equal(first, second)
    first, second = weights_after_two_fits(tiny, tiny_config.model_copy(update={"restart_weights": False}))
    assert not torch.equal(first, second)


def test_what_restarts_with_the_weights(tiny: Dataset, tiny_config: Config) -> None:
    """Adam's state, and networks that read the classifier's features; not one that reads images."""
    for f_aug, restarts in (("adamixup", True), ("stn", False)):
        learner = learner_of(tiny_config.model_copy(update={"keep_optimizer": True}), f_aug)
        before = {name: value.clone() for name, value in learner.f_aug.trained.state_dict().items()}
        k = int(learner.f_aug.uses_hidden)
        for _ in range(2):
            learner.fit(pool_of(tiny), bought_of(tiny, k=k), Keys(1), NoMeter())
        assert any(not torch.equal(value, before[name]) for name, value in learner.f_aug.trained.state_dict().items())
        learner.begin()
        assert not learner.optimizer.state
        after = learner.f_aug.trained.state_dict()
        assert all(torch.equal(value, before[name]) for name, value in after.items()) == restarts


@pytest.mark.parametrize(
    "changes",
    [{"virtual_loss": "own step"}, {"virtual_loss": "own step", "stale_gradient": True}, {"keep_optimizer": True}],
    ids=["own step", "stale gradient", "kept optimizer"],
)
def test_switches_of_the_official_code_change_the_result(
    changes: dict[str, Any], tiny: Dataset, tiny_config: Config
) -> None:
    base = tiny_config.model_copy(update={"restart_weights": False})
    changed = base.model_copy(update=changes)
    reference_changes = {key: value for key, value in changes.items() if key != "stale_gradient"}
    reference = base.model_copy(update=reference_changes) if "stale_gradient" in changes else base
    assert not torch.equal(weights_after_two_fits(tiny, changed)[1], weights_after_two_fits(tiny, reference)[1])


@pytest.mark.parametrize("batch", [1, 3, 7, 8])
def test_no_batch_is_one_instance_unless_all_are(batch: int, tiny: Dataset, tiny_config: Config) -> None:
    learner = learner_of(tiny_config.model_copy(update={"batch": batch}), None)
    batches = learner.batches(pool_of(tiny), bought_of(tiny, round=0), 0)
    assert sorted(torch.cat(batches).tolist()) == IDS
    assert [len(ids) for ids in batches] == {1: [1] * 8, 3: [3, 3, 2], 7: [8], 8: [8]}[batch]


@pytest.mark.parametrize("f_aug", ["mix", "stn"])
def test_a_single_virtual_instance_can_be_normalised(f_aug: str, tiny: Dataset, tiny_config: Config) -> None:
    """Also behind global pooling, where an instance alone has no deviation."""
    pooled = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten())
    net = models.SplitModel([nn.Conv2d(1, 4, 3), pooled, models.Classifier(4, 3, 0.0)])
    config = tiny_config
    augmentation = augment.load(f_aug).make(config.model_copy(update={"layers": (1,)}), TASK, net)
    learner = train.Learner(net, config.chosen.acquisition.make(config, TASK, net), augmentation, config)
    learner.modules.train()
    ids = [4, 5][: learner.f_aug.arity]
    bought = Bought(1, ids, tiny.train_labels[ids].tolist(), k=int(f_aug == "mix"))
    origins = Origins.of(pool_of(tiny), bought)
    learner.virtual_loss(origins, Keys(1).key("virtual samples", 1, 0)).backward()
    assert all(module.training for module in learner.net.modules())


def test_fit_raises_the_version(tiny: Dataset, tiny_config: Config) -> None:
    learner = learner_of(tiny_config, None)
    learner.fit(pool_of(tiny), bought_of(tiny), Keys(1), NoMeter())
    assert learner.net.version == 1


def test_crops_are_those_of_key_and_id(tiny: Dataset) -> None:
    """Every look at an image is a window of it in a black border of 4 pixels, perhaps mirrored, or all of it."""
    pool, ids = Pool(dataclasses.replace(tiny, random_crop=True), torch.device("cpu")), torch.tensor([5])
    padded = F.pad(tiny.train_images[ids], [4] * 4)
    windows = [padded[..., t : t + 20, l : l + 20] for t in range(9) for l in range(9)]  # noqa: E741
    allowed = [pool.normalised(look) for window in windows for look in (window, window.flip(-1))]
    looks = [pool.training_pixels(ids, Keys(1).key("training crops", 1, epoch)) for epoch in range(60)]
    seen = {next(i for i, look in enumerate(allowed) if torch.equal(look, found)) for found in looks}
    assert len(seen) > 30
    whole = Pool(tiny, torch.device("cpu"))
    assert torch.equal(whole.training_pixels(ids, Keys(1).key("training crops", 1)), whole.pixels(ids))


@pytest.mark.parametrize("together", [1, 1600, 1 << 22])
def test_batches_made_together_are_those_made_alone(
    together: int, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lada_al.pool.TOGETHER", together)
    pool, key = Pool(dataclasses.replace(tiny, random_crop=True), torch.device("cpu")), Keys(1).key("training crops", 1)
    pool.add(IDS, tiny.train_labels[IDS])
    batches = list(torch.tensor(IDS)[torch.randperm(8)].split(3))
    made = list(pool.training_batches(batches, key))
    assert len(made) == 3
    for ids, (images, targets) in zip(batches, made, strict=True):
        assert torch.equal(images, pool.training_pixels(ids, key))
        assert torch.equal(targets, pool.targets(ids))
    assert list(pool.training_batches([], key)) == []


def test_accuracy(tiny: Dataset) -> None:
    net = models.SplitModel([torch.nn.Identity()])
    logits = torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    assert train.accuracy(net, logits, torch.tensor([0, 1, 2, 1]), batch=3) == 0.75
    assert net.training
