"""What every test of the loop runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lada_al import Config, data, models
from lada_al.data import Dataset
from lada_al.keys import Keys
from lada_al.models import SplitModel
from lada_al.pool import Pool
from tiny import TINY_SETTINGS, write_parquet

# At this size one thread is faster than two, and the same arithmetic everywhere.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_parquet(folder / "train.parquet", 90, seed=1)
    write_parquet(folder / "test.parquet", 30, seed=2)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Dataset:
    return data.load("fashion", tiny_folder)


@pytest.fixture
def tiny_config(tiny_folder: Path) -> Config:
    return Config(**TINY_SETTINGS, data=str(tiny_folder))


@pytest.fixture
def pool(tiny: Dataset) -> Pool:
    pool = Pool(tiny, torch.device("cpu"))
    pool.add(range(80, 90), tiny.train_labels[80:90])
    return pool


@pytest.fixture
def net() -> SplitModel:
    with Keys(5).scope("network weights", 0):
        return models.small(1, (20, 20), 3)


@pytest.fixture
def row_groups_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups of Parquet files in the order in which they are read; it grows."""
    groups: list[int] = []
    iter_batches = pq.ParquetFile.iter_batches

    def counted(file: Any, size: int, row_groups: list[int], *more: Any, **options: Any) -> Any:
        groups.extend(row_groups)
        return iter_batches(file, size, row_groups, *more, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    return groups
