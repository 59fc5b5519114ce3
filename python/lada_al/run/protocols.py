"""Protocols: settings, seeds and methods of whole studies, so that one word starts one. docs/methods.md says why so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lada_al.errors import UsageError


@dataclass(frozen=True)
class Protocol:
    """What `lada compare --protocol NAME` fills in; options that are given win."""

    summary: str
    methods: str
    seeds: int
    settings: dict[str, Any] = field(default_factory=dict)


PROTOCOLS = {
    "paper": Protocol(
        "ResNet-18, 100 rounds, 5 seeds; for a GPU",
        methods="table1",
        seeds=5,
        settings={"preset": "paper", "model": "resnet18", "rounds": 100},
    ),
    # Labels double: 250, 500, 1000, 2000, 4000. All of the pool is looked at, for 2,000 are bought at once.
    "table3": Protocol(
        "Pi-model on cifar10 with 250 to 4,000 labels, ResNet-18; for a GPU",
        methods="table3",
        seeds=5,
        settings={
            "preset": "paper",
            "dataset": "cifar10",
            "model": "resnet18",
            "rounds": 4,
            "initial": 250,
            "schedule": (250, 500, 1000, 2000),
            "candidates": 50_000,
            "batch": 100,
            "epochs": 300,
        },
    ),
    # Ten rounds of ten labels on two CPU cores. As many policy steps as in the authors' code, on a fifth of the pairs.
    "mini": Protocol(
        "small network, 10 rounds, 5 seeds; for a CPU",
        methods="table1",
        seeds=5,
        settings={
            "model": "small",
            "rounds": 10,
            "candidates": 400,
            "policy_batch": 20,
            "epochs": 30,
            "cal_views": 10,
            "vaal_steps": 100,
            "vaal_width": 8,
            "bgadl_width": 16,
        },
    ),
}


def protocol(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol '{name}'; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
