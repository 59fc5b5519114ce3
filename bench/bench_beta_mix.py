"""Mixing with lam ~ Beta(tau, tau). Eager torch draws with torch.distributions; torch.compile is given lam, since it
does not trace that sampler. torch.full, of the results' sizes, is what it costs to write them at all."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import lada_ext
from bench.contenders import Arguments, argument_sets, compiled, op_case, rotated
from bench.harness import Case
from lada_ext import reference

KEY = 0
LARGE, SMALL = (500, 5, 16384), (10, 5, 64)  # pairs, samples, features
DRAWS_OF_PAIR, PAIRS_OF_DRAWS = 10, 1_000_000

Make = Callable[[torch.Generator], Arguments]


def key_on(tensor: Tensor) -> Tensor:
    return lada_ext.make_key(KEY, tensor.device)


def ours(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    return lada_ext.beta_mix(a, b, tau, lam.shape[1], key_on(a))[0]


def ours_of_rows(h: Tensor, pairs: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    return lada_ext.beta_mix_pairs(h, pairs, tau, lam.shape[1], key_on(h))[0]


class OursInto:
    """Into buffers that are there already."""

    def __init__(self) -> None:
        self.out: tuple[Tensor, Tensor] | None = None

    def __call__(self, a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
        if self.out is None:
            self.out = lada_ext.beta_mix(a, b, tau, lam.shape[1], key_on(a))
        return lada_ext.beta_mix(a, b, tau, lam.shape[1], key_on(a), out=self.out)[0]


def rsample(tau: Tensor, n: int) -> Tensor:
    return torch.distributions.Beta(tau, tau, validate_args=False).rsample((n,)).t()


def mix(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    del tau
    weight = lam.reshape(*lam.shape, *[1] * (a.dim() - 1))
    return weight * a[:, None] + (1 - weight) * b[:, None]


def eager(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    return mix(a, b, tau, rsample(tau, lam.shape[1]))


def of_rows(op: Callable[..., Tensor], h: Tensor, pairs: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    return op(h[pairs[:, 0]], h[pairs[:, 1]], tau, lam)


def full(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    del b, tau
    mixed = torch.full((*lam.shape, *a.shape[1:]), 1.0, dtype=a.dtype, device=a.device)
    return mixed, torch.full_like(lam, 1.0)


def definition(a: Tensor, b: Tensor, tau: Tensor, lam: Tensor) -> Tensor:
    return reference.beta_mix(a, b, tau, lam.shape[1], key_on(a), bits=32)[0]


def features(pairs: int, samples: int, width: int, wrt: str, g: torch.Generator) -> Arguments:
    """a, b, tau and lam, which need a gradient as `wrt` says, and the gradient of the mixtures."""
    a, b = torch.randn(2, pairs, width, generator=g)
    tau = torch.rand(pairs, generator=g) + 0.2
    lam = lada_ext.beta_sample(tau, samples, lada_ext.make_key(KEY))
    named = {"a": a, "b": b, "tau": tau, "lam": lam}
    inputs = tuple(t.requires_grad_(name in wrt.split()) for name, t in named.items())
    return inputs if not wrt else (*inputs, torch.randn(pairs, samples, width, generator=g))


def mix_case(shape: tuple[int, int, int], device: str, kind: str = "") -> Case:
    """`kind`: what gradients are taken, of "a b tau" and of "tau"; lam's where it is given. Forward alone without."""
    pairs, samples, width = shape
    wrt = {"": "", "a, b, tau": "a b tau lam", "tau": "tau lam"}[kind]
    contenders: dict[str, Callable[..., object]] = {
        "lada_ext": ours,
        "eager": eager,
        "torch.compile, lam given": compiled(mix),
    }
    if not wrt:
        contenders |= {"lada_ext, out=": OursInto(), "torch.full": full}
    row_bytes = 4 * pairs * width
    rows = {"": 2 + samples, "a, b, tau": 6 + 2 * samples, "tau": 4 + 2 * samples}[kind]
    return op_case(
        "beta_mix",
        f"P={pairs} N={samples} D={width}" + (f", forward + backward of {kind}" if kind else ""),
        device,
        partial(features, pairs, samples, width, wrt),
        contenders,
        definition,
        bytes_moved=rows * row_bytes,
        wrt=[i for i, name in enumerate(("a", "b", "tau", "lam")) if name in wrt.split()],
        checked=["lada_ext", "lada_ext, out="] if not wrt else ["lada_ext"],
        tolerance=1e-4 if not wrt else 1e-2,
    )


def rows_of_a_pool(g: torch.Generator) -> Arguments:
    pairs, samples, width = LARGE
    _, _, tau, lam = features(pairs, samples, 1, "", g)
    h = torch.randn(2 * pairs, width, generator=g)
    return h, torch.randint(0, len(h), (pairs, 2), generator=g), tau, lam


def pairs_case(device: str) -> Case:
    pairs, samples, width = LARGE
    return op_case(
        "beta_mix",
        f"rows of pairs, P={pairs} N={samples} D={width}",
        device,
        rows_of_a_pool,
        {
            "lada_ext": ours_of_rows,
            "eager": partial(of_rows, eager),
            "torch.compile, lam given": compiled(partial(of_rows, mix)),
        },
        partial(of_rows, definition),
        bytes_moved=4 * (2 + samples) * pairs * width,
        checked=["lada_ext"],
    )


def many_taus(g: torch.Generator) -> Arguments:
    return (10 ** (4 * torch.rand(PAIRS_OF_DRAWS, generator=g) - 2),)  # 0.01 to 100


def ours_sampled(tau: Tensor) -> Tensor:
    return lada_ext.beta_sample(tau, DRAWS_OF_PAIR, key_on(tau))


def assert_first_draws(tau: Tensor) -> None:
    """Those of a thousand pairs: the definition takes too much memory for all of them."""
    few = tau[:1000].double()
    expected = reference.beta_sample(few, DRAWS_OF_PAIR, key_on(tau), bits=32)
    torch.testing.assert_close(ours_sampled(tau)[:1000].double(), expected, rtol=1e-4, atol=1e-5)


def fill_fresh_pages(tau: Tensor) -> Tensor:
    """What torch.full does in a young process; in an old one malloc may have so large a piece of used memory."""
    pages = mmap.mmap(-1, 4 * len(tau) * DRAWS_OF_PAIR, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.float32).fill_(0.5)


def sample_case(device: str) -> Case:
    bytes_moved = 4 * PAIRS_OF_DRAWS * (1 + DRAWS_OF_PAIR)
    sets = argument_sets(many_taus, device, bytes_moved)
    contenders: dict[str, Callable[[Tensor], object]] = {
        "lada_ext": ours_sampled,
        "eager": partial(rsample, n=DRAWS_OF_PAIR),
        "torch.full": lambda tau: torch.full((len(tau), DRAWS_OF_PAIR), 0.5, device=tau.device),
    }
    if device == "cpu" and sys.platform == "linux":
        contenders["fill of fresh pages"] = fill_fresh_pages
    return Case(
        "beta_mix",
        f"beta_sample of {PAIRS_OF_DRAWS * DRAWS_OF_PAIR:.0e}, tau from 0.01 to 100",
        {name: rotated(op, sets) for name, op in contenders.items()},
        partial(assert_first_draws, *sets[0]),
        bytes_moved,
    )


def cases(device: str) -> Iterator[Case]:
    for kind in ("", "a, b, tau", "tau"):
        yield mix_case(LARGE, device, kind)
    yield pairs_case(device)
    yield sample_case(device)
    for kind in ("", "a, b, tau", "tau"):
        yield mix_case(SMALL, device, kind)
