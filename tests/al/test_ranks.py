"""Training by two processes: what one process would buy, and nothing written twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from labelling import lada
from lada_al import Config, ranks
from lada_al.errors import UsageError
from lada_al.ranks import Ranks
from lada_al.run import experiment

SETTINGS = ["--query", 4, "--initial", 6, "--set", "epochs=3", "--set", "candidates=24", "--set", "policy_epochs=2"]


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("method", "steps"), [("lada-ent-mix", [(1, []), (2, ["--resume"])]), ("lada-ent-stn", [(2, [])])]
)
def test_two_processes_buy_what_one_does_and_go_on(
    method: str, steps: list[tuple[int, list[str]]], tiny_folder: Path, tmp_path: Path
) -> None:
    base = ["run", "--method", method, "--dataset", "fashion", "--data", tiny_folder, "--device", "cpu", *SETTINGS]
    assert lada(*base, "--rounds", 2, "--out", tmp_path / "one")[0] == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "lada_al"]
    for rounds, resume in steps:
        command = [sys.executable, *launcher, *base, "--rounds", rounds, "--out", tmp_path / "two", *resume]
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("report: ") == 1
    one, two = events(tmp_path / "one"), events(tmp_path / "two")
    assert [event.get("ids") for event in one] == [event.get("ids") for event in two]
    for a, b in zip(one, two, strict=True):
        assert a.get("accuracy") == b.get("accuracy")
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), rel=1e-3)


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
        ({"method": "ll4al"}, "ll4al trains in one process"),
        ({"method": "lada-ent-adamixup"}, "lada-ent-adamixup trains in one process"),
        ({"method": "lada-ent-mix", "preset": "official"}, "preset official trains in one process"),
        ({"method": "lada-ent-mix", "query": 2}, "batches of 1 cannot be shared by 2 processes"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(experiment, "ours", lambda: Ranks(0, 2))
    with pytest.raises(UsageError, match=message):
        experiment.check(Config(**settings), tmp_path / "out", resume=False)


def test_a_comparison_is_not_for_torchrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = lada("compare", "--methods", "random", "--out", tmp_path / "out")
    assert code == 2
    assert "lada compare starts processes of its own; torchrun is for lada run and lada score" in err


def test_batch_normalisation_alone_is_torchs() -> None:
    """One process: the module is torch's own. Its formula for several: as torch's, in forward and backward."""
    net = torch.nn.BatchNorm2d(3)
    assert ranks.synchronise(net) is net
    assert type(net) is torch.nn.BatchNorm2d


def test_batch_normalisation_of_all_is_that_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "differentiable_all_reduce", lambda value: value)
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected, got = (torch.nn.BatchNorm2d(3, dtype=torch.float64) for _ in range(2))
    got.__class__ = ranks.BatchNormOfAll
    torch.testing.assert_close(got(x), expected(x))
    torch.testing.assert_close(got.state_dict(), expected.state_dict())
    gradients = [torch.autograd.grad(module(x).pow(3).sum(), x)[0] for module in (got, expected)]
    torch.testing.assert_close(*gradients)
