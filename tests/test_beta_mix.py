"""beta_sample, beta_mix and beta_logit_grad: against the reference, against the exact distribution, and by their law."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import MIXED_PAIRS, MIXES, cast, generator
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference

ROOT = Path(__file__).parent.parent
TAUS = [1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0, 50.0, 1e3, 1e4]
DRAWS = 200_000


def bits_of(dtype: torch.dtype) -> int:
    return 64 if dtype == torch.float64 else 32


def weights_like(*outs: Tensor) -> list[Tensor]:
    g = generator("grad")
    return [torch.randn(out.shape, generator=g).to(out.device) for out in outs]


def as_double(arguments: dict[str, Any]) -> dict[str, Any]:
    return {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in arguments.items()}


def draws(tau: float, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return lada_ext.beta_sample(torch.tensor([tau], dtype=dtype), DRAWS, lada_ext.make_key(seed))[0]


@pytest.mark.parametrize("name", MIXES)
def test_beta_mix(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = cast(MIXES[name](generator(name)), dtype, device)
    mixed, lam = lada_ext.beta_mix(**arguments)
    expected_mixed, expected_lam = reference.beta_mix(**as_double(arguments), bits=bits_of(dtype))
    assert mixed.dtype == dtype
    assert_close(lam, expected_lam)
    assert_close(mixed, expected_mixed)
    assert torch.equal(lam, lada_ext.beta_sample(*(arguments[k] for k in ("tau", "n", "key", "index"))))


@pytest.mark.parametrize("name", MIXED_PAIRS)
def test_beta_mix_pairs(name: str, dtype: torch.dtype, device: str) -> None:
    """The same bits as beta_mix of gathered rows."""
    arguments = cast(MIXED_PAIRS[name](generator(name)), dtype, device)
    mixed, lam = lada_ext.beta_mix_pairs(**arguments)
    h, pairs = arguments.pop("h"), arguments.pop("pairs")
    expected_mixed, expected_lam = lada_ext.beta_mix(h[pairs[:, 0]], h[pairs[:, 1]], **arguments)
    assert torch.equal(mixed, expected_mixed)
    assert torch.equal(lam, expected_lam)


def gradients_of_sums(
    op: Callable[..., tuple[Tensor, Tensor]], arguments: dict[str, Any], weights: list[Tensor], wanted: list[str]
) -> list[Tensor]:
    """Of sum (out * weight) over both results."""
    leaves = {k: arguments[k].detach().requires_grad_() for k in wanted}
    outs = op(**{**arguments, **leaves})
    total = sum((out * w.to(out)).sum() for out, w in zip(outs, weights, strict=True))
    return list(torch.autograd.grad(total, list(leaves.values())))


def assert_gradients_close(
    actual: list[Tensor], expected: list[Tensor], tau: Tensor, weights: list[Tensor], terms: int = 1
) -> None:
    """`terms`: how many samples of how many pairs a gradient to a feature sums."""
    for got, want in zip(actual[:-1], expected[:-1], strict=True):
        assert_close(got, want, slack=2 * max(1, terms) ** 0.5)
    # grad_tau sums n * features terms that cancel, and is of size 1 / tau
    tau = tau.double()
    magnitude = (3 * len(weights[0][0].flatten()) + 1) ** 0.5 if len(tau) else 1.0
    assert_close((actual[-1].double() * tau).to(actual[-1].dtype), expected[-1] * tau, slack=magnitude)


@pytest.mark.parametrize("name", MIXES)
def test_beta_mix_gradient(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = cast(MIXES[name](generator(name)), dtype, device)
    weights = weights_like(*lada_ext.beta_mix(**arguments))
    wanted = ["a", "b", "tau"]
    actual = gradients_of_sums(lada_ext.beta_mix, arguments, weights, wanted)
    exact = partial(reference.beta_mix, bits=bits_of(dtype))
    expected = gradients_of_sums(exact, as_double(arguments), weights, wanted)
    assert_gradients_close(actual, expected, arguments["tau"], weights, terms=arguments["n"])
    alone = gradients_of_sums(lada_ext.beta_mix, arguments, weights, ["tau"])
    assert_close(alone[0], actual[2].double(), slack=50)  # another kernel, the same sums


@pytest.mark.parametrize("name", MIXED_PAIRS)
def test_beta_mix_pairs_gradient(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = cast(MIXED_PAIRS[name](generator(name)), dtype, device)
    weights = weights_like(*lada_ext.beta_mix_pairs(**arguments))
    wanted = ["h", "tau"]
    actual = gradients_of_sums(lada_ext.beta_mix_pairs, arguments, weights, wanted)
    exact = partial(reference.beta_mix_pairs, bits=bits_of(dtype))
    expected = gradients_of_sums(exact, as_double(arguments), weights, wanted)
    terms = arguments["n"] * len(arguments["pairs"])
    assert_gradients_close(actual, expected, arguments["tau"], weights, terms=terms)
    again = gradients_of_sums(lada_ext.beta_mix_pairs, arguments, weights, wanted)
    assert all(map(torch.equal, actual, again))


@pytest.mark.parametrize("name", ["odd", "one_pair", "several_samples", "many_samples", "no_samples", "no_pairs"])
def test_beta_sample_gradient(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = cast(MIXES[name](generator(name)), dtype, device)
    tau, *rest = (arguments[k] for k in ("tau", "n", "key", "index"))
    given, exact = tau.detach().requires_grad_(), tau.detach().double().requires_grad_()
    lam, expected = lada_ext.beta_sample(given, *rest), reference.beta_sample(exact, *rest, bits=bits_of(dtype))
    (weight,) = weights_like(expected)
    actual = torch.autograd.grad((lam * weight).sum(), given)
    wanted = torch.autograd.grad((expected * weight).sum(), exact)
    assert_gradients_close(list(actual), list(wanted), tau, [weight])


@pytest.mark.parametrize("name", ["odd", "large_tau", "small_tau"])
@pytest.mark.parametrize("grad", ["implicit", "pathwise"])
@pytest.mark.parametrize("log_tau", [False, True])
def test_options(name: str, grad: str, log_tau: bool, dtype: torch.dtype, device: str) -> None:
    """The same draws whatever the gradient, and tau given by its logarithm."""
    arguments = cast(MIXES[name](generator(name)), dtype, device)
    plain_mixed, plain_lam = lada_ext.beta_mix(**arguments)
    weights = weights_like(plain_mixed, plain_lam)
    if log_tau:
        arguments["tau"] = arguments["tau"].double().log().to(dtype)
    options = {"grad": grad, "log_tau": log_tau}
    mixed, lam = lada_ext.beta_mix(**arguments, **options)
    if log_tau:  # what rounding log tau to its dtype does to tau is not an error
        exact_mixed, exact_lam = reference.beta_mix(**as_double(arguments), **options, bits=bits_of(dtype))
        assert_close(mixed, exact_mixed, slack=2)
        assert_close(lam, exact_lam, slack=2)
    else:
        assert torch.equal(mixed, plain_mixed)
        assert torch.equal(lam, plain_lam)
    actual = gradients_of_sums(partial(lada_ext.beta_mix, **options), arguments, weights, ["tau"])
    exact = partial(reference.beta_mix, **options, bits=bits_of(dtype))
    expected = gradients_of_sums(exact, as_double(arguments), weights, ["tau"])
    scale = torch.ones_like(arguments["tau"]) if log_tau else arguments["tau"]
    assert_gradients_close(actual, expected, scale, weights)
    lam_alone = lada_ext.beta_sample(*(arguments[k] for k in ("tau", "n", "key", "index")), **options)
    assert torch.equal(lam_alone, lam)


@pytest.mark.parametrize("wanted", ["a", "b", "tau"])
def test_only_the_needed_gradient_is_computed(wanted: str, device: str) -> None:
    arguments = cast(MIXES["odd"](generator("odd")), torch.float64, device)
    weights = weights_like(*lada_ext.beta_mix(**arguments))
    every = gradients_of_sums(lada_ext.beta_mix, arguments, weights, ["a", "b", "tau"])
    only = gradients_of_sums(lada_ext.beta_mix, arguments, weights, [wanted])
    assert_close(only[0], every[["a", "b", "tau"].index(wanted)])


@pytest.mark.parametrize("op", ["beta_mix", "beta_mix_pairs"])
def test_frozen_features_get_no_gradient_tensor(op: str) -> None:
    """Policy learning: with tau alone, the backward op neither computes nor allocates what is of the features' size."""
    samples = MIXES if op == "beta_mix" else MIXED_PAIRS
    arguments = cast(samples["packets_of_a_block"](generator("frozen")), torch.float32, "cpu")
    arguments["tau"].requires_grad_()
    mixed, _ = getattr(lada_ext, op)(**arguments)
    grad = torch.ones_like(mixed)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        torch.autograd.grad(mixed, arguments["tau"], grad)
    assert max(event.cpu_memory_usage for event in profile.events()) < 1024


@pytest.mark.parametrize("op", ["beta_mix", "beta_mix_pairs"])
def test_memory_is_that_of_the_results(op: str) -> None:
    """Forward, and backward to everything, with at most 1% more: no gathered rows, no expanded lam."""
    samples = MIXES if op == "beta_mix" else MIXED_PAIRS
    arguments = cast(samples["slices"](generator("memory")), torch.float32, "cpu")
    leaves = {k: arguments[k].requires_grad_() for k in ("a", "b", "h", "tau") if k in arguments}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as forward:
        mixed, lam = getattr(lada_ext, op)(**arguments)
    grad = torch.ones_like(mixed)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as backward:
        torch.autograd.grad(mixed, list(leaves.values()), grad)
    for profile, results in ((forward, (mixed, lam)), (backward, leaves.values())):
        allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
        assert allocated <= 1.01 * sum(t.nbytes for t in results)


def test_gradient_of_lam_alone(device: str) -> None:
    for samples, op, ends in ((MIXES, "beta_mix", ["a", "b"]), (MIXED_PAIRS, "beta_mix_pairs", ["h"])):
        arguments = cast(samples["odd"](generator("odd")), torch.float64, device)
        leaves = {k: arguments[k].detach().requires_grad_() for k in [*ends, "tau"]}
        _, lam = getattr(lada_ext, op)(**{**arguments, **leaves})
        *of_features, of_tau = torch.autograd.grad(lam.sum(), list(leaves.values()))
        tau = arguments["tau"].clone().requires_grad_()
        lada_ext.beta_sample(tau, *(arguments[k] for k in ("n", "key", "index"))).sum().backward()
        assert_close(of_tau, tau.grad)
        assert all(torch.equal(g, torch.zeros_like(g)) for g in of_features)


def test_channels_last_is_kept(device: str) -> None:
    a, b = torch.randn(2, 4, 3, 6, 5).to(device)
    a = a.to(memory_format=torch.channels_last).requires_grad_()
    mixed, _ = lada_ext.beta_mix(a, b, 0.5, 2, lada_ext.make_key(1, device))
    assert mixed.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    mixed.square().sum().backward()
    assert a.grad is not None
    assert a.grad.is_contiguous(memory_format=torch.channels_last)
    plain, _ = lada_ext.beta_mix(a.detach().contiguous(), b, 0.5, 2, lada_ext.make_key(1, device))
    assert torch.equal(mixed, plain)


@pytest.mark.parametrize("name", ["odd", "channels_last", "packets_of_a_block"])
def test_out(name: str, device: str) -> None:
    for samples, op in ((MIXES, lada_ext.beta_mix), (MIXED_PAIRS, lada_ext.beta_mix_pairs)):
        arguments = cast(samples[name](generator(name)), torch.float32, device)
        mixed, lam = op(**arguments)
        out = torch.empty_like(mixed).fill_(torch.nan), torch.empty_like(lam)
        returned = op(**arguments, out=out)
        assert returned[0] is out[0]
        assert torch.equal(out[0], mixed)
        assert torch.equal(out[1], lam)


def test_what_out_overwrites_is_missed_by_whoever_needs_it(device: str) -> None:
    arguments = cast(MIXES["odd"](generator("odd")), torch.float32, device)
    for op, given in (
        (lada_ext.beta_mix, arguments),
        (lada_ext.beta_mix_pairs, cast(MIXED_PAIRS["odd"](generator("odd")), torch.float32, device)),
    ):
        mixed, lam = op(**given)
        weight = torch.ones_like(mixed, requires_grad=True)
        result = (mixed * weight).sum()
        op(**given, out=(mixed, lam))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.backward()


def test_tau_may_be_a_number_a_scalar_or_a_column(device: str) -> None:
    arguments = cast(MIXES["small_tau"](generator("t")), torch.float32, device)
    tau = arguments.pop("tau")
    expected, lam = lada_ext.beta_mix(**arguments, tau=tau)
    for given in (float(tau[0]), tau[0], tau[:, None]):
        assert torch.equal(lada_ext.beta_mix(**arguments, tau=given)[0], expected)
        rest = (arguments[k] for k in ("n", "key", "index"))
        assert torch.equal(lada_ext.beta_sample(given, *rest), lam)
    number = lada_ext.beta_sample(0.5, 3, arguments["key"])
    assert torch.equal(number, lada_ext.beta_sample(torch.tensor([0.5], device=device), 3, arguments["key"]))


def test_a_draw_depends_on_key_index_and_sample_alone(device: str) -> None:
    """Batch split, order, number of samples and threads change nothing, bit for bit."""
    tau = torch.rand(700, generator=generator("tau")).to(device) + 0.01
    key, index = lada_ext.make_key(3, device), torch.arange(700, device=device) * 7919
    whole = lada_ext.beta_sample(tau, 20, key, index)
    order = torch.randperm(700, generator=generator("order")).to(device)
    assert torch.equal(lada_ext.beta_sample(tau[order], 20, key, index[order]), whole[order])
    assert torch.equal(lada_ext.beta_sample(tau[13:40], 4, key, index[13:40]), whole[13:40, :4])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(lada_ext.beta_sample(tau, 20, key, index), whole)
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(lada_ext.beta_sample(tau, 20, lada_ext.make_key(4, device), index), whole)
    assert not torch.equal(lada_ext.beta_sample(tau, 20, torch.tensor([3, 1], device=device), index), whole)


def test_features_of_a_pair_do_not_depend_on_the_batch(device: str) -> None:
    """Forward and backward, bit for bit, in whatever part of a batch and with however many threads."""
    arguments = cast(MIXES["many_pairs"](generator("batch")), torch.float32, device)
    weights = weights_like(*lada_ext.beta_mix(**arguments))
    wanted = ["a", "b", "tau"]
    whole = [*lada_ext.beta_mix(**arguments), *gradients_of_sums(lada_ext.beta_mix, arguments, weights, wanted)]
    for part in (slice(3, 4), slice(5, 31)):
        of_part = {k: v[part] if k in {"a", "b", "tau", "index"} else v for k, v in arguments.items()}
        grads = gradients_of_sums(lada_ext.beta_mix, of_part, [w[part] for w in weights], wanted)
        for got, want in zip([*lada_ext.beta_mix(**of_part), *grads], whole, strict=True):
            assert torch.equal(got, want[part])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        again = [*lada_ext.beta_mix(**arguments), *gradients_of_sums(lada_ext.beta_mix, arguments, weights, wanted)]
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, again, whole))


@pytest.mark.parametrize("first", [10**9, 2**31 - 2, 2**32 - 3, 2**62, -(2**63)])
def test_draws_far_into_a_pool(first: int, device: str) -> None:
    """The pairs of a pool of billions: index names them, nobody has to hold the pool."""
    index = torch.tensor([first + i for i in range(6)], device=device)
    tau = torch.full((6,), 0.7, device=device)
    key = lada_ext.make_key(8, device)
    lam = lada_ext.beta_sample(tau, 3, key, index)
    assert_close(lam, reference.beta_sample(tau.double(), 3, key, index, bits=32))
    assert len(lam.unique()) == lam.numel()


def test_float32_and_float64_draw_the_same_numbers(device: str) -> None:
    tau = 10 ** (4 * torch.rand(2000, generator=generator("streams"), dtype=torch.float64) - 2)
    tau = tau.float().to(device)
    key = lada_ext.make_key(4, device)
    single, double = (lada_ext.beta_sample(tau.to(t), 5, key) for t in (torch.float32, torch.float64))
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-4)  # 32 bits of a uniform, or 64
    assert (single.double() - double).abs().median() < 1e-7


def test_key_selects_the_philox_of_the_literature() -> None:
    """Philox4x32-10 known answers of the Random123 distribution, through the reference that the ops agree with."""
    zeros = [torch.tensor(0)] * 4
    words = reference.philox(torch.tensor([0, 0]), zeros)
    assert [int(w) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = [torch.tensor(0xFFFFFFFF)] * 4
    words = reference.philox(torch.tensor([-1, 0]), ones)
    assert [int(w) for w in words] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def kolmogorov_smirnov(tau: float, lam: Tensor) -> float:
    """p-value against Beta(tau, tau), on a grid: for small tau most draws round to 0 or 1, where the CDF has atoms."""
    stats = pytest.importorskip("scipy.stats")
    tails = 10.0 ** -np.linspace(0.31, 36, 400)
    grid = np.unique(
        np.concatenate([tails, 1 - tails[tails > 1e-6], stats.beta.ppf(np.linspace(0.01, 0.99, 99), tau, tau)])
    )
    grid = grid[(grid >= tails.min()) & (grid < 1 - 1e-6)]
    below = torch.searchsorted(lam.double().sort().values, torch.from_numpy(grid), right=True).numpy() / len(lam)
    distance = np.abs(below - stats.beta.cdf(grid, tau, tau)).max()
    return float(stats.kstwobign.sf(distance * math.sqrt(len(lam))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", TAUS)
def test_draws_follow_the_beta_distribution(tau: float, dtype: torch.dtype) -> None:
    lam = draws(tau, dtype=dtype).double()
    assert kolmogorov_smirnov(tau, lam) > 1e-4
    spread = 4 * lam * (1 - lam)
    moments = {
        "4 lam mu": (spread, 2 * tau / (2 * tau + 1)),
        "(2 lam - 1)^4": ((2 * lam - 1) ** 4, 3 / ((2 * tau + 1) * (2 * tau + 3))),
        "sign": ((lam > 0.5).double(), 0.5),
    }
    for name, (values, exact) in moments.items():
        z = (values.mean() - exact) / (values.std() / math.sqrt(DRAWS))
        assert abs(z) < 5, (name, z)


def test_small_tau_does_not_collapse_to_one_half() -> None:
    """torch.distributions.Beta returns exactly 0.5 for a quarter of its draws at tau = 1e-3."""
    lam = torch.cat([draws(1e-3, seed) for seed in range(5)])
    inside = ((lam > 0.4) & (lam < 0.6)).double().mean()
    assert inside == pytest.approx(4.05e-4, abs=1e-4)


@pytest.mark.parametrize("grad", ["implicit", "pathwise"])
@pytest.mark.parametrize("tau", TAUS)
def test_gradient_of_an_expectation(tau: float, grad: str) -> None:
    """d/dtau E[4 lam (1 - lam)] = 2 / (2 tau + 1)^2, for both kinds of gradient, whose means therefore agree."""
    taus = torch.full((200,), tau, dtype=torch.float64, requires_grad=True)
    lam = lada_ext.beta_sample(taus, 1000, lada_ext.make_key(1), grad=grad)
    (4 * lam * (1 - lam)).mean(1).sum().backward()
    assert taus.grad is not None
    z = (taus.grad.mean() - 2 / (2 * tau + 1) ** 2) / (taus.grad.std() / math.sqrt(200))
    assert abs(z) < 5


def reference_table() -> list[dict[str, str]]:
    path = Path(__file__).parent / "beta_grad_reference.csv"
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_logit_gradient_against_the_table(dtype: torch.dtype, tolerance: float, device: str) -> None:
    """Values of mpmath in 40 digits, relative error without a floor."""
    rows = reference_table()
    x, tau, exact = (
        torch.tensor([float(row[column]) for row in rows], dtype=torch.float64)
        for column in ("logit_f32exact", "tau_f32exact", "dlogit_dtau")
    )
    actual = lada_ext.beta_logit_grad(x.to(device, dtype), tau.to(device, dtype)).double().cpu()
    assert torch.all((actual - exact).abs() <= tolerance * exact.abs())
    assert torch.all(actual[x == 0] == 0)
    mirrored = lada_ext.beta_logit_grad(-x.to(device, dtype), tau.to(device, dtype)).double().cpu()
    assert torch.equal(mirrored, -actual)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_logit_gradient_against_quadrature(dtype: torch.dtype, tolerance: float, device: str) -> None:
    """The reference integrates; the op evaluates polynomials and a series. They share no formula."""
    g = generator("quadrature")
    tau = (10 ** (10 * torch.rand(4000, generator=g, dtype=torch.float64) - 5)).to(dtype)
    spread = torch.maximum(1 / tau, tau**-0.5)
    x = (torch.randn(4000, generator=g, dtype=torch.float64) * spread.double()).to(dtype)
    actual = lada_ext.beta_logit_grad(x.to(device), tau.to(device)).double().cpu()
    exact = reference.beta_logit_grad(x, tau)
    assert torch.all((actual - exact).abs() <= tolerance * exact.abs())


def test_logit_gradient_far_from_where_a_large_tau_draws(device: str) -> None:
    """There it is nearly -2 log cosh(x/2) / (tau tanh(x/2)): the end of its integral at x, by Laplace's method."""
    x, tau = torch.meshgrid(torch.tensor([0.5, 1.0, 4.0, 30.0]), 10 ** torch.arange(6.0, 21, 2), indexing="ij")
    x, tau = x.double(), tau.double()
    exact = reference.beta_logit_grad(x, tau)
    limit = -2 * torch.log(torch.cosh(x / 2)) / (tau * torch.tanh(x / 2))
    assert torch.all((exact - limit).abs() <= 30 / tau.clamp(max=1e13) * limit.abs())
    actual = lada_ext.beta_logit_grad(x.to(device), tau.to(device)).cpu()
    assert torch.all((actual - exact).abs() <= 1e-10 * exact.abs())


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logit_gradient_is_finite_everywhere(dtype: torch.dtype, device: str) -> None:
    limits = torch.finfo(dtype)
    exponents = torch.linspace(math.log(limits.tiny) - 10, math.log(limits.max) - 0.01, 300, dtype=torch.float64)
    positive = exponents.exp().to(dtype)
    positive = positive[positive > 0]
    x = torch.cat([-positive, torch.zeros(1, dtype=dtype), positive])
    grid_x, grid_tau = (t.to(device) for t in torch.meshgrid(x, positive, indexing="ij"))
    gradient = lada_ext.beta_logit_grad(grid_x, grid_tau)
    assert torch.isfinite(gradient).all()
    assert torch.all(gradient[grid_x == 0] == 0)


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_are_finite_for_every_tau(dtype: torch.dtype, device: str) -> None:
    limits = torch.finfo(dtype)
    exponents = torch.linspace(math.log(limits.tiny), math.log(limits.max) - 0.01, 500, dtype=torch.float64)
    taus = exponents.exp().to(device, dtype)
    for grad, log_tau in (("implicit", False), ("pathwise", False), ("implicit", True)):
        given = (taus.log() if log_tau else taus).clone().requires_grad_()
        lam = lada_ext.beta_sample(given, 400, lada_ext.make_key(9, device), grad=grad, log_tau=log_tau)
        lam.sum().backward()
        assert given.grad is not None
        assert torch.isfinite(lam).all()
        assert torch.isfinite(given.grad).all()
        assert ((lam >= 0) & (lam <= 1)).all()


def test_infinite_tau_is_one_half(device: str) -> None:
    tau = torch.tensor([math.inf], device=device, requires_grad=True)
    lam = lada_ext.beta_sample(tau, 3, lada_ext.make_key(0, device))
    lam.sum().backward()
    assert lam.tolist() == [[0.5] * 3]
    assert tau.grad is not None
    assert tau.grad.item() == 0


def test_tables_are_those_of_the_generator() -> None:
    script = ROOT / "csrc" / "beta_mix" / "generate_tables.py"
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert made == (script.parent / "tables.h").read_text()


def test_errors_name_the_argument() -> None:
    key, tau = lada_ext.make_key(0), torch.ones(3)
    a = torch.zeros(3, 4)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"beta_sample: tau must be positive, got tau\[1\] = "):
            lada_ext.beta_sample(torch.tensor([1.0, bad, 1.0]), 2, key)
        with pytest.raises(ValueError, match=r"beta_logit_grad: tau must be positive, got tau\[0\] = "):
            lada_ext.beta_logit_grad(torch.ones(1), torch.tensor([bad]))
    with pytest.raises(ValueError, match=r"beta_mix: tau must be positive, got tau\[0\] = -2"):
        lada_ext.beta_mix(a, a, -2.0, 2, key)
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        lada_ext.beta_sample(tau, -1, key)
    with pytest.raises(ValueError, match=r"tau must have shape \(P,\), got \[3, 2\]"):
        lada_ext.beta_sample(tau[:, None].expand(3, 2), 2, key)
    with pytest.raises(TypeError, match="tau must have dtype float64.*got Long"):
        lada_ext.beta_sample(torch.ones(3, dtype=torch.long), 2, key)
    with pytest.raises(TypeError, match="key must have dtype int64, got Float"):
        lada_ext.beta_sample(tau, 2, torch.ones(2))
    with pytest.raises(ValueError, match=r"key must have shape \[2\], got \[3\]"):
        lada_ext.beta_sample(tau, 2, torch.ones(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"index must have shape \[3\], got \[2\]"):
        lada_ext.beta_sample(tau, 2, key, torch.arange(2))
    with pytest.raises(ValueError, match=r"beta_mix: b must have shape \[3, 4\], got \[3, 5\]"):
        lada_ext.beta_mix(a, torch.zeros(3, 5), tau, 2, key)
    with pytest.raises(TypeError, match="beta_mix: b must have the dtype of a"):
        lada_ext.beta_mix(a, a.double(), tau, 2, key)
    with pytest.raises(ValueError, match=r"beta_mix: tau must have shape \[3\], got \[4\]"):
        lada_ext.beta_mix(a, a, torch.ones(4), 2, key)
    with pytest.raises(ValueError, match=r"a must have shape \(P, \.\.\.\)"):
        lada_ext.beta_mix(torch.tensor(1.0), torch.tensor(1.0), torch.ones(1), 2, key)


def test_errors_of_options_and_pairs() -> None:
    key, h, pairs = lada_ext.make_key(0), torch.zeros(5, 4), torch.tensor([[0, 1], [2, 4]])
    with pytest.raises(ValueError, match="beta_sample: grad must be 'implicit' or 'pathwise', got 'exact'"):
        lada_ext.beta_sample(0.5, 2, key, grad="exact")  # type: ignore[arg-type]
    for bad in (-math.inf, math.nan):
        with pytest.raises(ValueError, match=r"beta_mix_pairs: log tau must be above -inf, got tau\[0\] = "):
            lada_ext.beta_mix_pairs(h, pairs, bad, 2, key, log_tau=True)
    for bad_row in (-1, 5):
        with pytest.raises(ValueError, match=rf"pairs must lie in \[0, 5\), got pairs\[1, 0\] = {bad_row}"):
            lada_ext.beta_mix_pairs(h, torch.tensor([[0, 1], [bad_row, 4]]), 1.0, 2, key)
    with pytest.raises(ValueError, match=r"pairs must have shape \(P, 2\), got \[4\]"):
        lada_ext.beta_mix_pairs(h, pairs.flatten(), 1.0, 2, key)
    with pytest.raises(TypeError, match="pairs must have dtype int64, got Int"):
        lada_ext.beta_mix_pairs(h, pairs.int(), 1.0, 2, key)
    with pytest.raises(ValueError, match=r"beta_mix_pairs: tau must have shape \[2\], got \[3\]"):
        lada_ext.beta_mix_pairs(h, pairs, torch.ones(3), 2, key)
    mixed, lam = lada_ext.beta_mix_pairs(h, pairs, 1.0, 2, key)
    with pytest.raises(ValueError, match=r"beta_mix_pairs: mixed must have shape \[2, 2, 4\], got \[2, 3, 4\]"):
        lada_ext.beta_mix_pairs(h, pairs, 1.0, 2, key, out=(torch.empty(2, 3, 4), lam))
    with pytest.raises(ValueError, match=r"mixed must have strides \[8, 4, 1\], got \[1, 8, 2\]"):
        lada_ext.beta_mix_pairs(h, pairs, 1.0, 2, key, out=(torch.empty(2, 4, 2).permute(2, 0, 1).mT.mT, lam))
    with pytest.raises(TypeError, match="lam must have dtype Float, got Double"):
        lada_ext.beta_mix_pairs(h, pairs, 1.0, 2, key, out=(mixed, lam.double()))
    with pytest.raises(RuntimeError, match="is not implemented|out=|does not require grad"):
        lada_ext.beta_mix_pairs(h.requires_grad_(), pairs, 1.0, 2, key, out=(mixed, lam))[0].sum().backward()


def test_out_must_be_a_pair_of_tensors() -> None:
    h, pairs, key = torch.rand(4, 3), torch.tensor([[0, 1]]), lada_ext.make_key(1)
    mixed, lam = torch.empty(4, 2, 3), torch.empty(4, 2)
    for out, message in [
        (mixed, r"out must be a pair of tensors, \(mixed, lam\), got Tensor"),
        ((mixed,), r"out must be a pair of tensors, \(mixed, lam\), got tuple of 1"),
        ((mixed, None), "lam of out must be a tensor, got NoneType"),
    ]:
        with pytest.raises(TypeError, match=f"beta_mix: {message}"):
            lada_ext.beta_mix(h, h, 1.0, 2, key, out=out)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"beta_mix_pairs: {message}"):
            lada_ext.beta_mix_pairs(h, pairs, 1.0, 2, key, out=out)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta_mix: grad must be 'implicit' or 'pathwise', got 'exact'"):
        lada_ext.beta_mix(h, h, 1.0, 2, key, out=(mixed, lam), grad="exact")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mixed", "lam"])
def test_out_with_a_history_is_refused(name: str) -> None:
    h, key = torch.rand(4, 3), lada_ext.make_key(1)
    out = dict(zip(("mixed", "lam"), lada_ext.beta_mix(h, h, 1.0, 2, key), strict=True))
    for made in (out[name].clone().requires_grad_(), out[name].clone().requires_grad_() * 2):
        given = {**out, name: made}
        with pytest.raises(RuntimeError, match=f"beta_mix: out must not require grad, got {name} that does"):
            lada_ext.beta_mix(h, h, 1.0, 2, key, out=(given["mixed"], given["lam"]))
        with torch.no_grad():
            lada_ext.beta_mix(h, h, 1.0, 2, key, out=(given["mixed"], given["lam"]))


def test_out_around_rows_that_lie_apart_is_refused() -> None:
    memory, key = torch.zeros(2, 2, 3), lada_ext.make_key(1)
    a, b = memory[:, 0], torch.rand(2, 3)
    with pytest.raises(RuntimeError, match="beta_mix: out must not lie in memory of the features or of tau"):
        lada_ext.beta_mix(a, b, 1.0, 2, key, out=(memory, torch.empty(2, 2)))


@pytest.mark.parametrize("pair", [[5, 0], [0, -1], [3, 1]])
@pytest.mark.parametrize("mapped", [True, False])
def test_vmap_mixes_no_rows_of_other_maps(pair: list[int], mapped: bool) -> None:
    h, key = torch.rand(2, 3, 4), lada_ext.make_key(1)
    pairs = torch.tensor([[[0, 1]], [pair]]).flip(0) if mapped else torch.tensor([pair])
    mix = torch.vmap(lambda h, pairs: lada_ext.beta_mix_pairs(h, pairs, 1.0, 2, key), (0, 0 if mapped else None))
    with pytest.raises(ValueError, match="pairs must lie in"):
        mix(h, pairs)


class TestFixedTau:
    """The gradients to the features are made of lam alone, so the features are not kept for them."""

    @pytest.mark.parametrize("name", MIXES)
    def test_gradient_to_features(self, name: str, dtype: torch.dtype, device: str) -> None:
        arguments = cast(MIXES[name](generator(name)), dtype, device)
        weights = weights_like(*lada_ext.beta_mix(**arguments))[:1]
        mix = lambda **rest: lada_ext.beta_mix(**rest)[:1]  # noqa: E731
        actual = gradients_of_sums(mix, arguments, weights, ["a", "b"])
        expected = gradients_of_sums(mix, arguments, weights, ["a", "b", "tau"])
        for got, want in zip(actual, expected[:2], strict=True):
            assert torch.equal(got, want)
            assert got.stride() == want.stride()

    @pytest.mark.parametrize("name", MIXED_PAIRS)
    def test_gradient_to_rows(self, name: str, dtype: torch.dtype, device: str) -> None:
        arguments = cast(MIXED_PAIRS[name](generator(name)), dtype, device)
        weights = weights_like(*lada_ext.beta_mix_pairs(**arguments))[:1]
        mix = lambda **rest: lada_ext.beta_mix_pairs(**rest)[:1]  # noqa: E731
        (actual,) = gradients_of_sums(mix, arguments, weights, ["h"])
        expected, _ = gradients_of_sums(mix, arguments, weights, ["h", "tau"])
        assert torch.equal(actual, expected)
        assert actual.stride() == expected.stride()

    def test_features_may_be_written_over(self) -> None:
        key, pairs = lada_ext.make_key(1), torch.tensor([[0, 1], [1, 1], [2, 0]])
        leaf = torch.rand(4, 3, requires_grad=True)
        for mix in (
            lambda h: lada_ext.beta_mix(h, h.flip(0), 0.5, 2, key)[0],
            lambda h: lada_ext.beta_mix_pairs(h, pairs, 0.5, 2, key)[0],
        ):
            (expected,) = torch.autograd.grad(mix(leaf * 1).sum(), leaf)
            h = leaf * 1
            mixed = mix(h)
            h.mul_(2)
            (actual,) = torch.autograd.grad(mixed.sum(), leaf)
            assert torch.equal(actual, expected)

    def test_features_are_not_kept(self) -> None:
        leaf, key = torch.rand(4, 3, requires_grad=True), lada_ext.make_key(1)
        h = leaf * 1
        alive = weakref.ref(h.untyped_storage())
        mixed, _ = lada_ext.beta_mix_pairs(h, torch.tensor([[0, 1]]), 0.5, 2, key)
        del h
        assert alive() is None
        mixed.sum().backward()

    def test_errors_of_the_backward_ops(self) -> None:
        ops, tau, key = torch.ops.lada_ext, torch.ones(2), lada_ext.make_key(1)
        a, grad, pairs = torch.rand(2, 3), torch.rand(2, 4, 3), torch.tensor([[0, 1], [1, 5]])
        rest = (key, None, "implicit", False)
        with pytest.raises(ValueError, match="give both of a and b, or neither"):
            ops.beta_mix_backward(grad, None, a, None, tau, *rest, [True, True, False])
        with pytest.raises(ValueError, match="neither if the gradient to tau is not needed"):
            ops.beta_mix_backward(grad, None, None, None, tau, *rest, [True, True, True])
        with pytest.raises(ValueError, match="grad_mixed must not be None where the features are"):
            ops.beta_mix_backward(None, grad[..., 0], None, None, tau, *rest, [True, True, False])
        with pytest.raises(ValueError, match=r"rows of shape \[2, 3\] have no channels to come last"):
            ops.beta_mix_backward(grad, None, None, None, tau, *rest, [True, True, False], True)
        with pytest.raises(ValueError, match="h must not be None if the gradient to tau is needed"):
            ops.beta_mix_pairs_backward(grad, None, None, pairs, tau, *rest, [True, True], 6)
        with pytest.raises(ValueError, match=r"pairs must lie in \[0, 5\), got pairs\[1, 1\] = 5"):
            ops.beta_mix_pairs_backward(grad, None, None, pairs, tau, *rest, [True, False], 5)


def test_second_derivatives_are_refused() -> None:
    tau = torch.ones(3, requires_grad=True)
    lam = lada_ext.beta_sample(tau, 2, lada_ext.make_key(0))
    (grad,) = torch.autograd.grad(lam.sum(), tau, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for lada_ext::beta_sample_backward is not implemented"):
        grad.sum().backward()


@pytest.mark.parametrize("mapped", ["a", "tau", "key", "all"])
def test_vmap_is_a_loop(mapped: str) -> None:
    g = generator("vmap")
    a, b, tau = torch.randn(4, 3, 5, generator=g), torch.randn(3, 5, generator=g), torch.rand(4, 3, generator=g) + 0.1
    keys = torch.stack([lada_ext.make_key(i) for i in range(4)])
    dims = {"a": (0, None, None), "tau": (None, 0, None), "key": (None, None, 0), "all": (0, 0, 0)}[mapped]
    arguments = [t if d == 0 else t[0] for t, d in zip((a, tau, keys), dims, strict=True)]
    pairs = torch.tensor([[0, 2], [1, 1], [2, 0]])
    functions = [
        lambda a, tau, key: lada_ext.beta_mix(a, b, tau, 2, key),
        lambda a, tau, key: lada_ext.beta_mix_pairs(a, pairs, tau, 2, key),
        lambda a, tau, key: (lada_ext.beta_sample(tau, 2, key), a.sum()),
    ]
    for function in functions:
        actual = torch.vmap(function, dims)(*arguments)
        loop = [function(*(v[i] if d == 0 else v for v, d in zip(arguments, dims, strict=True))) for i in range(4)]
        for got, want in zip(actual, map(torch.stack, zip(*loop, strict=True)), strict=True):
            torch.testing.assert_close(got, want.expand_as(got), rtol=0, atol=0)


def test_vmap_over_nothing() -> None:
    h, tau, key, pairs = torch.rand(3, 5), torch.rand(3), lada_ext.make_key(1), torch.tensor([[0, 1], [2, 0]])
    no_keys = torch.zeros(0, 2, dtype=torch.int64)
    assert torch.vmap(lambda t: lada_ext.beta_sample(t, 4, key))(torch.rand(0, 3)).shape == (0, 3, 4)
    assert torch.vmap(lambda k: lada_ext.beta_sample(tau, 4, k))(no_keys).shape == (0, 3, 4)
    for k in (key, no_keys):
        mapped = (0, None) if k is key else (None, 0)
        maps = torch.rand(0, 3, 5) if k is key else h
        mixed, lam = torch.vmap(lambda h, k: lada_ext.beta_mix(h, h, tau, 4, k), mapped)(maps, k)
        assert (mixed.shape, lam.shape) == ((0, 3, 4, 5), (0, 3, 4))
        mixed, lam = torch.vmap(lambda h, k: lada_ext.beta_mix_pairs(h, pairs, tau[:2], 4, k), mapped)(maps, k)
        assert (mixed.shape, lam.shape) == ((0, 2, 4, 5), (0, 2, 4))


def test_out_tensors_may_not_overlap() -> None:
    h, memory = torch.rand(4, 3), torch.empty(24)
    with pytest.raises(RuntimeError, match="the two tensors of out must not overlap"):
        lada_ext.beta_mix(h, h, 0.4, 2, lada_ext.make_key(1), out=(memory.view(4, 2, 3), memory[:8].view(4, 2)))


def test_ends_and_keys_that_are_no_tensors_are_named() -> None:
    h, key = torch.rand(4, 3, requires_grad=True), lada_ext.make_key(1)
    for call, message in (
        (lambda: lada_ext.beta_mix(h, None, 0.4, 2, key), "beta_mix: b must be a tensor, got None"),
        (lambda: lada_ext.beta_mix(h, h, None, 2, key), "beta_mix: tau must be a tensor or a number, got NoneType"),
        (lambda: lada_ext.beta_mix(h, h, np.ones(4), 2, key), "tau must be a tensor or a number, got ndarray"),
        (lambda: lada_ext.beta_sample(1j, 2, key), "beta_sample: tau must be a tensor or a number, got complex"),
        (lambda: lada_ext.beta_sample("1", 2, key), "beta_sample: tau must be a tensor or a number, got str"),
        (lambda: lada_ext.beta_mix(h, h, 0.4, 2, None), "beta_mix: key must be a tensor, got NoneType"),
        (lambda: lada_ext.beta_mix_pairs(h, None, 0.4, 2, key), "beta_mix_pairs: pairs must be a tensor, got NoneType"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_the_reference_has_no_second_derivative_to_tau() -> None:
    """It would be another number than the derivative of the first one."""
    tau = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    for grad in ("implicit", "pathwise"):
        lam = reference.beta_sample(tau, 1, lada_ext.make_key(1), grad=grad)
        (first,) = torch.autograd.grad(lam.sum(), tau, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.sum().backward()


def test_gradient_through_vmap() -> None:
    a, b = torch.randn(2, 4, 3, 5, generator=generator("vmap"))
    tau, key = torch.rand(4, 3, generator=generator("tau")) + 0.1, lada_ext.make_key(2)
    mapped, looped = ([t.clone().requires_grad_() for t in (a, b, tau)] for _ in range(2))
    torch.vmap(lambda a, b, tau: lada_ext.beta_mix(a, b, tau, 2, key)[0])(*mapped).square().sum().backward()
    for one in zip(*looped, strict=True):
        lada_ext.beta_mix(*one, 2, key)[0].square().sum().backward()
    for got, want in zip(mapped, looped, strict=True):
        torch.testing.assert_close(got.grad, want.grad)


def test_autocast_takes_the_wider_dtype() -> None:
    a, b, key = torch.randn(3, 4), torch.randn(3, 4).bfloat16(), lada_ext.make_key(0)
    with pytest.raises(TypeError, match="b must have the dtype of a"):
        lada_ext.beta_mix(a, b, 1.0, 2, key)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, lam = lada_ext.beta_mix(a, b, 1.0, 2, key)
        assert lada_ext.beta_mix(b, b, 1.0, 2, key)[0].dtype == torch.bfloat16
    expected, _ = lada_ext.beta_mix(a, b.float(), 1.0, 2, key)
    assert mixed.dtype == lam.dtype == torch.float32
    assert torch.equal(mixed, expected)


def test_autocast_computes_nothing_of_integers() -> None:
    whole, h, key = torch.ones(3, 4, dtype=torch.int64), torch.rand(3, 4), lada_ext.make_key(0)
    lam, floating = torch.rand(3, 2), "must have (the )?dtype"
    with torch.autocast("cpu", torch.bfloat16):
        for call in (
            lambda: lada_ext.beta_mix(whole, h, 1.0, 2, key),
            lambda: lada_ext.beta_mix(h, whole, 1.0, 2, key),
            lambda: lada_ext.pair_score(h, whole, h[:, None]),
            lambda: lada_ext.relu_mix_logits(h, h, lam, whole),
            lambda: lada_ext.relu_mix_logits(h, h, lam, h, whole[:, 0]),
            lambda: lada_ext.k_center_greedy(h, whole, 2),
            lambda: lada_ext.badge_select(whole, h, 2, key),
        ):
            with pytest.raises(TypeError, match=floating):
                call()
        with pytest.raises(TypeError, match="beta_mix: b must be a tensor, got None"):
            lada_ext.beta_mix(h, None, 1.0, 2, key)  # type: ignore[arg-type]


@pytest.mark.parametrize("log_tau", [False, True])
def test_a_number_beyond_float32_is_the_nearest_in_it(log_tau: bool) -> None:
    key, limits = lada_ext.make_key(1), torch.finfo(torch.float32)
    for number, nearest in ((1e39, limits.max), (1e-46, limits.tiny)):
        lam = lada_ext.beta_sample(number, 3, key, log_tau=log_tau)
        assert torch.equal(lam, lada_ext.beta_sample(nearest, 3, key, log_tau=log_tau))
    assert lada_ext.beta_sample(-1e39, 3, key, log_tau=True).isfinite().all()
    assert torch.equal(lada_ext.beta_sample(math.inf, 1, key), torch.full((1, 1), 0.5))
    with pytest.raises(ValueError, match="tau must be positive"):
        lada_ext.beta_sample(-1e39, 3, key)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bad_tau_on_cuda_is_nan_for_its_pair_alone() -> None:
    tau = torch.tensor([1.0, 0.0, -1.0, math.nan, 2.0], device="cuda")
    lam = lada_ext.beta_sample(tau, 4, lada_ext.make_key(0, "cuda"))
    assert lam.isnan().all(1).tolist() == [False, True, True, True, False]


class TestMakeKey:
    def test_seed(self) -> None:
        assert lada_ext.make_key(7).tolist() == [7, 0]
        assert lada_ext.make_key(2**64 - 1).tolist() == [-1, 0]
        assert lada_ext.make_key(-(2**63)).tolist() == [-(2**63), 0]

    def test_default_generator_follows_manual_seed(self, device: str) -> None:
        torch.manual_seed(5)
        first, second = lada_ext.make_key(device=device), lada_ext.make_key(device=device)
        torch.manual_seed(5)
        assert torch.equal(lada_ext.make_key(device=device), first)
        assert not torch.equal(first, second)
        assert first.device.type == device

    def test_generator(self) -> None:
        make = lambda: torch.Generator().manual_seed(11)  # noqa: E731
        assert torch.equal(lada_ext.make_key(make()), lada_ext.make_key(make()))

    def test_errors(self) -> None:
        for bad in (1.5, "7", True):
            with pytest.raises(TypeError, match=r"seed must be an int, a torch\.Generator or None"):
                lada_ext.make_key(bad)  # type: ignore[arg-type]
        for bad in (2**64, -(2**63) - 1):
            with pytest.raises(ValueError, match=r"seed must lie in \[-2\^63, 2\^64\)"):
                lada_ext.make_key(bad)


def test_out_may_not_lie_in_what_is_mixed() -> None:
    h, pairs = torch.randn(4, 3), torch.tensor([[3, 2], [2, 1], [1, 0], [0, 3]])
    with pytest.raises(RuntimeError, match="out must not lie in memory of the features"):
        lada_ext.beta_mix_pairs(h, pairs, 0.4, 1, lada_ext.make_key(0), out=(h[:, None], torch.empty(4, 1)))


def test_what_is_no_tensor_is_named() -> None:
    key = lada_ext.make_key(0)
    for arguments, match in [
        ((0.4, 2, 3), "beta_sample: key must be a tensor, got int"),
        ((0.4, 2, key, [1, 2]), "beta_sample: index must be a tensor, got list"),
        (([0.1, 0.2], 2, key), "beta_sample: tau must be a tensor or a number, got list"),
        (("0.3", 2, key), "beta_sample: tau must be a tensor or a number, got str"),
    ]:
        with pytest.raises(TypeError, match=match):
            lada_ext.beta_sample(*arguments)  # type: ignore[arg-type]
