"""pytest-benchmark over our contender of every case, so that two commits can be compared.

    make bench                               the table of all contenders, then this, which saves a run
    make bench COMPARE=--benchmark-compare   compares this with the run before

Eager torch and the others are the business of `python -m bench`, which takes their ratios round by round.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import harness

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CASES = [
    (device, family, case.name)
    for device in DEVICES
    for family in harness.families()
    for case in harness.cases(family, device)
]


@pytest.fixture(params=CASES, ids=" ".join)
def case(request: pytest.FixtureRequest) -> harness.Case:
    device, family, name = request.param
    return next(case for case in harness.cases(family, device) if case.name == name)


def test_speed(case: harness.Case, benchmark: Any) -> None:
    harness.check(case)
    ours = case.contenders[harness.OURS]

    def call() -> None:
        ours()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    benchmark.group = case.family
    benchmark.pedantic(call, warmup_rounds=3, rounds=15)
