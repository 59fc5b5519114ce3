"""Eq. 13: of given mixtures, of mixtures of logits, and the best of all pairs of a pool.

`top_pairs` of large pools has no contender: the eager way scores every pair, 9 to 15 seconds for 4,000 rows, and the
time grows by the square of the rows. Its logits are those of a net trained on the demo's images. A GPU gets more pairs,
so that a call takes long enough to tell the op's time from the launch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import lada_ext
from bench.bench_scores import eager_entropy
from bench.contenders import Op, compiled, op_case
from bench.demo_logits import trained_logits
from bench.harness import Case
from lada_ext import reference

SAMPLES, CLASSES = 5, 10
GIVEN = {"cpu": 20_000, "cuda": 1_000_000}  # pairs
BEST, NODES, CHUNK = 100, 5, 1_000_000


def eager_pair_score(logits_a: Tensor, logits_b: Tensor, mixed: Tensor) -> Tensor:
    return eager_entropy(logits_a) + eager_entropy(logits_b) + eager_entropy(mixed).mean(-1)


def logits(g: torch.Generator, count: int) -> tuple[Tensor, ...]:
    rows = torch.randn(count, 2 + SAMPLES, CLASSES, generator=g)
    return tuple(t.contiguous() for t in (rows[:, 0], rows[:, 1], rows[:, 2:]))


def logits_and_grad(g: torch.Generator, count: int) -> tuple[Tensor, ...]:
    return *(t.requires_grad_() for t in logits(g, count)), torch.randn(count, generator=g)


def pool(g: torch.Generator, rows: int, count: int) -> tuple[object, ...]:
    pairs, tau = torch.randint(rows, (count, 2), generator=g), 0.5 + torch.rand(count, generator=g)
    return 2 * torch.randn(rows, CLASSES, generator=g), pairs, tau, SAMPLES, lada_ext.make_key(g)


def pool_and_grad(g: torch.Generator, rows: int, count: int) -> tuple[object, ...]:
    values, pairs, tau, samples, key = pool(g, rows, count)
    assert isinstance(values, Tensor)
    assert isinstance(tau, Tensor)
    return values.requires_grad_(), pairs, tau.requires_grad_(), samples, key, torch.randn(count, generator=g)


def eager_mixed_pair_score(logits: Tensor, pairs: Tensor, tau: Tensor, samples: int, key: Tensor) -> Tensor:
    """As people compose it; other draws than ours, from torch's generator."""
    del key
    a, b = logits[pairs[:, 0]], logits[pairs[:, 1]]
    concentration = tau[:, None].expand(-1, samples)
    lam = torch.distributions.Beta(concentration, concentration).rsample()[..., None]
    return eager_pair_score(a, b, lam * a[:, None] + (1 - lam) * b[:, None])


def definition_of_mixed(logits: Tensor, pairs: Tensor, tau: Tensor, samples: int, key: Tensor) -> Tensor:
    return reference.mixed_pair_score(logits, pairs, tau, samples, key, bits=32)


def eager_top_pairs(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair, in chunks, and the best of each chunk."""
    lam, weights = (values.to(logits) for values in lada_ext.beta_nodes(1.0, NODES))
    pairs, own = torch.triu_indices(len(logits), len(logits), 1, device=logits.device).t(), eager_entropy(logits)
    scores = []
    for chunk in pairs.split(CHUNK):
        a, b = logits[chunk[:, 0], None], logits[chunk[:, 1], None]
        mixed = eager_entropy(lam[:, None] * a + (1 - lam[:, None]) * b) @ weights
        scores.append(own[chunk[:, 0]] + own[chunk[:, 1]] + mixed)
    best = torch.cat(scores).topk(min(BEST, len(pairs)))
    return best.values, pairs[best.indices]


def top_pairs_case(rows: int, device: str, *, prune: bool = True, eager: bool = False) -> Case:
    values = trained_logits(rows).to(device)
    ours = partial(lada_ext.top_pairs, k=BEST, n_nodes=NODES)

    def check() -> None:
        """The scores of the best pairs of the first rows, by the definition."""
        part = values[: min(rows, 300)]
        expected, _ = reference.top_pairs(part.double(), BEST, *lada_ext.beta_nodes(1.0, NODES))
        torch.testing.assert_close(ours(part, prune=prune).scores.double(), expected, rtol=1e-5, atol=1e-5)

    contenders: dict[str, Callable[[], object]] = {"lada_ext": lambda: ours(values, prune=prune)}
    if eager:
        contenders["eager"] = lambda: eager_top_pairs(values)
    how = "" if prune else ", every pair"
    return Case("pair_score", f"top_pairs M={rows} C=10 {NODES} nodes k={BEST}{how}", contenders, check, values.nbytes)


def cases(device: str) -> Iterator[Case]:
    contenders = {
        "lada_ext": lada_ext.pair_score,
        "eager": eager_pair_score,
        "torch.compile": compiled(eager_pair_score),
    }
    count = GIVEN[device]
    name, pair_bytes = f"pair_score P={count} N={SAMPLES} C={CLASSES}", 4 * (2 + SAMPLES) * CLASSES
    yield op_case(
        "pair_score",
        name,
        device,
        partial(logits, count=count),
        contenders,
        reference.pair_score,
        bytes_moved=count * (pair_bytes + 4),
    )
    yield op_case(
        "pair_score",
        f"{name}, forward + backward",
        device,
        partial(logits_and_grad, count=count),
        contenders,
        reference.pair_score,
        bytes_moved=count * (3 * pair_bytes + 8),
        wrt=[0, 1, 2],
    )
    mixed: dict[str, Op] = {
        "lada_ext": lada_ext.mixed_pair_score,
        "eager": eager_mixed_pair_score,
        "torch.compile": compiled(eager_mixed_pair_score),
    }
    for rows in (4000, 50_000):
        name, moved = f"mixed_pair_score M={rows} P={count} N={SAMPLES} C={CLASSES}", 4 * (rows * CLASSES + 6 * count)
        for backward in (False, True):
            yield op_case(
                "pair_score",
                f"{name}, forward + backward" if backward else name,
                device,
                partial(pool_and_grad if backward else pool, rows=rows, count=count),
                mixed,
                definition_of_mixed,
                bytes_moved=3 * moved if backward else moved,
                wrt=[0, 2] if backward else [],
                checked=("lada_ext",),
            )
    yield top_pairs_case(4000, device, prune=False, eager=True)
    yield top_pairs_case(4000, device, eager=True)
    if device == "cuda":
        yield top_pairs_case(50_000, device, prune=False)
    yield top_pairs_case(50_000, device)
    yield top_pairs_case(1_000_000, device)
