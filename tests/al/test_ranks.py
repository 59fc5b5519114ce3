"""Two processes of torchrun train as one does: the same purchases, the same weights up to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import together
import torch
from labelling import lada
from lada_al import Config, ranks, run_experiment
from lada_al.errors import UsageError
from lada_al.ranks import Ranks
from lada_al.run import experiment


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def alone(folder: Path, data: Path, **changes: Any) -> list[dict[str, Any]]:
    for _ in run_experiment(Config(**{**together.SETTINGS, "data": str(data), **changes}), folder):
        pass
    return journal(folder)


def assert_same_run(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    assert [event["event"] for event in two] == ["bought", "trained"] * 3
    for event, other in zip(one, two, strict=True):
        for name in ("ids", "labels", "k", "labelled"):
            assert other.get(name) == event.get(name)
        for name in ("accuracy", "loss", "scores", "entropy"):
            if event.get(name) is not None:
                assert other[name] == pytest.approx(event[name], rel=2e-3, abs=1e-4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """What two processes wrote; and what they said, in the files `output` and `errors`."""
    folder = tmp_path_factory.mktemp("together")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*start, together.__file__, str(folder), str(tiny_folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=False)
    assert (folder / "killed").exists(), done.stderr
    assert done.returncode != 0
    (folder / "output").write_text(done.stdout)
    (folder / "errors").write_text(done.stderr)
    return folder


@pytest.mark.parametrize("name", together.METHODS)
def test_two_processes_buy_what_one_buys(name: str, made: Path, tiny_folder: Path, tmp_path: Path) -> None:
    assert_same_run(alone(tmp_path, tiny_folder, method=name, **together.METHODS[name]), journal(made / name))


def test_resumed_by_two_processes(made: Path, tiny_folder: Path, tmp_path: Path) -> None:
    assert_same_run(alone(tmp_path, tiny_folder), journal(made / "resumed"))


def test_the_first_alone_speaks_and_writes(made: Path) -> None:
    output = (made / "output").read_text()
    assert [output.count(f"round   {round}:") for round in range(3)] == [3, 2, 1]
    assert output.count("report:") == 2
    in_folder = {"about.json", "acquired", "checkpoint.pt", "config.json", "latent.npz", "report.html", "rounds.jsonl"}
    assert {path.name for path in (made / "resumed").iterdir()} >= in_folder
    assert not list(made.rglob("*.tmp"))


def test_weights_and_gradients_without_batch_norm_are_those_of_one_process(made: Path, tiny_folder: Path) -> None:
    expected = together.trained_without_batch_norm(str(tiny_folder))
    first, second = (torch.load(made / f"weights-{rank}.pt") for rank in range(2))
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize("parts", [[5, 2], [0, 3]])
def test_batch_norm_over_uneven_parts_is_that_of_the_whole_batch(made: Path, parts: list[int]) -> None:
    expected = together.normalised([sum(parts)])
    ranks = [torch.load(made / f"normalised-{parts[0]}-{rank}.pt") for rank in range(2)]
    for each in range(2):  # outputs and gradients of the images, part by part
        torch.testing.assert_close(torch.cat([rank[each] for rank in ranks]), expected[each], rtol=1e-10, atol=1e-10)
    for each in range(2, len(expected)):
        for rank in ranks:
            torch.testing.assert_close(rank[each], expected[each], rtol=1e-10, atol=1e-10)


def test_a_process_that_dies_ends_all_and_the_run_goes_on(made: Path, tiny_folder: Path, tmp_path: Path) -> None:
    assert "SIGKILL" in (made / "errors").read_text()
    killed = journal(made / "killed")
    assert [event["event"] for event in killed] == ["bought", "trained", "bought"]
    config = Config(**{**together.SETTINGS, "data": str(tiny_folder)})
    for _ in run_experiment(config, made / "killed", resume=True):
        pass
    assert_same_run(alone(tmp_path, tiny_folder), journal(made / "killed"))


def test_parts_make_up_the_batch() -> None:
    for count in (1, 2, 3):
        for items in (1, 2, 7, 10):
            parts = [list(range(items))[Ranks(rank, count).part(items)] for rank in range(count)]
            assert [i for part in parts for i in part] == list(range(items))
    values = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = sum(our.mean(values[our.part(7)], 7) for our in (Ranks(rank, 3) for rank in range(3)))
    torch.testing.assert_close(total, values.mean())
    assert Ranks(0, 2).mean(values[:0], 1) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 3}, "^batch must be at least the number of processes, 4, got 3$"),
        ({"policy_batch": 2}, "^policy_batch must be .* 4, got 2$"),
        ({"query": 6}, "^query in pairs must be .* 4, got 3$"),
        ({"query": 8, "rounds": 2, "schedule": [8, 2]}, "^query in pairs must be .* 4, got 1$"),
        ({"method": "pi+entropy", "pi_batch": 1}, "^pi_batch must be .* 4, got 1$"),
        ({"method": "bald"}, "^method bald draws .* trains in one process, got 4$"),
        ({"method": "ent+bgadl"}, "^method ent.bgadl draws .* trains in one process"),
        ({"method": "ent+adamixup", "adamixup_mean_label": True}, "^adamixup_mean_label draws or averages"),
        ({"preset": "official"}, "^stale_gradient, of preset official, is for one process, got 4$"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ranks, "_ours", Ranks(0, 4))
    with pytest.raises(UsageError, match=message):
        experiment.check(Config(**{"query": 8, "device": "cpu", **settings}), tmp_path / "out", resume=False)


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 2), ("cuda:1", 4)])
def test_a_gpu_for_each_process(device: str, gpus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ranks, "_ours", Ranks(0, 4))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(experiment, "find_device", torch.device)
    with pytest.raises(UsageError, match=f"a GPU of its own: .* the {gpus} GPUs .* got device {device}, 4 processes"):
        experiment.check(Config(device=device), tmp_path / "out", resume=False)


def test_a_comparison_is_not_for_torchrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = lada("compare", "--methods", "random", "--out", tmp_path / "out")
    assert code == 2
    assert "lada compare starts processes of its own; torchrun is for lada run and lada score" in err


def test_batch_normalisation_alone_is_torchs() -> None:
    net = torch.nn.BatchNorm2d(3)
    assert ranks.synchronise(net) is net
    assert type(net) is torch.nn.BatchNorm2d
