"""The self test of `lada doctor` knows every op, and sees one that has gone wrong."""

from __future__ import annotations

import inspect

import pytest
import torch
from lada_al.self_test import CASES, self_test

import lada_ext

NOT_OPS = {"TopPairs", "beta_nodes", "build_info", "make_key", "release_memory"}


def test_every_op_is_tested() -> None:
    public = {name for name in lada_ext.__all__ if not inspect.ismodule(getattr(lada_ext, name))}
    assert set(CASES) == public - NOT_OPS


@pytest.mark.parametrize(
    ("op", "wrong"),
    [
        ("entropy", lambda out: out + 1e-3),
        ("beta_mix", lambda out: (out[0], out[1] * 1.001)),
        ("k_center_greedy", lambda out: out.flip(0)),
        ("bald", lambda out: out * torch.nan),
        ("beta_mix", lambda out: (out[0], out[1] * torch.nan)),
    ],
)
def test_a_wrong_op_is_seen(monkeypatch, op, wrong) -> None:
    case = CASES[op]
    monkeypatch.setitem(CASES, op, type(case)(case.inputs, lambda *t: wrong(case.op(*t)), case.definition))
    assert [result.op for result in self_test() if not result.ok] == [op]


def test_a_wrong_gradient_is_seen(monkeypatch) -> None:
    case = CASES["margin"]
    monkeypatch.setitem(
        CASES, "margin", type(case)(case.inputs, lambda z: case.op(z).detach() + 0 * z.sum(), case.definition)
    )
    assert [result.op for result in self_test() if not result.ok] == ["margin"]
