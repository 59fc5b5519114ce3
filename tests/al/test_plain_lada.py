"""The plain way of bench/plain_lada.py buys what the loop buys, if both draw the same lam."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lada_al import Config
from tiny import TINY_SETTINGS
from torch import Tensor

import lada_ext
from bench import plain_lada


def same_draw(tau: Tensor, samples: int, key: Tensor, index: Tensor) -> Tensor:
    return lada_ext.beta_sample(tau, samples, key, index=index)


@pytest.mark.parametrize("as_official", [False, True])
def test_same_purchases(tiny_folder: Path, tmp_path: Path, as_official: bool) -> None:
    config = Config(**TINY_SETTINGS, data=str(tiny_folder), method="lada-ent-mix", curve=0)
    ours = [ids for ids, _ in plain_lada.with_the_loop(config, tmp_path / "run")]
    plain = [ids for ids, _ in plain_lada.plainly(config, same_draw, as_official=as_official)]
    assert len(ours) == config.rounds + 1
    assert plain == ours


@pytest.mark.parametrize("draw", [plain_lada.torch_draw, plain_lada.torch_draw_one_by_one])
def test_torch_draws_are_symmetric_and_differentiable(draw: plain_lada.Draw) -> None:
    torch.manual_seed(0)
    tau = torch.full((2000,), 2.0, requires_grad=True)
    lam = draw(tau, 3, torch.zeros(2, dtype=torch.int64), torch.arange(2000))
    assert lam.shape == (2000, 3)
    assert lam.mean().item() == pytest.approx(0.5, abs=0.02)
    lam.square().sum().backward()
    assert tau.grad is not None
    assert tau.grad.abs().sum() > 0
