"""The toy data set of all conformance tests."""

from __future__ import annotations

import pytest
import torch
from lada_al.data import Dataset
from toys import dataset

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Dataset:
    return dataset()
