"""Settings that a method does not read change nothing of its runs, and do not keep it from being compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lada_al import Bought, Config, run_experiment
from lada_al.run.in_use import in_use
from tiny import TINY_SETTINGS

# Another value of each setting that not every method reads.
OTHERWISE: dict[str, Any] = {
    "layers": (1,),
    "pairs": "all",
    "selection": "diverse",
    "samples": 2,
    "gamma": 0.2,
    "fixed_tau": 0.3,
    "largest_tau": 9.0,
    "policy_epochs": 1,
    "policy_batch": 7,
    "policy_lr": 0.1,
    "curve": 5,
    "dropout": 0.2,
    "bald_samples": 2,
    "cal_views": 2,
    "vaal_steps": 2,
    "vaal_batch": 4,
    "vaal_lr": 1e-2,
    "vaal_latent": 8,
    "vaal_width": 2,
    "vaal_probabilities": False,
    "ll4al_weight": 3.0,
    "ll4al_cut": 0.1,
    "bgadl_width": 4,
    "bgadl_batch": 3,
    "pi_weight": 7.0,
    "pi_batch": 4,
    "keep_optimizer": True,
    "virtual_loss": "own step",
    "stale_gradient": True,
    "tau_star": "best epoch",
    "adamixup_untrained": True,
    "adamixup_mean_label": True,
}
METHODS = [
    "random", "coreset", "bgadl", "cal", "vaal", "ll4al", "ent+manifold-mixup", "ent+adamixup", "lada-ent-mix-fixed",
    "lada-ent-mix", "lada-ent-stn", "lada-bald-stn-fixed", "lada-vaal-mix", "pi+entropy",
]  # fmt: skip


def learned(config: Config, folder: Path) -> list[tuple[list[int], list[float] | None] | tuple[float, float]]:
    """What a run bought and by which scores; its accuracies and losses."""
    return [
        (event.ids, event.scores) if isinstance(event, Bought) else (event.accuracy, event.loss)
        for event in run_experiment(config, folder)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_in_use_changes_nothing(method: str, tiny_folder: Path, tmp_path: Path) -> None:
    plain = Config(**{**TINY_SETTINGS, "data": str(tiny_folder), "method": method})
    unused = {name: value for name, value in OTHERWISE.items() if name not in in_use(plain)}
    other = Config(**{**plain.model_dump(), **unused})
    assert learned(plain, tmp_path / "plain") == learned(other, tmp_path / "other")


def test_what_is_in_use_by_some_is_listed_and_used_by_one() -> None:
    every = [in_use(Config(method=method)) for method in METHODS]
    conditional = {"keep_optimizer", "stale_gradient"}  # without restart_weights, and with steps of their own
    assert set(OTHERWISE) == set().union(*every) - frozenset.intersection(*every) | conditional
    assert in_use(Config(restart_weights=False, virtual_loss="own step")) >= conditional
    assert "fixed_tau" not in in_use(Config(method="lada-ent-mix"))
    assert "fixed_tau" in in_use(Config(method="lada-ent-mix", pairs="all"))
