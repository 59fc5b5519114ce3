"""Selections from a pool: k-center greedy and BADGE against the loops that people write, and scikit-activeml.

The peers pass over the whole pool for every pick. scikit-activeml materialises BADGE's embedding, 2 GB here in float64,
so it is compared at few picks. Clusters of low intrinsic dimension, far apart, are what features of a trained net are
nearer to than independent normals are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

import lada_ext
from bench.contenders import Op, argument_sets, compiled, op_case, rotated
from bench.harness import Case
from lada_ext import reference

ROWS, WIDTH, CLASSES, PICKS = 50_000, 512, 10, 1000
FEW = 20  # picks of a peer that is too slow for more, and of checks
Arguments = tuple[Tensor, Tensor]


def normal(g: torch.Generator) -> Arguments:
    features = torch.randn(ROWS, WIDTH, generator=g)
    return features, features[:1].clone()


def clusters(g: torch.Generator) -> Arguments:
    """50 clusters of intrinsic dimension 8, their centres 3 times as spread as normals."""
    places = 3 * torch.randn(50, WIDTH, generator=g)
    bases = torch.randn(50, 8, WIDTH, generator=g) / 8**0.5
    member = torch.randint(50, (ROWS,), generator=g)
    features = places[member]
    for cluster in range(50):
        inside = member == cluster
        features[inside] += torch.randn(int(inside.sum()), 8, generator=g) @ bases[cluster]
    return features, features[:1].clone()


def addmv_loop(features: Tensor, centers: Tensor, k: int) -> Tensor:
    """k-center with one matrix-vector product a pick, norms computed once."""
    norms = features.square().sum(1)
    nearest = (norms[:, None] + centers.square().sum(1) - 2 * features @ centers.T).amin(1)
    picks = torch.empty(k, dtype=torch.int64, device=features.device)
    for i in range(k):
        pick = picks[i] = nearest.argmax()
        distance = torch.addmv(norms, features, features[pick], alpha=-2).add_(norms[pick])
        torch.minimum(nearest, distance, out=nearest)
        nearest[pick] = -torch.inf
    return picks


def coreset_of_scikit(features: Tensor, centers: Tensor, k: int) -> Tensor:
    from skactiveml.pool import CoreSet

    pool = torch.cat([centers, features]).numpy()
    labels = np.full(len(pool), np.nan)
    labels[: len(centers)] = 0
    return torch.from_numpy(CoreSet(random_state=0).query(pool, labels, batch_size=k)) - len(centers)


def gradients(g: torch.Generator) -> Arguments:
    return torch.randn(ROWS, WIDTH, generator=g).relu(), 2 * torch.randn(ROWS, CLASSES, generator=g)


def ours_badge(features: Tensor, logits: Tensor, k: int) -> Tensor:
    return lada_ext.badge_select(features, logits, k, lada_ext.make_key(0, features.device))


def factorised_numpy(features: Tensor, logits: Tensor, k: int) -> np.ndarray:
    """BADGE as its authors do it since 2023, in float32: norms once, two matrix-vector products a pick."""
    h, p = features.numpy(), logits.softmax(1).numpy()
    q = p - np.eye(p.shape[1], dtype=p.dtype)[p.argmax(1)]
    lengths = np.square(q).sum(1) * np.square(h).sum(1)
    random, picks = np.random.default_rng(0), [int(lengths.argmax())]
    nearest = np.full(len(h), np.inf, dtype=h.dtype)
    while len(picks) < k:
        last = picks[-1]
        distance = lengths + lengths[last] - 2 * (q @ q[last]) * (h @ h[last])
        nearest = np.minimum(nearest, distance.clip(min=0))
        nearest[picks] = 0
        picks.append(int(random.choice(len(h), p=nearest / nearest.sum(dtype=np.float64))))
    return np.array(picks)


def badge_of_scikit(features: Tensor, logits: Tensor, k: int) -> np.ndarray:
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import Badge

    class Trained(SkactivemlClassifier):  # type: ignore[misc]
        """A classifier whose probabilities are known."""

        def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: None = None) -> Trained:  # noqa: N803
            del X, y, sample_weight
            return self

        def predict_proba(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
            del X
            return logits.softmax(1).numpy()

    classifier = Trained(classes=list(range(logits.shape[1])))
    unlabelled = np.full(len(features), np.nan)
    return Badge(random_state=0).query(features.numpy(), unlabelled, classifier, fit_clf=False, batch_size=k)


def assert_first_picks(
    ours: Callable[..., Tensor], definition: Callable[..., Tensor], rows: int, pool: Arguments
) -> None:
    """The first picks, of as many rows as the definition can do, are those of float64."""
    part = pool[0][:rows], pool[1] if len(pool[1]) < rows else pool[1][:rows]
    assert ours(*part, FEW).tolist() == definition(*(t.double() for t in part), FEW).tolist()


def definition_of_badge(features: Tensor, logits: Tensor, k: int) -> Tensor:
    return reference.badge_select(features, logits, k, lada_ext.make_key(0, features.device))


def select_case(
    name: str,
    device: str,
    make: Callable[[torch.Generator], Arguments],
    k: int,
    contenders: dict[str, Op],
    definition: Callable[..., Tensor],
    rows_checked: int,
) -> Case:
    size = 4 * ROWS * WIDTH
    sets = argument_sets(make, device, size)
    ours = contenders["lada_ext"]
    return Case(
        "select",
        f"{name} M={ROWS} D={WIDTH} k={k}",
        {contender: rotated(partial(op, k=k), sets) for contender, op in contenders.items()},
        partial(assert_first_picks, ours, definition, rows_checked, sets[0]),
        bytes_moved=size,
    )


def views(g: torch.Generator) -> tuple[Tensor]:
    return (torch.randn(10, ROWS, CLASSES, generator=g),)


def eager_consistency(logits: Tensor) -> Tensor:
    return logits.softmax(-1).var(0, correction=0).sum(-1)


def cases(device: str) -> Iterator[Case]:
    on_cpu = device == "cpu"
    k_center: dict[str, Op] = {"lada_ext": lada_ext.k_center_greedy, "addmv loop": addmv_loop}
    scikit: dict[str, Op] = {"scikit-activeml CoreSet": coreset_of_scikit} if on_cpu else {}
    definition = reference.k_center_greedy
    yield select_case(
        "k_center_greedy, normals,", device, normal, PICKS, {**k_center, **scikit}, definition, rows_checked=ROWS
    )
    yield select_case("k_center_greedy, clusters,", device, clusters, PICKS, k_center, definition, rows_checked=ROWS)
    numpy: dict[str, Op] = {"factorised numpy": factorised_numpy} if on_cpu else {}
    badge: dict[str, Op] = {"lada_ext": ours_badge, **numpy}
    yield select_case(
        f"badge_select C={CLASSES}", device, gradients, PICKS, badge, definition_of_badge, rows_checked=2000
    )
    if on_cpu:
        few = {**badge, "scikit-activeml Badge": badge_of_scikit}
        yield select_case(
            f"badge_select C={CLASSES}", device, gradients, FEW, few, definition_of_badge, rows_checked=2000
        )
    yield op_case(
        "select",
        f"consistency_variance 10 views x {ROWS} x {CLASSES}",
        device,
        views,
        {
            "lada_ext": lada_ext.consistency_variance,
            "eager": eager_consistency,
            "torch.compile": compiled(eager_consistency),
        },
        reference.consistency_variance,
        bytes_moved=4 * ROWS * (10 * CLASSES + 1),
    )
