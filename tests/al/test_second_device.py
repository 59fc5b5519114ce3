"""The loop on a GPU, without one: on a device that refuses what CUDA refuses, all is as on the CPU.

Numbers there are those of the CPU, so results are equal to the last bit. What runs on real GPUs alone, kernels, graphs
and their generators, is not seen here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from on_second_device import EXPERIMENTS

HERE = Path(__file__).parent
pytestmark = pytest.mark.xdist_group("second device")

REFUSED = """
import torch, second_device, lada_ext
second_device.register()
here, there = torch.rand(3, 4), torch.rand(3, 4, device="second")
index = torch.tensor([0, 2])
assert there[index].device == there.device and (there + torch.tensor(1.0)).device == there.device
assert there.cpu().numpy().shape == (3, 4) and there[index.to("second")].tolist() == there[index].tolist()
for mixed in (
    lambda: here + there,
    lambda: here[index.to("second")],
    lambda: torch.cat([here, there]),
    lambda: torch.nn.functional.linear(here, there),
    lambda: there.numpy(),
    lambda: lada_ext.beta_sample(there[0], 2, lada_ext.make_key(1)),
    lambda: there.index_put_((index,), here[0]),
):
    try:
        mixed()
    except (RuntimeError, TypeError) as error:
        assert "second" in str(error), error
    else:
        raise AssertionError("not refused")
"""

NOT_RECORDED = """
import torch, second_device, lada_ext
second_device.register()
there, chosen = torch.rand(3, device="second"), torch.ones(3, dtype=torch.bool, device="second")
for waits in (
    lambda: torch.tensor([1.0], device="second"),
    lambda: there.cpu(),
    lambda: there.sum().item(),
    lambda: there.tolist(),
    lambda: there[chosen],
    lambda: there.nonzero(),
    lambda: there + torch.tensor(1.0),
):
    waits()
    with second_device.recording():
        there + 1
        try:
            waits()
        except RuntimeError as error:
            assert "cannot be recorded" in str(error), error
        else:
            raise AssertionError("recorded")
"""


def python(*arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=HERE, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def results(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("second device") / "results.json"
    python("on_second_device.py", str(path), str(tiny_folder))
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_all_is_as_on_the_cpu(name: str, results: dict[str, Any]) -> None:
    found = results[name]
    assert not isinstance(found, str), found
    on_cpu, there = found
    assert there == on_cpu


def test_the_device_refuses_what_cuda_refuses() -> None:
    python("-c", REFUSED)


def test_what_a_graph_cannot_record_is_refused() -> None:
    python("-c", NOT_RECORDED)
