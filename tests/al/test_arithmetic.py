"""What a configuration sets for the whole process holds while it is at work, and is put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelling import begin, truth, write_pool
from lada_al import ActiveLearner, Config, run_experiment
from lada_al.label.rank import Ranker
from lada_al.models import small
from lada_al.pools import ImageSpec
from lada_al.run import compare
from lada_al.run.arithmetic import arithmetic
from lada_al.run.together import Together
from lada_al.train import Learner

INSIDE = (3, True)


def now() -> tuple[int, bool]:
    return torch.get_num_threads(), torch.backends.cudnn.deterministic


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, bool]]]:
    """What held at each training; what held before has to hold at the end."""
    before, found = now(), list[tuple[int, bool]]()
    fit = Learner.fit

    def spied(self: Learner, *arguments: Any) -> float:
        found.append(now())
        return fit(self, *arguments)

    monkeypatch.setattr(Learner, "fit", spied)
    assert before != INSIDE
    yield found
    assert now() == before


def test_it_is_put_back_after_an_error_too(seen: list[tuple[int, bool]]) -> None:
    with arithmetic(Config(threads=2)):
        with contextlib.suppress(KeyError), arithmetic(Config(threads=3)):
            assert now() == INSIDE
            raise KeyError
        assert now() == (2, True)


def test_a_run(seen: list[tuple[int, bool]], tiny_config: Config, tmp_path: Path) -> None:
    before = now()
    for _ in run_experiment(tiny_config.model_copy(update={"threads": 3}), tmp_path):
        assert now() == before
    assert seen == [INSIDE] * 3


def test_runs_in_turns(tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waited to train finds what it set, although another ended a step in between."""
    before, found = now(), list[tuple[int, bool]]()
    fit = Together.fit

    def spied(*arguments: Any) -> float:
        loss = fit(*arguments)
        found.append(now())
        return loss

    monkeypatch.setattr(Together, "fit", spied)
    changes = {"method": "random", "threads": 3}
    configs = [tiny_config.model_copy(update={**changes, "seed": seed}) for seed in (1, 2, 3)]
    compare._carry_out([compare.Job(config, tmp_path / str(config.seed)) for config in configs])
    assert found == [INSIDE] * 9
    assert now() == before


def test_a_ranking(seen: list[tuple[int, bool]], tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", 24)
    project = begin(tmp_path / "project", pool, settings={"threads": 3})
    images = project.images()
    ids = list(images.ids())
    assert len(Ranker(project, 1, set())(images, {id_: truth(id_) for id_ in ids[:12]}, 4)) == 4
    assert seen == [INSIDE]


def test_a_learner(seen: list[tuple[int, bool]]) -> None:
    pool = [(np.random.default_rng(i).integers(0, 256, (20, 20), dtype=np.uint8), i) for i in range(12)]
    active = ActiveLearner(
        small(1, (20, 20), 2), pool, classes=["a", "b"], spec=ImageSpec(1, 20, 20, (0.5,), (0.5,)), method="entropy",
        threads=3, device="cpu", epochs=1,
    )  # fmt: skip
    active.tell(range(4), [0, 1, 0, 1])
    assert len(active.ask(2)) == 2
    active.fit().predict(range(3))
    assert seen == [INSIDE] * 2
