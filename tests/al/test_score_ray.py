"""`lada score --engine ray` on a local cluster: what one process finds, also when a worker is killed meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from labelling import lada, read_csv
from pooling import folder, name

CODE = """
import os, signal
from pathlib import Path

import torch
from lada_al.models import small
from lada_al.pools import ImageSpec


class KilledOnce(torch.nn.Module):
    '''Kills its process at its third batch, if none has done so before.'''

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.batches = small(1, (12, 12), 5), 0

    def forward(self, x):
        self.batches += 1
        mark = Path(os.environ["KILL_MARK"])
        if self.batches == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)


def net():
    return KilledOnce(), ImageSpec(1, 12, 12, (0.5,), (0.5,))
"""


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    np.save(tmp_path / "l.npy", np.zeros((3, 2), np.float32))
    code, _, err = lada("score", "--embeddings", tmp_path / "l.npy", "--out", tmp_path / "out", "--engine", "ray")
    assert code == 2
    assert "--engine ray needs Ray: pip install 'lada-ext[ray]'" in err
    assert not (tmp_path / "out").exists()


def test_a_killed_worker_loses_nothing_and_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'lada-ext[ray]'")
    (tmp_path / "mortal_net.py").write_text(CODE)
    pool = folder(tmp_path, 400)
    (pool / name(5)).write_bytes(b"")
    python_path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2] / "python"), *sys.path])

    def scored(out: str, mark: Path, *more: object) -> None:
        arguments = ["--pool", pool, "--model", "mortal_net:net", "--top", 20, "--device", "cpu", "--shard", 32]
        command = [sys.executable, "-m", "lada_al", "score", "--out", tmp_path / out, "--workers", 0, *arguments, *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path, "KILL_MARK": str(mark)}
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr

    nobody, mark = tmp_path / "nobody", tmp_path / "killed"
    nobody.touch()
    scored("one", nobody)
    scored("ray", mark, "--engine", "ray", "--actors", 2)
    assert mark.exists()
    for file in ("top.csv", "unreadable.csv", "score.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "ray" / file).read_bytes()
    assert pq.read_table(tmp_path / "one" / "scores").equals(pq.read_table(tmp_path / "ray" / "scores"))
    assert len(read_csv(tmp_path / "ray" / "top.csv")) == 20
