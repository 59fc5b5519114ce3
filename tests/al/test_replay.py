"""Replayed steps: what is recorded and when, and that training by replays is training.

Without a GPU a stand-in for the CUDA graph takes its place: it keeps the step and runs it at each replay, on the memory
that was there when it was recorded, and writes the result into the same memory, as a graph does.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lada_al import Bought, Config, models, replay, stack
from lada_al.data import Dataset
from lada_al.keys import Keys
from lada_al.models import SplitModel
from lada_al.pool import Pool
from lada_al.replay import Recorder, ReplayWarning
from lada_al.run.build import make_learner
from lada_al.timing import NoMeter
from torch import Tensor, nn

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def gradients_under_way() -> list[Tensor]:
    """Tensors that know how they were made; `isinstance` would touch what torch has deprecated."""
    return [value for value in gc.get_objects() if issubclass(type(value), Tensor) and value.grad_fn is not None]


class Stub:
    """Records as `replay.record` does, on the CPU; counts recordings and replays."""

    def __init__(self) -> None:
        self.recordings = self.replays = 0
        self.under_way: list[Tensor] = []

    def record(self, step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
        self.recordings += 1
        self.under_way = gradients_under_way()
        results: list[Tensor] = []

        def run() -> Tensor:
            self.replays += 1
            result = step()
            if not results:
                results.append(torch.empty_like(result))
            return results[0].copy_(result)

        return run


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(replay, "record", stub.record)
    monkeypatch.setattr(replay, "can_record", lambda device: True)
    return stub


class TestReplayed:
    def test_the_fourth_of_a_shape_is_recorded(self, stub: Stub) -> None:
        replayed = Recorder(CUDA).replayed(lambda x: 2 * x)
        for count in range(1, 7):
            assert torch.equal(replayed(torch.full((3,), float(count))), torch.full((3,), 2.0 * count))
            assert stub.recordings == (count > replay.WARM)
            assert stub.replays == max(0, count - replay.WARM)

    def test_each_shape_for_itself(self, stub: Stub) -> None:
        replayed = Recorder(CUDA).replayed(lambda x: x + 1)
        for _ in range(replay.WARM + 2):
            for rows in (10, 7):
                x = torch.rand(rows, 2)
                assert torch.equal(replayed(x), x + 1)
        assert (stub.recordings, stub.replays) == (2, 4)

    def test_results_are_kept(self, stub: Stub) -> None:
        """A replay writes where the one before wrote."""
        replayed = Recorder(CUDA).replayed(lambda x: 2 * x)
        results = [replayed(torch.tensor([float(i)])) for i in range(8)]
        assert torch.cat(results).tolist() == [2.0 * i for i in range(8)]

    def test_the_order_of_memory_is_kept(self, stub: Stub) -> None:
        seen = []
        replayed = Recorder(CUDA).replayed(lambda x: seen.append(x.stride()) or x.sum())
        image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
        for _ in range(replay.WARM + 1):
            replayed(image)
        assert set(seen) == {image.stride()}

    def test_what_cannot_be_recorded_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def record(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(replay, "record", record)
        recorder = Recorder(CUDA)
        doubled, grown = recorder.replayed(lambda x: 2 * x), recorder.replayed(lambda x: x + 1)
        for _ in range(replay.WARM):
            doubled(torch.ones(1))
            grown(torch.ones(1))
        with pytest.warns(ReplayWarning, match="without CUDA graphs: operation not permitted"):
            assert doubled(torch.ones(1)) == 2
        with warnings.catch_warnings(action="error"):  # nothing more is tried
            assert doubled(torch.ones(1)) == doubled(torch.ones(1)) == grown(torch.ones(1)) == 2
            assert recorder.replayed(lambda x: 3 * x)(torch.ones(1)) == 3

    def test_the_cpu_records_nothing(self) -> None:
        step = lambda x: 2 * x  # noqa: E731
        assert Recorder(CPU).replayed(step) is step

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_a_step_that_waits_leaves_the_stream_as_it_was(self) -> None:
        replayed = Recorder(CUDA).replayed(lambda x: x * x.sum().item())
        stream, two = torch.cuda.current_stream(), torch.full((1,), 2.0, device="cuda")
        with pytest.warns(ReplayWarning):
            results = [float(replayed(two)) for _ in range(replay.WARM + 2)]
        assert results == [4.0] * len(results)
        assert torch.cuda.current_stream() == stream

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
    def test_on_a_device_that_is_not_the_current_one(self) -> None:
        device = torch.device("cuda:1")
        replayed = Recorder(device).replayed(lambda x: 2 * x)
        with warnings.catch_warnings(action="error"):
            results = [float(replayed(torch.full((1,), float(i), device=device))) for i in range(8)]
        assert results == [2.0 * i for i in range(8)]


METHODS = [
    {"method": "entropy"},
    {"method": "lada-ent-mix"},
    {"method": "lada-ent-mix", "virtual_loss": "own step"},
    {"method": "lada-ent-stn", "restart_weights": False, "keep_optimizer": True},
    {"method": "ent+adamixup"},
    {"method": "ent+autoaugment"},
]


def config_of(base: Config, changes: dict[str, Any]) -> Config:
    return Config(**{**base.model_dump(), "epochs": 6, "batch": 5, **changes})


def bought_by(pool: Pool, dataset: Dataset, config: Config, r: int) -> Bought:
    """Eight labels more, so that batches of 5 leave one of 3 or of 1."""
    ids = torch.arange(9 * r, 9 * r + 8)
    augmentation = config.chosen.augmentation
    k = int(augmentation is not None and augmentation.uses_hidden)
    bought = Bought(r, ids.tolist(), dataset.train_labels[ids].tolist(), k=k)
    pool.add(bought.ids, bought.labels)
    return bought


def shapes_of(config: Config) -> int:
    """Two shapes of labelled batches in each of two rounds; and in the second the one that virtual instances join,
    where these are made by kernels alone."""
    joint = config.virtual_loss == "summed" and config.method in ("lada-ent-mix", "lada-ent-stn", "ent+adamixup")
    return 4 + joint


def trained(config: Config, dataset: Dataset, device: torch.device) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights after two rounds of training."""
    learner, pool, losses = make_learner(config, dataset, Keys(1), device), Pool(dataset, device), []
    for r in range(2):
        losses.append(learner.fit(pool, bought_by(pool, dataset, config, r), Keys(1), NoMeter()))
    return losses, learner.modules.state_dict()


@pytest.mark.parametrize("changes", METHODS, ids=lambda changes: " ".join(map(str, changes.values())))
class TestTraining:
    def test_is_the_same(
        self, changes: dict[str, Any], tiny: Dataset, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = config_of(tiny_config, changes)
        expected_losses, expected = trained(config, tiny, CPU)
        stub = Stub()
        monkeypatch.setattr(replay, "record", stub.record)
        monkeypatch.setattr(replay, "can_record", lambda device: True)
        losses, weights = trained(config, tiny, CPU)
        assert stub.recordings == shapes_of(config)
        assert losses == expected_losses
        for name, value in weights.items():
            assert torch.equal(value, expected[name]), name

    def test_no_gradient_is_under_way(
        self, changes: dict[str, Any], stub: Stub, tiny: Dataset, tiny_config: Config
    ) -> None:
        """What an earlier step recorded for its gradient would bring that step's stream into the graph."""
        gc.collect()
        elsewhere = {id(value) for value in gradients_under_way()}
        trained(config_of(tiny_config, changes), tiny, CPU)
        assert [value.shape for value in stub.under_way if id(value) not in elsewhere] == []

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu(
        self, changes: dict[str, Any], tiny: Dataset, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = config_of(tiny_config, {**changes, "lr": 1e-4})
        recordings = []
        record = replay.record
        monkeypatch.setattr(replay, "record", lambda *what: recordings.append(what) or record(*what))
        losses, weights = trained(config, tiny, torch.device("cuda"))
        assert len(recordings) == shapes_of(config)
        expected_losses, expected = trained(config.model_copy(update={"plain": True}), tiny, torch.device("cuda"))
        assert losses == pytest.approx(expected_losses, rel=1e-3)
        for name, value in weights.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-3)


def test_seeds_at_once(stub: Stub, tiny: Dataset, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tiny_config, {"method": "lada-ent-mix"})

    def trained_at_once() -> tuple[list[float], list[dict[str, Tensor]]]:
        replicas = []
        for seed in (3, 4):
            pool = Pool(tiny, CPU)
            bought = bought_by(pool, tiny, config, 1)
            replicas.append(stack.Replica(make_learner(config, tiny, Keys(seed), CPU), pool, bought, Keys(seed)))
        return stack.fit(replicas, NoMeter()), [replica.learner.modules.state_dict() for replica in replicas]

    losses, weights = trained_at_once()
    assert stub.recordings == 2  # in each epoch the batch of 5 comes with the virtual one, that of 3 alone
    monkeypatch.setattr(replay, "can_record", lambda device: False)
    expected_losses, expected = trained_at_once()
    assert stub.recordings == 2
    assert losses == expected_losses
    for mine, wanted in zip(weights, expected, strict=True):
        for name, value in mine.items():
            assert torch.equal(value, wanted[name]), name


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "ll4al"},
        {"method": "pi+entropy"},
        {"plain": True},
        {"virtual_loss": "own step", "stale_gradient": True},
    ],
    ids=" ".join,
)
def test_steps_that_differ_are_not_recorded(
    changes: dict[str, Any], stub: Stub, tiny: Dataset, tiny_config: Config
) -> None:
    trained(config_of(tiny_config, changes), tiny, CPU)
    assert stub.recordings == 0


def test_ops_that_look_at_values_are_not_recorded(
    stub: Stub, tiny: Dataset, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LADA_EXT_CHECK", "1")
    trained(config_of(tiny_config, {"method": "lada-ent-mix"}), tiny, CPU)
    assert stub.recordings == 4  # without that of the step that virtual instances join


def test_a_network_has_to_promise(stub: Stub, tiny: Dataset, tiny_config: Config) -> None:
    net = SplitModel([nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten()), models.Classifier(648, 3, 0.0)])
    config = config_of(tiny_config, {"method": "entropy"})
    learner, pool = make_learner(config, tiny, Keys(1), CPU, net), Pool(tiny, CPU)
    learner.fit(pool, bought_by(pool, tiny, config, 0), Keys(1), NoMeter())
    assert stub.recordings == 0


def test_the_optimiser_follows_the_device(tiny: Dataset, tiny_config: Config) -> None:
    """A checkpoint of a GPU, where steps are recorded, goes on where they cannot be."""
    learner = make_learner(tiny_config, tiny, Keys(1), CPU)
    state = learner.state_dict()
    state["optimizer"]["param_groups"][0]["capturable"] = True
    learner.load_state_dict(state)
    assert not learner.optimizer.param_groups[0]["capturable"]
    pool = Pool(tiny, CPU)
    learner.fit(pool, bought_by(pool, tiny, tiny_config, 0), Keys(1), NoMeter())
