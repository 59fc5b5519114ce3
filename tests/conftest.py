"""Devices and storage types the tests run with, and which tests share a worker of pytest-xdist."""

from __future__ import annotations

import pytest
import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --dist loadgroup a worker runs a file at a time; a test marked `apart` is long, and any worker takes it."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            name = item.nodeid if item.get_closest_marker("apart") else item.nodeid.split("::")[0]
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]
