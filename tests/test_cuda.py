"""What only a GPU can show of every op: graphs, streams, compiled code, repeatability, and that it agrees with the CPU.

The ops and their inputs are the table of test_dispatch.py, so that a new op is in all of these at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from samples import SELECTIONS, TAKEN, cast, generator
from test_dispatch import COMPOSED, OPS, PICKS, TAKES, arguments_of, with_gradients
from tolerance import assert_close
from torch import Tensor

import lada_ext
from lada_ext import reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ops = torch.ops.lada_ext
DEVICE = "cuda"
OWN = [op for op in OPS if op not in COMPOSED]
RANDOM_OPS = [op for op in OPS if "key" in {a.name for a in getattr(ops, op).default._schema.arguments}]
REPEATS = 20
NAN = float("nan")
GIB = 2**30


def ordinary(op: str, dtype: torch.dtype = torch.float32, device: str = DEVICE) -> tuple[Any, ...]:
    """The arguments of the op's first sample."""
    return arguments_of(op, next(iter(OPS[op][0])), dtype, device)


def without_gradient(op: str) -> tuple[Any, ...]:
    """The arguments of an op that has no backward pass."""
    if op in PICKS:
        return PICKS[op](**cast(SELECTIONS["odd"](generator("odd")), torch.float32, DEVICE))
    if op == "take_images":
        return TAKES(**cast(TAKEN["colours"](generator("colours")), torch.float32, DEVICE))
    x = torch.randn(40, generator=generator("x")).to(DEVICE)
    return {"top_k": (x, 7), "beta_logit_grad": (x, x.exp())}[op]


def results_of(op: str, arguments: tuple[Any, ...]) -> list[Tensor]:
    results = getattr(ops, op)(*arguments)
    return list(results) if isinstance(results, tuple | list) else [results]


def results_and_gradients(op: str, arguments: tuple[Any, ...]) -> list[Tensor]:
    """Results and, where there are, the gradients of their weighted sum."""
    arguments = with_gradients(arguments, op)
    results = results_of(op, arguments)
    needing = [r for r in results if r.requires_grad]
    if not needing:
        return results
    leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    weights = [weight(r.shape, r.dtype) for r in needing]
    gradients = torch.autograd.grad(needing, leaves, weights, allow_unused=True)
    return [*(r.detach() for r in results), *(g for g in gradients if g is not None)]


@cache
def weight(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Made once, since a capture cannot copy from the host."""
    return torch.randn(shape, generator=generator("weight"), dtype=dtype).to(DEVICE)


def other_values(op: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of the same shapes and strides: floating tensors back to front, another key."""

    def other(name: str, value: Any) -> Any:
        if _is_floating(value):
            return torch.empty_like(value).copy_(value.flatten().flip(0).view(value.shape))
        return value + 1 if name == "key" else value

    names = [argument.name for argument in getattr(ops, op).default._schema.arguments]
    return tuple(other(name, value) for name, value in zip(names, arguments, strict=False))


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def captured(function: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """The graph of a call, and the results that its replay writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is set up at a first call must not be captured
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph, results


def replayed(graph: torch.cuda.CUDAGraph, inputs: tuple[Any, ...], later: tuple[Any, ...]) -> None:
    for mine, theirs in zip(inputs, later, strict=True):
        if isinstance(mine, Tensor):
            mine.copy_(theirs)
    graph.replay()
    torch.cuda.synchronize()


@pytest.mark.parametrize("op", OWN)
def test_a_captured_graph_replays_with_new_inputs(op: str) -> None:
    inputs = ordinary(op)
    later = other_values(op, inputs)
    with deterministic():
        expected = results_and_gradients(op, later)
        graph, results = captured(lambda: results_and_gradients(op, inputs))
    replayed(graph, inputs, later)
    for got, want in zip(results, expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("op", [*PICKS, "take_images", "top_k", "beta_logit_grad"])
def test_ops_without_a_gradient_are_captured_too(op: str) -> None:
    inputs = without_gradient(op)
    later = other_values(op, inputs)
    expected = results_of(op, later)
    graph, results = captured(lambda: results_of(op, inputs))
    replayed(graph, inputs, later)
    for got, want in zip(results, expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("op", OWN)
def test_compiled_code_does_the_same(op: str, mode: str) -> None:
    def step(*arguments: Any) -> Tensor:
        return (results_of(op, arguments)[0] * 2).float().sum()

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, mode=mode)
    arguments = ordinary(op)
    for values in (arguments, other_values(op, arguments), arguments):
        assert_close(compiled(*values), step(*values), slack=10)


@pytest.mark.parametrize("op", OWN)
def test_an_op_keeps_to_its_stream(op: str) -> None:
    """On a side stream where its inputs are still being written, while the default stream is busy."""
    final = ordinary(op)
    expected = results_of(op, final)
    inputs = tuple(torch.zeros_like(a) if _is_floating(a) else a for a in final)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        results_of(op, final)  # the stream has memory of its own from here on
    torch.cuda.synchronize()
    torch.cuda._sleep(400_000_000)  # cycles: about 0.2 s
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        for mine, theirs in zip(inputs, final, strict=True):
            if _is_floating(mine):
                mine.copy_(theirs)
        results = results_of(op, inputs)
    side.synchronize()
    assert not torch.cuda.default_stream().query(), "the op waited for the default stream"
    torch.cuda.synchronize()
    for got, want in zip(results, expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("op", OWN)
def test_two_streams_at_once(op: str) -> None:
    arguments = ordinary(op)
    expected = results_of(op, arguments)
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    results: list[Tensor] = []
    for _ in range(REPEATS):
        for stream in streams:
            with torch.cuda.stream(stream):
                results += results_of(op, arguments)
    torch.cuda.synchronize()
    for got, want in zip(results, expected * (2 * REPEATS), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("op", OWN)
def test_autocast_costs_no_accuracy(op: str, low: torch.dtype) -> None:
    arguments = ordinary(op)
    expected = results_of(op, arguments)
    with torch.autocast(DEVICE, dtype=low):
        results = results_of(op, arguments)
    for got, want in zip(results, expected, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("op", OWN)
def test_repeats_are_bitwise_equal(op: str) -> None:
    """Forward and backward over every sample, NaN included; only ops whose tag says so may need torch's flag for it."""
    backward = getattr(ops, f"{op}_backward", None)
    needs_flag = backward is not None and torch.Tag.nondeterministic_bitwise in backward.default.tags
    for name in OPS[op][0]:
        arguments = arguments_of(op, name, torch.float32, DEVICE)
        with deterministic() if needs_flag else nullcontext():
            first = results_and_gradients(op, arguments)
            for _ in range(REPEATS):
                for got, want in zip(results_and_gradients(op, arguments), first, strict=True):
                    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("op", RANDOM_OPS)
def test_draws_are_those_of_the_cpu(op: str, dtype: torch.dtype) -> None:
    """The same random bits; only the last bits of exp and log may differ."""
    for name in OPS[op][0]:
        on_gpu, on_cpu = (results_of(op, arguments_of(op, name, dtype, device)) for device in (DEVICE, "cpu"))
        for got, want in zip(on_gpu, on_cpu, strict=True):
            assert_close(got, want)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_a_million_draws_are_those_of_the_cpu(dtype: torch.dtype, tolerance: float) -> None:
    tau = 10 ** torch.linspace(-4, 4, 1000, dtype=torch.float64).to(dtype)
    on_gpu, on_cpu = (lada_ext.beta_sample(tau.to(d), 1000, lada_ext.make_key(5, d)) for d in (DEVICE, "cpu"))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=tolerance)


def free_bytes() -> int:
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0


class TestMoreThanTwoToThe31Elements:
    """The last rows are right where a 32-bit offset would have wrapped."""

    @pytest.fixture(autouse=True)
    def memory(self) -> Iterator[None]:
        if free_bytes() < 30 * GIB:
            pytest.skip("needs 30 GiB of free GPU memory")
        yield
        torch.cuda.empty_cache()

    def test_beta_mix(self) -> None:
        features, n = 2**29 + 5, 4
        a, b = (torch.full((1, features), v, dtype=torch.bfloat16, device=DEVICE) for v in (1.0, 3.0))
        tau = torch.ones(1, device=DEVICE, requires_grad=True)
        mixed, lam = lada_ext.beta_mix(a, b, tau, n, lada_ext.make_key(0, DEVICE))
        assert mixed.numel() > 2**31
        expected = (lam + (1 - lam) * 3.0).bfloat16()
        for position in (0, features // 2, -1):
            assert torch.equal(mixed[0, :, position], expected[0])
        (gradient,) = torch.autograd.grad(mixed, tau, torch.ones_like(mixed))
        assert gradient.isfinite().all()

    def test_many_pairs(self) -> None:
        pairs = 2**30 + 3
        a = torch.arange(2, dtype=torch.bfloat16, device=DEVICE).repeat((pairs + 1) // 2)[:pairs, None]
        mixed, lam = lada_ext.beta_mix(a, a, 1.0, 2, lada_ext.make_key(0, DEVICE))
        assert mixed.numel() > 2**31
        assert torch.equal(mixed[-3:, :, 0], a[-3:].expand(3, 2))
        assert lam[-1].isfinite().all()

    @pytest.mark.parametrize("op", ["entropy", "variation_ratio"])
    def test_row_scores(self, op: str) -> None:
        rows = (2**31 // 5) + 7
        logits = torch.zeros(rows, 5, dtype=torch.bfloat16, device=DEVICE)
        logits[-2:] = torch.tensor([[1.0, 2, 3, 4, 5], [0.0, 0, 9, 0, 0]])
        assert logits.numel() > 2**31
        scores = getattr(lada_ext, op)(logits)
        expected = getattr(reference, op)(logits[-3:].double())
        assert_close(scores[-3:], expected)
        del scores
        logits.requires_grad_()
        grad = torch.autograd.grad(getattr(lada_ext, op)(logits).sum(), logits)[0]
        last = logits[-3:].detach().double().requires_grad_()
        (want,) = torch.autograd.grad(getattr(reference, op)(last).sum(), last)
        assert_close(grad[-3:], want)

    def test_affine_sample(self) -> None:
        side = 2**15 + 16
        image = torch.zeros(1, 2, side, side, dtype=torch.float16, device=DEVICE)
        image[0, :, -1, -3:] = torch.tensor([1.0, 2.0, 3.0], device=DEVICE)
        assert image.numel() > 2**31
        identity = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]], device=DEVICE)
        out = lada_ext.affine_sample(image, identity, mode="nearest")
        assert torch.equal(out[0, :, -1, -3:], image[0, :, -1, -3:])


def test_no_op_waits_for_the_device() -> None:
    """Values of CUDA tensors are checked on request only: queueing an op never waits for the GPU."""
    arguments = {op: ordinary(op) for op in OPS}
    arguments |= {op: without_gradient(op) for op in [*PICKS, "take_images"]}
    torch.cuda.set_sync_debug_mode("error")
    try:
        for op, its in arguments.items():
            results_of(op, its)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("rows", [40, 513, 5000])
@pytest.mark.parametrize("bad", ["last", "every second", "all"])
def test_k_center_picks_rows_that_are_not_finite_last(rows: int, bad: str) -> None:
    """Values are not looked at, so they reach the kernel."""
    features = torch.randn(rows, 8, generator=generator("not finite"))
    invalid = {"last": slice(rows - 1, None), "every second": slice(1, None, 2), "all": slice(None)}[bad]
    features[invalid] = NAN
    finite = int(features.isfinite().all(1).sum())
    count = min(rows, finite + 3)
    picks = lada_ext.k_center_greedy(features.to(DEVICE), features[:0].to(DEVICE), count).cpu()
    assert len(picks.unique()) == count
    assert features[picks[:finite]].isfinite().all()
    if finite:
        valid = features.isfinite().all(1).nonzero().squeeze(1)
        chosen = lada_ext.k_center_greedy(features[valid], features[:0], min(10, finite))
        assert torch.equal(picks[: len(chosen)], valid[chosen])


def test_pairs_of_a_pool_without_rows_have_no_score() -> None:
    logits = torch.empty(0, 4, device=DEVICE, requires_grad=True)
    tau = torch.ones(2, device=DEVICE, requires_grad=True)
    pairs = torch.zeros(2, 2, dtype=torch.int64, device=DEVICE)
    score = lada_ext.mixed_pair_score(logits, pairs, tau, 3, lada_ext.make_key(1, DEVICE))
    assert score.isnan().all()
    grad_logits, grad_tau = torch.autograd.grad(score.sum(), (logits, tau))
    assert grad_logits.shape == (0, 4)
    assert grad_tau.isnan().all()
