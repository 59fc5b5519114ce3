"""beta_sample, beta_mix and beta_logit_grad: against the reference, against the exact distribution, and by their law."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import MIXES, cast, generator
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference

ROOT = Path(__file__).parent.parent
TAUS = [1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0, 50.0, 1e3, 1e4]
DRAWS = 200_000


def bits_of(dtype: torch.dtype) -> int:
    return 64 if dtype == torch.float64 else 32


def as_double(arguments: dict[str, object]) -> dict[str, object]:
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


@pytest.mark.parametrize("name", MIXES)
def test_beta_mix_gradient(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = cast(MIXES[name](generator(name)), dtype, device)
    g = generator("grad")
    weights = [torch.randn(out.shape, generator=g).to(device) for out in lada_ext.beta_mix(**arguments)]

    def gradients(module: object, inputs: dict[str, object], **options: object) -> list[Tensor]:
        leaves = {k: inputs[k].detach().requires_grad_() for k in ("a", "b", "tau")}  # type: ignore[attr-defined]
        outs = module.beta_mix(**{**inputs, **leaves}, **options)  # type: ignore[attr-defined]
        sum((out * w.to(out)).sum() for out, w in zip(outs, weights, strict=True)).backward()
        return [leaf.grad for leaf in leaves.values()]

    actual = gradients(lada_ext, arguments)
    expected = gradients(reference, as_double(arguments), bits=bits_of(dtype))
    assert_close(actual[0], expected[0], slack=2)
    assert_close(actual[1], expected[1], slack=2)
    # grad_tau sums n * features terms that cancel, and is of size 1 / tau
    tau = arguments["tau"].double()
    magnitude = (3 * len(weights[0][0].flatten()) + 1) ** 0.5 if len(tau) else 1.0
    assert_close((actual[2].double() * tau).to(actual[2].dtype), expected[2] * tau, slack=magnitude)


@pytest.mark.parametrize("wanted", ["a", "b", "tau"])
def test_only_the_needed_gradient_is_computed(wanted: str, device: str) -> None:
    arguments = cast(MIXES["odd"](generator("odd")), torch.float64, device)
    every = {k: arguments[k].clone().requires_grad_() for k in ("a", "b", "tau")}
    lada_ext.beta_mix(**{**arguments, **every})[0].sum().backward()
    only = arguments[wanted].clone().requires_grad_()
    lada_ext.beta_mix(**{**arguments, wanted: only})[0].sum().backward()
    assert torch.equal(only.grad, every[wanted].grad)


def test_tau_may_be_a_number_a_scalar_or_a_column(device: str) -> None:
    arguments = cast(MIXES["small_tau"](generator("t")), torch.float32, device)
    tau = arguments.pop("tau")
    expected, _ = lada_ext.beta_mix(**arguments, tau=tau)
    for given in (float(tau[0]), tau[0], tau[:, None]):
        assert torch.equal(lada_ext.beta_mix(**arguments, tau=given)[0], expected)


def test_a_draw_depends_on_key_index_and_sample_alone(device: str) -> None:
    """Batch split, order, number of samples and threads change nothing, bit for bit."""
    tau = torch.rand(700, generator=generator("tau")).to(device) + 0.01
    key, index = lada_ext.make_key(3, device), torch.arange(700, device=device) * 7919
    whole = lada_ext.beta_sample(tau, 6, key, index)
    order = torch.randperm(700, generator=generator("order")).to(device)
    assert torch.equal(lada_ext.beta_sample(tau[order], 6, key, index[order]), whole[order])
    assert torch.equal(lada_ext.beta_sample(tau[13:40], 4, key, index[13:40]), whole[13:40, :4])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(lada_ext.beta_sample(tau, 6, key, index), whole)
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(lada_ext.beta_sample(tau, 6, lada_ext.make_key(4, device), index), whole)
    assert not torch.equal(lada_ext.beta_sample(tau, 6, torch.tensor([3, 1], device=device), index), whole)


def test_key_selects_the_philox_of_the_literature() -> None:
    """Philox4x32-10 known answers of the Random123 distribution, through the reference that the ops agree with."""
    zeros = [torch.tensor(0)] * 4
    words = reference.philox(torch.tensor([0, 0]), zeros)
    assert [int(w) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = [torch.tensor(0xFFFFFFFF)] * 4
    words = reference.philox(torch.tensor([-1, 0]), ones)
    assert [int(w) for w in words] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def beta_cdf(tau: float, lam: np.ndarray) -> np.ndarray:
    return pytest.importorskip("scipy.stats").beta.cdf(lam, tau, tau)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", TAUS)
def test_draws_follow_the_beta_distribution(tau: float, dtype: torch.dtype) -> None:
    lam = draws(tau, dtype=dtype).double()
    if tau >= 0.3:  # below, the smallest lam round to 0 and the CDF has atoms there
        assert pytest.importorskip("scipy.stats").kstest(lam.numpy(), lambda v: beta_cdf(tau, v)).pvalue > 1e-4
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


@pytest.mark.parametrize("tau", [0.1, 1.0, 5.0, 100.0])
def test_gradient_of_an_expectation(tau: float) -> None:
    """d/dtau E[4 lam (1 - lam)] = 2 / (2 tau + 1)^2."""
    taus = torch.full((200,), tau, dtype=torch.float64, requires_grad=True)
    lam = lada_ext.beta_sample(taus, 1000, lada_ext.make_key(1))
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_are_finite_for_every_tau(dtype: torch.dtype, device: str) -> None:
    limits = torch.finfo(dtype)
    exponents = torch.linspace(math.log(limits.tiny), math.log(limits.max) - 0.01, 500, dtype=torch.float64)
    tau = exponents.exp().to(device, dtype).requires_grad_()
    lam = lada_ext.beta_sample(tau, 400, lada_ext.make_key(9, device))
    lam.sum().backward()
    assert tau.grad is not None
    assert torch.isfinite(lam).all()
    assert torch.isfinite(tau.grad).all()
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
    with pytest.raises(ValueError, match=r"tau must have shape \(P,\), got \[3, 1\]"):
        lada_ext.beta_sample(tau[:, None], 2, key)
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
