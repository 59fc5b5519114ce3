"""Every row of Tables 1 to 3 runs three rounds on real images, in small pools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lada_al import data
from lada_al.data import Dataset
from lada_al.methods import expand
from toys import run

SHARED = Path(__file__).parents[3] / "shared" / "data"
ROWS = expand("table1,table2,table3")


@pytest.fixture(scope="module", params=["mnist5k", "fashion", "cifar10"])
def images(request: pytest.FixtureRequest) -> Dataset:
    if request.param != "mnist5k" and not SHARED.is_dir():
        pytest.skip("needs the real image files that lie beside the project")
    whole = data.load(request.param, None if request.param == "mnist5k" else SHARED)
    return replace(
        whole,
        train_images=whole.train_images[::30],
        train_labels=whole.train_labels[::30],
        test_images=whole.test_images[::50],
        test_labels=whole.test_labels[::50],
    )


@pytest.mark.parametrize("method", ROWS)
def test_three_rounds(method: str, images: Dataset) -> None:
    bought, pool = run(method, images, dataset=images.name, rounds=3, epochs=1, initial=20, candidates=30, query=6)
    ids = [i for event in bought for i in event.ids]
    assert len(set(ids)) == len(ids) == 38
    assert [label for event in bought for label in event.labels] == images.train_labels[ids].tolist()
    assert len(pool.labelled) == 38
