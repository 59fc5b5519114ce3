"""torch.vmap of the ops whose own pages do not test it: the same as a loop, in as few calls as there can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import generator
from test_dispatch import OPS, PICKS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lada_ext

MAPS, KEY = 3, lada_ext.make_key(1)
PAIRS = torch.tensor([[0, 2], [1, 1], [4, 0], [2, 3]])


class Calls(TorchDispatchMode):
    """Counts the ops of the library that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.namespace == "lada_ext"
        return function(*args, **(kwargs or {}))


def maps(*shape: int, seed: str = "maps") -> Tensor:
    return torch.randn(MAPS, *shape, generator=generator(seed), dtype=torch.float64)


def keys() -> Tensor:
    return torch.stack([lada_ext.make_key(i) for i in range(MAPS)])


def pairs_of_maps() -> Tensor:
    return torch.stack([PAIRS, PAIRS.flip(0), PAIRS.flip(1)])


def taus() -> Tensor:
    return maps(4, seed="tau").exp()


def pool_of_bytes() -> Tensor:
    return torch.arange(5 * 16, dtype=torch.uint8).view(5, 1, 4, 4)


# what is not mapped over
OWN, LOGITS, MIXED, FEATURES, FILTERS = maps(5)[0], maps(5, 3)[0], maps(4, 2, 3)[0], maps(4, 5)[0], maps(1, 3, 3)
Case = tuple[Callable[..., Any], tuple[Tensor, ...], int]
ROWS = torch.tensor([[0, 1], [4, 4], [2, 3]])
# function, what is mapped over at the first axis, calls of ops
CASES: dict[str, Case] = {
    "consistency_variance": (lada_ext.consistency_variance, (maps(2, 4, 5),), 1),
    "indexed_pair_score": (lada_ext.indexed_pair_score, (maps(5), pairs_of_maps(), maps(4, 2, 3)), 1),
    "indexed_pair_score of one pool": (
        lambda mixed: lada_ext.indexed_pair_score(OWN, PAIRS, mixed, 0.5, "variation_ratio"),
        (maps(4, 2, 3),),
        1,
    ),
    "mixed_pair_score": (lambda *a: lada_ext.mixed_pair_score(*a, 2, KEY), (maps(5, 3), pairs_of_maps(), taus()), 1),
    "mixed_pair_score of named pairs": (
        lambda tau: lada_ext.mixed_pair_score(LOGITS, PAIRS, tau, 2, KEY, 0.5, "entropy", torch.arange(9, 5, -1)),
        (taus(),),
        1,
    ),
    "mixed_pair_score by keys": (
        lambda z, key: lada_ext.mixed_pair_score(z, PAIRS, 0.5, 2, key),
        (maps(5, 3), keys()),
        MAPS,
    ),
    "conv_relu_pool": (lambda image: lada_ext.conv_relu_pool(image, FILTERS), (maps(2, 1, 5, 6),), 1),
    "conv_relu_pool of means": (
        lambda image: lada_ext.conv_relu_pool(image, FILTERS, padding=1, pool="mean"),
        (maps(2, 1, 5, 6),),
        1,
    ),
    "conv_relu_pool by weights": (
        lambda weight: lada_ext.conv_relu_pool(FILTERS, weight, torch.ones(2, dtype=torch.float64)),
        (maps(2, 1, 1, 2),),
        MAPS,
    ),
    "beta_logit_grad": (lambda x: lada_ext.beta_logit_grad(x, torch.full_like(x, 0.3)), (maps(2, 3),), 1),
    "take_images": (lambda i: lada_ext.take_images(pool_of_bytes(), i, KEY, padding=2, mirror=True), (ROWS,), 1),
    "take_images by keys": (
        lambda i, key: lada_ext.take_images(pool_of_bytes(), i, key, padding=2, normalize=([0.1], [0.2])),
        (ROWS, keys()),
        MAPS,
    ),
    "top_k": (lambda scores: lada_ext.top_k(scores, 2), (maps(6),), MAPS),
    "top_pairs": (lambda z: tuple(lada_ext.top_pairs(z, 3)), (maps(5, 3),), MAPS),
    "k_center_greedy": (lambda h: lada_ext.k_center_greedy(h, h[:1], 3), (maps(5, 3),), MAPS),
    "badge_select": (lambda h, z, key: lada_ext.badge_select(h, z, 3, key), (maps(5, 3), maps(5, 2), keys()), MAPS),
}
DIFFERENTIABLE = [
    "consistency_variance",
    "conv_relu_pool",
    "conv_relu_pool of means",
    "conv_relu_pool by weights",
    "indexed_pair_score",
    "mixed_pair_score",
]


def results(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize("name", CASES)
def test_vmap_is_a_loop(name: str) -> None:
    function, arguments, calls = CASES[name]
    loop = [results(function(*(a[i] for a in arguments))) for i in range(MAPS)]
    with Calls() as counted:
        actual = results(torch.vmap(function)(*arguments))
    for got, want in zip(actual, map(torch.stack, zip(*loop, strict=True)), strict=True):
        assert torch.equal(got, want)
    assert counted.count == calls


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_through_vmap(name: str) -> None:
    function, arguments, _ = CASES[name]
    leaves = [a.clone().requires_grad_() if a.is_floating_point() else a for a in arguments]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    mapped = torch.vmap(function)(*leaves)
    looped = torch.stack([function(*(a[i] for a in leaves)) for i in range(MAPS)])
    grad = torch.randn(looped.shape, generator=generator("grad"), dtype=looped.dtype)
    for got, want in zip(*(torch.autograd.grad(out, wanted, grad) for out in (mapped, looped)), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", CASES)
def test_vmap_over_nothing(name: str) -> None:
    function, arguments, _ = CASES[name]
    alone = results(function(*(a[0] for a in arguments)))
    for got, one in zip(results(torch.vmap(function)(*(a[:0] for a in arguments))), alone, strict=True):
        assert (got.shape, got.dtype) == ((0, *one.shape), one.dtype)


@pytest.mark.parametrize("axis", [1, 2])
def test_any_axis_is_mapped_over(axis: int) -> None:
    views = maps(4, 5).movedim(0, axis)
    expected = torch.stack([lada_ext.consistency_variance(v[:, None]) for v in views.unbind(axis)])
    assert torch.equal(torch.vmap(lambda v: lada_ext.consistency_variance(v[:, None]), axis)(views), expected)


@pytest.mark.parametrize("pair", [[5, 0], [0, -1], [3, 1]])
@pytest.mark.parametrize("op", ["indexed_pair_score", "mixed_pair_score"])
def test_no_pair_reaches_the_rows_of_other_maps(op: str, pair: list[int]) -> None:
    pairs = torch.tensor([[[0, 1]], [pair], [[2, 2]]])
    function, arguments = {
        "indexed_pair_score": (lada_ext.indexed_pair_score, (maps(3), pairs, maps(1, 2, 4))),
        "mixed_pair_score": (lambda *a: lada_ext.mixed_pair_score(*a, 1.0, 2, KEY), (maps(3, 4), pairs)),
    }[op]
    with pytest.raises(ValueError, match=f"{op}: pairs must lie in"):
        torch.vmap(function)(*arguments)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (lada_ext.entropy, (maps(),), r"entropy: logits must have shape \(..., C\) with at least one class, got \[\]"),
        (lada_ext.bald, (maps(5),), r"bald: logits must have shape \(T, ..., C\).*got \[5\]"),
        (lada_ext.consistency_variance, (maps(2, 3),), r"logits must have shape \(V, M, C\).*got \[2, 3\]"),
        (lambda z: lada_ext.pair_score(z, z, z), (maps(),), r"logits_a must have shape \(P, C\).*got \[\]"),
        (
            lambda z, y: lada_ext.soft_cross_entropy(z, y, y, torch.tensor(0.3)),
            (maps(5), torch.arange(MAPS)),
            r"soft_cross_entropy: logits must have shape \(P, ..., C\).*got \[5\]",
        ),
        (
            lambda h: lada_ext.beta_mix(h, h, 0.4, 2, KEY),
            (maps(),),
            r"beta_mix: a must have shape \(P, ...\), got a sca",
        ),
        (lambda h: lada_ext.beta_mix_pairs(h, PAIRS, 0.4, 2, KEY), (maps(),), r"beta_mix_pairs: h must have shape"),
        (lambda z: lada_ext.mixed_pair_score(z, PAIRS, 0.4, 2, KEY), (maps(),), r"logits must have shape \(M, C\)"),
        (
            lambda z, pair: lada_ext.mixed_pair_score(z, pair, torch.ones(2), 2, KEY),
            (maps(5, 3)[:1], PAIRS[:1]),
            r"mixed_pair_score: pairs must have shape \(P, 2\), got \[2\]",
        ),
        (
            lambda h, pair: lada_ext.beta_mix_pairs(h, pair, torch.ones(2), 2, KEY),
            (maps(5, 3)[:1], PAIRS[:1]),
            r"beta_mix_pairs: pairs must have shape \(P, 2\), got \[2\]",
        ),
        (
            lambda own, pair: lada_ext.indexed_pair_score(own, pair, MIXED[:2]),
            (maps(5)[:1], PAIRS[:1]),
            r"indexed_pair_score: pairs must have shape \(P, 2\), got \[2\]",
        ),
        *(
            (function, (torch.arange(MAPS),), r"index must have shape \[4\], got \[\]")
            for function in (
                lambda i: lada_ext.beta_sample(torch.ones(4), 2, KEY, i),
                lambda i: lada_ext.beta_mix(FEATURES, FEATURES, 0.4, 2, KEY, i),
                lambda i: lada_ext.beta_mix_pairs(LOGITS, PAIRS, 0.4, 2, KEY, i),
                lambda i: lada_ext.mixed_pair_score(LOGITS, PAIRS, 0.4, 2, KEY, index=i),
            )
        ),
        (lambda own: lada_ext.indexed_pair_score(own, PAIRS, MIXED), (maps(),), r"own must have shape \(M,\)"),
        (
            lambda lam: lada_ext.relu_mix_logits(FEATURES, FEATURES, lam, FEATURES),
            (maps(),),
            r"lam must have shape \(P, N\)",
        ),
        (lambda i: lada_ext.conv_relu_pool(i, FILTERS), (maps(),), r"image must have shape \(B, C, H, W\)"),
        (lambda i: lada_ext.take_images(pool_of_bytes(), i), (torch.arange(MAPS),), r"index must have shape \(B,\)"),
    ],
)
def test_what_a_map_lacks_is_named(function: Callable[..., Any], arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.vmap(function)(*arguments)


@pytest.mark.parametrize("op", [*OPS, *PICKS, "beta_logit_grad", "take_images", "top_k", "top_pairs"])
def test_no_op_is_left_to_the_loop_of_torch(op: str) -> None:
    """It warns, and knows nothing of maps over nothing."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"lada_ext::{op}", "FuncTorchBatched")
