"""Every op under every promise of the dispatcher: opcheck, gradcheck, torch.compile, checkpointing, large tensors."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import (
    AFFINES,
    CONVOLUTIONS,
    INDEXED,
    LABELLED,
    LOGIT_PAIRS,
    LOGITS,
    MIXED_PAIRS,
    MIXES,
    PAIRS,
    PASSES,
    RELU_MIXES,
    SELECTIONS,
    TAKEN,
    VIEWS,
    Make,
    cast,
    generator,
)
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import lada_ext
from lada_ext._library import score_dtype

ops = torch.ops.lada_ext


def grad_like(*outs: Tensor) -> list[Tensor]:
    return [torch.randn(out.shape, generator=generator("grad"), dtype=out.dtype) for out in outs]


# op -> (samples, arguments of the op, arguments of its backward op from the arguments and the outputs)
OPS: dict[str, tuple[dict[str, Make], Callable[..., tuple[Any, ...]], Callable[..., tuple[Any, ...]]]] = {
    "entropy": (LOGITS, lambda logits: (logits, 2.0), lambda a, out: (*grad_like(out), *a)),
    "variation_ratio": (LOGITS, lambda logits: (logits,), lambda a, out: (*grad_like(out), *a)),
    "margin": (LOGITS, lambda logits: (logits,), lambda a, out: (*grad_like(out), *a)),
    "bald": (PASSES, lambda logits: (logits, 2.0), lambda a, out: (*grad_like(out), *a)),
    "indexed_pair_score": (
        INDEXED,
        lambda own, pairs, mixed: (own.to(score_dtype(mixed)), pairs, mixed, 0.5, "entropy"),
        lambda a, out: (*grad_like(out), *a, [True, False]),
    ),
    "mixed_pair_score": (
        LOGIT_PAIRS,
        lambda logits, pairs, tau, n, key, index: (logits, pairs, tau, n, key, 0.5, "entropy", index),
        lambda a, out: (*grad_like(out), *a, [True, True]),
    ),
    "pair_score": (
        PAIRS,
        lambda logits_a, logits_b, mixed: (logits_a, logits_b, mixed, 0.5, "entropy"),
        lambda a, out: (*grad_like(out), *a, [True, False, True]),
    ),
    "beta_sample": (
        MIXES,
        lambda a, b, tau, n, key, index: (tau, n, key, index),
        lambda a, out: (*grad_like(out), a[0], *a[2:], "implicit", False),
    ),
    "beta_mix": (
        MIXES,
        lambda a, b, tau, n, key, index: (a, b, tau, n, key, index),
        lambda a, out: (*grad_like(*out), *a[:3], *a[4:], "pathwise", False, [True, False, True]),
    ),
    "beta_mix_pairs": (
        MIXED_PAIRS,
        lambda h, pairs, tau, n, key, index: (h, pairs, tau, n, key, index),
        lambda a, out: (*grad_like(*out), *a[:3], *a[4:], "implicit", False, [True, True]),
    ),
    "relu_mix_logits": (
        RELU_MIXES,
        lambda a, b, lam, weight, bias: (a, b, lam, weight, bias),
        lambda a, out: (*grad_like(out), *a[:4]),
    ),
    "conv_relu_pool": (
        CONVOLUTIONS,
        lambda image, weight, bias, padding, pool: (image, weight, bias, padding, pool == "mean"),
        lambda a, out: (grad_like(out[0])[0], *a[:2], out[1], *a[3:], [True, False, True]),
    ),
    "mix_labels": (
        LABELLED,
        lambda logits, y_a, y_b, lam: (y_a, y_b, lam, logits.shape[-1]),
        lambda a, out: (*grad_like(out), *a[:3]),
    ),
    "soft_cross_entropy": (
        LABELLED,
        lambda logits, y_a, y_b, lam: (logits, y_a, y_b, lam),
        lambda a, out: (*grad_like(out), *a, [True, True]),
    ),
    "affine_sample": (
        AFFINES,
        lambda image, theta, size: (image, theta, list(size), "bilinear", "reflection", False),
        lambda a, out: (*grad_like(out), *a[:2], *a[3:], None, None, [True, True]),
    ),
    "consistency_variance": (VIEWS, lambda logits: (logits,), lambda a, out: (*grad_like(out), *a)),
}
# op -> places of its arguments that must not require a gradient
FROZEN = {"relu_mix_logits": (0, 1, 3, 4)}
# ops that are torch's own on CUDA, with torch's precision there
COMPOSED = {"conv_relu_pool"}
# op without gradient -> arguments of the op, from SELECTIONS
PICKS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "k_center_greedy": lambda features, centers, logits, k, key: (features, centers, k),
    "badge_select": lambda features, centers, logits, k, key: (features, logits, k, key),
}
# arguments of take_images, which has no gradient, from TAKEN
TAKES = lambda images, index, key, padding, mirror, mean, std: (images, index, key, padding, mirror, mean, std)  # noqa: E731
# opcheck takes NaN for a difference between eager and traced results
NAN_RESULTS = {"all_minus_infinity", "nan", "plus_infinity", "invalid_rows"}
CASES = [(op, name) for op, (samples, _, _) in OPS.items() for name in samples if name not in NAN_RESULTS]


def arguments_of(op: str, name: str, dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Any, ...]:
    samples, order, _ = OPS[op]
    return order(**cast(samples[name](generator(name)), dtype, device))


def with_gradients(arguments: tuple[Any, ...], op: str = "") -> tuple[Any, ...]:
    def needs_gradient(place: int, value: Any) -> bool:
        return isinstance(value, Tensor) and value.is_floating_point() and place not in FROZEN.get(op, ())

    return tuple(v.detach().requires_grad_() if needs_gradient(i, v) else v for i, v in enumerate(arguments))


@pytest.mark.parametrize(("op", "name"), CASES)
def test_opcheck(op: str, name: str, device: str) -> None:
    torch.library.opcheck(getattr(ops, op).default, with_gradients(arguments_of(op, name, torch.float32, device), op))


@pytest.mark.parametrize(("op", "name"), CASES)
def test_opcheck_of_backward(op: str, name: str) -> None:
    arguments = arguments_of(op, name, torch.float32)
    backward_arguments = OPS[op][2](arguments, getattr(ops, op)(*arguments))
    torch.library.opcheck(getattr(ops, f"{op}_backward"), backward_arguments)


@pytest.mark.parametrize("name", ["odd", "channels_last", "channels_last_3d"])
def test_opcheck_of_backward_without_features(name: str) -> None:
    a, _, tau, n, key, index = arguments_of("beta_mix", name, torch.float32)
    (grad,) = grad_like(ops.beta_mix(a, a, tau, n, key, index)[0])
    last, rest = name.startswith("channels_last"), (tau, key, index, "implicit", False)
    torch.library.opcheck(ops.beta_mix_backward, (grad, None, None, None, *rest, [True, False, False], last))
    pairs = torch.stack([torch.arange(len(a)), torch.zeros(len(a), dtype=torch.int64)], 1)
    torch.library.opcheck(ops.beta_mix_pairs_backward, (grad, None, None, pairs, *rest, [True, False], len(a), last))


def test_opcheck_of_rankings() -> None:
    scores, logits = torch.randn(9, generator=generator("top")), torch.randn(9, 4, generator=generator("top"))
    torch.library.opcheck(ops.top_k, (scores, 4))
    torch.library.opcheck(ops.top_pairs, (logits, 5, *lada_ext.beta_nodes(1.0, 3), 1.0, "entropy", False, True))


@pytest.mark.parametrize("name", ["odd", "no_picks", "no_rows", "transposed"])
@pytest.mark.parametrize("op", PICKS)
def test_opcheck_of_selections(op: str, name: str, device: str) -> None:
    arguments = PICKS[op](**cast(SELECTIONS[name](generator(name)), torch.float32, device))
    torch.library.opcheck(getattr(ops, op), arguments)


@pytest.mark.parametrize("op", PICKS)
def test_compile_traces_through_selections(op: str, device: str) -> None:
    arguments = PICKS[op](**cast(SELECTIONS["odd"](generator("odd")), torch.float32, device))
    function = getattr(ops, op)
    gather = lambda features, *rest: features[function(features, *rest)]  # noqa: E731
    compiled = torch.compile(gather, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), gather(*arguments))


@pytest.mark.parametrize("name", ["colours", "channels_last", "digits", "nothing_taken"])
def test_opcheck_of_take_images(name: str, device: str) -> None:
    torch.library.opcheck(ops.take_images, TAKES(**cast(TAKEN[name](generator(name)), torch.float32, device)))


def test_opcheck_of_beta_logit_grad() -> None:
    torch.library.opcheck(ops.beta_logit_grad, (torch.randn(3, 4), torch.rand(3, 4) + 0.1))


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("entropy", "odd"),
        ("entropy", "leading_axes"),
        ("variation_ratio", "odd"),
        ("margin", "odd"),
        ("bald", "odd"),
        ("bald", "passes_last_but_one"),
        ("pair_score", "odd"),
        ("pair_score", "strided"),
        ("indexed_pair_score", "odd"),
        ("affine_sample", "odd"),
        ("affine_sample", "several_transforms"),
        ("consistency_variance", "odd"),
        ("consistency_variance", "permuted"),
    ],
)
def test_gradcheck(op: str, name: str, device: str) -> None:
    assert torch.autograd.gradcheck(getattr(ops, op), with_gradients(arguments_of(op, name, device=device), op))


def test_gradcheck_of_beta_mix_in_the_features(device: str) -> None:
    """In tau, finite differences at a fixed key give the pathwise gradient, not the implicit one."""
    a, b, *rest = arguments_of("beta_mix", "odd", device=device)
    mix = lambda a, b: ops.beta_mix(a, b, *rest)[0]  # noqa: E731
    assert torch.autograd.gradcheck(mix, with_gradients((a, b)))


def test_gradcheck_of_mixed_pair_score_in_the_logits(device: str) -> None:
    """In tau it is as for beta_mix."""
    logits, *rest = arguments_of("mixed_pair_score", "odd", device=device)
    assert torch.autograd.gradcheck(lambda z: ops.mixed_pair_score(z, *rest), with_gradients((logits,)))


@pytest.mark.parametrize("op", OPS)
def test_compile_traces_through(op: str, device: str) -> None:
    name = "odd"
    function = getattr(ops, op)
    torch.compiler.reset()  # the limit on recompilations counts those of other ops

    def step(*arguments: Any) -> Tensor:
        out = function(*arguments)
        first = out[0] if isinstance(out, tuple) else out
        return (first * 2).sum()

    eager, compiled = (with_gradients(arguments_of(op, name, torch.float32, device), op) for _ in range(2))
    expected = step(*eager)
    actual = torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled)
    expected.backward()
    actual.backward()
    torch.testing.assert_close(actual, expected)
    for got, want in zip(compiled, eager, strict=True):
        if isinstance(got, Tensor) and got.requires_grad:
            torch.testing.assert_close(got.grad, want.grad)


@pytest.mark.parametrize("op", OPS)
def test_compiled_autograd(op: str) -> None:
    eager, compiled = (with_gradients(arguments_of(op, "odd", torch.float32), op) for _ in range(2))
    torch.compiler.reset()

    def loss(arguments: tuple[Any, ...]) -> Tensor:
        out = getattr(ops, op)(*arguments)
        return sum(o.square().sum() for o in (out if isinstance(out, tuple) else (out,)))  # type: ignore[return-value]

    loss(eager).backward()
    total = loss(compiled)
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda: total.backward(), backend="eager")()  # noqa: PLW0108 - it compiles functions alone
    for got, want in zip(compiled, eager, strict=True):
        if isinstance(got, Tensor) and got.requires_grad:
            torch.testing.assert_close(got.grad, want.grad)


def test_compile_with_inductor_and_a_changing_batch() -> None:
    @torch.compile(fullgraph=True, dynamic=True)
    def policy_loss(h: Tensor, raw: Tensor, weight: Tensor, key: Tensor) -> Tensor:
        a, b = h.chunk(2)
        mixed, _ = lada_ext.beta_mix(a, b, raw.sigmoid(), 3, key)
        return -lada_ext.entropy(mixed @ weight).mean()

    g = generator("inductor")
    for pairs in (4, 6):
        h, weight = torch.randn(2 * pairs, 5, generator=g), torch.randn(5, 3, generator=g)
        raw = torch.randn(pairs, generator=g, requires_grad=True)
        loss = policy_loss(h, raw, weight, lada_ext.make_key(pairs))
        loss.backward()
        again = raw.detach().requires_grad_()
        mixed, _ = lada_ext.beta_mix(*h.chunk(2), again.sigmoid(), 3, lada_ext.make_key(pairs))
        (-lada_ext.entropy(mixed @ weight).mean()).backward()
        torch.testing.assert_close(raw.grad, again.grad)


@pytest.mark.parametrize("op", OPS)
def test_forward_mode_is_refused(op: str) -> None:
    """A tangent that is not asked after would be lost without a word."""
    arguments = arguments_of(op, next(iter(OPS[op][0])), torch.float32)
    for place, value in enumerate(with_gradients(arguments, op)):
        if isinstance(value, Tensor) and value.requires_grad:
            with forward_ad.dual_level():
                dual = forward_ad.make_dual(arguments[place], torch.ones_like(arguments[place]))
                with pytest.raises(NotImplementedError, match=r"forward-mode differentiation"):
                    getattr(ops, op)(*arguments[:place], dual, *arguments[place + 1 :])


@pytest.mark.parametrize("op", [*(op for op in OPS if OPS[op][0] not in (LOGITS, PASSES, VIEWS)), *PICKS])
def test_a_tensor_on_the_meta_device_is_not_mixed_with_others(op: str) -> None:
    if op in PICKS:
        arguments = PICKS[op](**cast(SELECTIONS["odd"](generator("odd")), torch.float32, "cpu"))
    else:
        arguments = arguments_of(op, next(iter(OPS[op][0])), torch.float32)
    for place, value in enumerate(arguments):
        if isinstance(value, Tensor):
            with pytest.raises(RuntimeError, match=r"tensors must be on one device, got cpu and meta"):
                getattr(ops, op)(*arguments[:place], value.to("meta"), *arguments[place + 1 :])


@pytest.mark.parametrize("op", OPS)
def test_a_gradient_on_another_device_reaches_no_kernel(op: str) -> None:
    """A kernel would follow its pointer. The dispatcher is told which kernel to take, as it would for CUDA tensors."""
    arguments = arguments_of(op, "odd", torch.float32)
    backward_arguments = OPS[op][2](arguments, getattr(ops, op)(*arguments))
    backward, cpu = getattr(ops, f"{op}_backward").default, torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    backward.redispatch(cpu, *backward_arguments)
    for place, argument in enumerate(backward._schema.arguments):
        if argument.name.startswith("grad_") or argument.name == "grad":
            if not isinstance(given := backward_arguments[place], Tensor):
                continue
            moved = (*backward_arguments[:place], given.to("meta"), *backward_arguments[place + 1 :])
            with pytest.raises(RuntimeError, match=rf"{argument.name} must be on the device of \w+ \(cpu\), got meta"):
                backward.redispatch(cpu, *moved)


@pytest.mark.parametrize("op", [*OPS, *PICKS])
def test_what_is_no_tensor_is_named(op: str) -> None:
    if op in PICKS:
        arguments = PICKS[op](**cast(SELECTIONS["odd"](generator("odd")), torch.float32, "cpu"))
    else:
        arguments = arguments_of(op, "odd", torch.float32)
    function = getattr(lada_ext, op)
    for place, (value, parameter) in enumerate(zip(arguments, inspect.signature(function).parameters.values())):  # noqa: B905
        if isinstance(value, Tensor) and parameter.default is inspect.Parameter.empty:
            with pytest.raises(TypeError, match=f"{op}: {parameter.name} must be a tensor"):
                function(*arguments[:place], None, *arguments[place + 1 :])


def test_what_is_no_tensor_is_named_by_the_others() -> None:
    images, index = torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0])
    for function, name in (
        (lambda: lada_ext.take_images(None, index), "take_images: images"),  # type: ignore[arg-type]
        (lambda: lada_ext.take_images(images, None), "take_images: index"),  # type: ignore[arg-type]
        (lambda: ops.take_images(None, index), "take_images: images"),
        (lambda: ops.affine_sample(None, torch.eye(2, 3)[None], [3, 3]), "affine_sample: image"),
        (lambda: ops.soft_cross_entropy(torch.rand(1, 3), index, index, None), "soft_cross_entropy: lam"),
        (lambda: lada_ext.beta_logit_grad(None, None), "beta_logit_grad: x"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=f"{name} must be a tensor, got None"):
            function()


@pytest.mark.parametrize("op", ["affine_sample", "take_images"])
def test_few_compilations_serve_every_batch(op: str) -> None:
    def sampled(images: Tensor, theta: Tensor, index: Tensor) -> Tensor:
        if op == "affine_sample":
            return lada_ext.affine_sample(images.float(), theta)
        return lada_ext.take_images(images, index)

    counter = CompileCounter()
    compiled = torch.compile(sampled, fullgraph=True, dynamic=True, backend=counter)
    for batch in range(3, 9):
        images = torch.randint(256, (batch, 1, 4, 4), dtype=torch.uint8)
        arguments = images, torch.eye(2, 3).repeat(batch, 1, 1), torch.arange(batch)
        assert torch.equal(compiled(*arguments), sampled(*arguments))
    assert counter.frame_count <= 2  # the second may find that sizes vary which the first took for constants


def test_checkpointing_draws_the_same_numbers() -> None:
    a, b, tau, n, key, index = with_gradients(arguments_of("beta_mix", "odd", torch.float32))
    loss = checkpoint(lambda *t: ops.beta_mix(*t, n, key, index)[0].square().sum(), a, b, tau, use_reentrant=False)
    loss.backward()
    again = with_gradients((a, b, tau))
    ops.beta_mix(*again, n, key, index)[0].square().sum().backward()
    for got, want in zip((a, b, tau), again, strict=True):
        assert torch.equal(got.grad, want.grad)


def test_public_functions_leave_no_op_untested() -> None:
    registered = {schema.name.removeprefix("lada_ext::") for schema in torch._C._jit_get_all_schemas()
                  if schema.name.startswith("lada_ext::")}  # fmt: skip
    alone = {"beta_logit_grad", "take_images", "top_k", "top_pairs"}
    assert registered == {*OPS, *(f"{op}_backward" for op in OPS), *PICKS, *alone}


def free_gigabytes() -> float:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


@pytest.mark.slow
@pytest.mark.skipif(free_gigabytes() < 14, reason="needs 14 GiB of free memory")
def test_more_than_two_to_the_31_elements() -> None:
    """The last rows are right where a 32-bit offset would have wrapped."""
    features, n = 2**29 + 5, 4
    a, b = (torch.full((1, features), v, dtype=torch.bfloat16) for v in (1.0, 3.0))
    mixed, lam = lada_ext.beta_mix(a, b, torch.ones(1), n, lada_ext.make_key(0))
    assert mixed.numel() > 2**31
    expected = (lam * 1.0 + (1 - lam) * 3.0).bfloat16()
    assert torch.equal(mixed[0, :, -1], expected[0])
    assert torch.equal(mixed[0, :, 0], expected[0])
    del a, b
    rows = mixed.flatten()[: mixed.numel() // 5 * 5].view(-1, 5)
    assert rows.numel() > 2**31
    scores = lada_ext.entropy(rows)
    torch.testing.assert_close(scores[-2:], lada_ext.reference.entropy(rows[-2:].double()).float())
