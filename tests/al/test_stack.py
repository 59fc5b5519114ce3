"""Replications trained at once learn what they learn alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lada_al import Bought, Config, Trained, acquire, models, run_experiment, stack
from lada_al.data import Dataset
from lada_al.events import Event
from lada_al.keys import Keys
from lada_al.models import SplitModel
from lada_al.pool import Pool
from lada_al.run import compare, journal, together
from lada_al.run.build import make_learner
from lada_al.run.folder import JOURNAL
from lada_al.timing import Clock, NoMeter
from test_cli import OPTIONS, process
from torch import nn

SEEDS = [3, 4, 5]


def without_batch_norm(channels: int, size: tuple[int, int], classes: int, dropout: float = 0.0) -> SplitModel:
    return SplitModel(
        [
            nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2)),
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2)),
            nn.Flatten(),
            models.Classifier(4 * (size[0] // 4) * (size[1] // 4), classes, dropout),
        ]
    )


@pytest.fixture(params=["small", "without BatchNorm"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "small":
        monkeypatch.setitem(models.MODELS, "small", without_batch_norm)
    return str(request.param)


def trained(config: Config, dataset: Dataset, *, at_once: bool) -> tuple[list[list[float]], list[dict[str, Any]]]:
    """Losses and weights of three learners after two rounds of training."""
    device = torch.device("cpu")
    learners = [make_learner(config, dataset, Keys(seed), device) for seed in SEEDS]
    pools = [Pool(dataset, device) for _ in SEEDS]
    losses = []
    for r in range(2):
        group = []
        for seed, learner, pool in zip(SEEDS, learners, pools, strict=True):
            ids = torch.arange(9 * r, 9 * r + 8) + 20 * (seed - SEEDS[0])
            bought = Bought(r, ids.tolist(), dataset.train_labels[ids].tolist(), k=layer(config))
            pool.add(bought.ids, bought.labels)
            group.append(stack.Replica(learner, pool, bought, Keys(seed)))
        if at_once:
            losses.append(stack.fit(group, NoMeter()))
        else:
            losses.append([one.learner.fit(one.pool, one.bought, one.keys, NoMeter()) for one in group])
    return losses, [learner.modules.state_dict() for learner in learners]


def layer(config: Config) -> int:
    augmentation = config.chosen.augmentation
    return int(augmentation is not None and augmentation.uses_hidden)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "entropy"},
        {"method": "lada-ent-mix"},
        {"method": "lada-ent-stn"},
        {"method": "ent+adamixup"},
        {"method": "ent+autoaugment"},
        {"method": "lada-ent-mix", "restart_weights": False, "keep_optimizer": True},
        {"method": "lada-ent-mix", "virtual_loss": "own step"},
        {"method": "lada-ent-stn", "virtual_loss": "own step", "stale_gradient": True},
        {"method": "bald"},
        {"method": "bgadl"},
        {"method": "bald+manifold-mixup"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_they_learn_what_they_learn_alone(
    changes: dict[str, Any], model: str, tiny: Dataset, tiny_config: Config
) -> None:
    """With the crops that are drawn between the steps. Adam makes much of a rounding where a gradient is near zero."""
    dataset = dataclasses.replace(tiny, random_crop=True)
    config = Config(**{**tiny_config.model_dump(), "epochs": 2, "lr": 1e-4, "batch": 5, **changes})
    losses, weights = trained(config, dataset, at_once=True)
    expected_losses, expected = trained(config, dataset, at_once=False)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected_losses), rtol=1e-4, atol=1e-5)
    for state, wanted in zip(weights, expected, strict=True):
        assert state.keys() == wanted.keys()
        for name, value in state.items():
            near = {"rtol": 1e-3, "atol": 1e-4 if model == "small" else 1e-5}
            torch.testing.assert_close(value, wanted[name], **near, msg=lambda text, name=name: f"{name}: {text}")


def test_weights_are_their_own_again(tiny: Dataset, tiny_config: Config) -> None:
    _, weights = trained(tiny_config, tiny, at_once=True)
    for state in weights:
        for value in state.values():
            assert value.untyped_storage().nbytes() == value.nbytes


def test_dropout_draws_for_each(tiny: Dataset, tiny_config: Config) -> None:
    """One network for three seeds, on the same labels in batches of all: only the masks can make them differ."""
    config = tiny_config.model_copy(update={"method": "bald", "batch": 8})
    group = []
    for seed in SEEDS:
        pool = Pool(tiny, torch.device("cpu"))
        bought = Bought(0, list(range(8)), tiny.train_labels[:8].tolist())
        pool.add(bought.ids, bought.labels)
        learner = make_learner(config, tiny, Keys(1), torch.device("cpu"))
        group.append(stack.Replica(learner, pool, bought, Keys(seed)))
    losses = stack.fit(group, NoMeter())
    assert max(losses) - min(losses) > 1e-3


def test_torchs_own_randomness_is_left_alone(tiny: Dataset, tiny_config: Config) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trained(tiny_config, dataclasses.replace(tiny, random_crop=True), at_once=True)
    assert torch.equal(torch.rand(3), expected)


def events_of(folder: Path) -> list[tuple[Any, ...]]:
    """What was bought, and to which accuracy it led."""
    events = journal.read(folder / JOURNAL)
    return [(e.round, tuple(e.ids)) if isinstance(e, Bought) else (e.round, e.accuracy) for e in events]


def configs(config: Config, method: str = "lada-ent-mix") -> list[Config]:
    return [Config(**{**config.model_dump(), "method": method, "seed": seed}) for seed in SEEDS]


class TestRuns:
    @pytest.mark.parametrize("method", ["lada-ent-mix", "bald"])
    def test_they_buy_what_they_buy_alone(
        self, method: str, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where one of them is a round ahead at first, so that its steps are others."""
        monkeypatch.setitem(models.MODELS, "small", without_batch_norm)
        jobs = [compare.Job(config, tmp_path / f"together-{config.seed}") for config in configs(tiny_config, method)]
        for event in run_experiment(jobs[1].config, jobs[1].folder):
            if isinstance(event, Trained) and event.round == 1:
                break
        compare._carry_out(jobs)
        for job in jobs:
            alone = tmp_path / f"alone-{job.config.seed}"
            list(run_experiment(job.config, alone))
            assert events_of(job.folder) == events_of(alone)
            assert job.is_finished

    def test_seconds_are_shared(self, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seconds: list[float] = []
        fit = stack.fit

        def timed(*arguments: Any) -> list[float]:
            clock = Clock(torch.device("cpu"))
            with clock("train"):
                losses = fit(*arguments)
            seconds.append(clock.seconds["train"])
            return losses

        monkeypatch.setattr(stack, "fit", timed)
        jobs = [compare.Job(config, tmp_path / f"{config.seed}") for config in configs(tiny_config)]
        compare._carry_out(jobs)
        events = [event for job in jobs for event in journal.read(job.folder / JOURNAL) if isinstance(event, Trained)]
        assert sum(event.seconds["train"] for event in events) == pytest.approx(sum(seconds), rel=0.2)

    @pytest.mark.parametrize("where", ["between", "in training"])
    def test_an_error_of_one_ends_all(
        self, where: str, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*arguments: Any) -> list[float]:
            raise RuntimeError("no training today")

        def events(config: Config) -> Iterator[Event]:
            for event in run_experiment(config, tmp_path / str(config.seed), fit=threads.fit):
                yield event
                if where == "between" and config.seed == SEEDS[1]:
                    raise RuntimeError("no more of this")

        if where == "in training":
            monkeypatch.setattr(stack, "fit", fails)
        threads = together.Together(len(SEEDS))
        with pytest.raises(RuntimeError, match="no training today" if where == "in training" else "no more of this"):
            threads.carry_out([events(config) for config in configs(tiny_config)])

    def test_the_command(self, tiny_folder: Path, tmp_path: Path) -> None:
        """Methods that cannot be stacked are run as always."""
        out = tmp_path / "compare"
        named = ["--data", tiny_folder, "--methods", "random,ll4al", "--seeds", "2", "--stack-seeds", "--out", out]
        done = process("compare", *named, *OPTIONS)
        assert done.returncode == 0, done.stderr
        assert "4 of 4 runs to do, the seeds of " in done.stdout
        assert done.stdout.count("finished: ") == 4
        assert (out / "report.html").exists()


@pytest.mark.parametrize("name", acquire.names())
def test_what_has_a_part_in_training_says_so(name: str, tiny: Dataset, tiny_config: Config) -> None:
    config = tiny_config.model_copy(update={"method": name})
    learner = make_learner(config, tiny, Keys(1), torch.device("cpu"))
    assert config.chosen.acquisition.in_training == (type(learner.f_acq).loss is not acquire.Acquisition.loss)


def test_groups(tiny_config: Config, tmp_path: Path) -> None:
    settings = {**tiny_config.model_dump(), "threads": 1}
    jobs = compare.make_jobs(["random", "ll4al", "pi+entropy"], [1, 2], settings, tmp_path, workers=1, resume=False)
    names = [[job.name for job in group] for group in compare.groups(jobs, stack_seeds=True)]
    assert sorted(names) == [
        ["ll4al, seed 1"],
        ["ll4al, seed 2"],
        ["pi+entropy, seed 1"],
        ["pi+entropy, seed 2"],
        ["random, seed 1", "random, seed 2"],
    ]
    assert all(len(group) == 1 for group in compare.groups(jobs, stack_seeds=False))
