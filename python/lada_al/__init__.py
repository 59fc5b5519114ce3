"""Look-ahead data acquisition (LADA): a thin active-learning loop over the ops of lada_ext.

The command is `lada`. From Python, `ActiveLearner` serves your own network, images and labellers; `run_experiment(
Config(...), folder)` yields the events of a run as they happen, and `active_learning(...)` is the loop itself,
Algorithm 1 of the paper, without files.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lada_al.active import ActiveLearner
    from lada_al.events import Bought, Trained
    from lada_al.loop import active_learning
    from lada_al.methods import all_methods
    from lada_al.models import SplitModel
    from lada_al.pools import ImageSpec
    from lada_al.run.config import Config
    from lada_al.run.experiment import run_experiment
    from lada_al.view import View

__all__ = [
    "ActiveLearner",
    "Bought",
    "Config",
    "ImageSpec",
    "SplitModel",
    "Trained",
    "View",
    "active_learning",
    "all_methods",
    "run_experiment",
]

_HOMES = {
    "ActiveLearner": "active",
    "Bought": "events",
    "Config": "run.config",
    "ImageSpec": "pools",
    "SplitModel": "models",
    "Trained": "events",
    "View": "view",
    "active_learning": "loop",
    "all_methods": "methods",
    "run_experiment": "run.experiment",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `lada --help` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lada_al' has no attribute '{name}'")
    return getattr(importlib.import_module(f"lada_al.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
