"""The named inputs of every op: odd sizes, one row, one class, strides of all kinds, empty, infinite, NaN, huge, tiny.

A family's table maps a name to a function (generator) -> arguments in float64 on the CPU. `cast` moves them to a dtype
and device without losing their strides. The same tables feed the tests on the CPU, on CUDA and in the host emulation.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Make = Callable[[torch.Generator], dict[str, Any]]
INF, NAN = float("inf"), float("nan")
EMULATED = bool(os.environ.get("LADA_EMULATION"))  # thread for thread: a launch is slow, and so are many rows
# Under a sanitizer slower still; the plain emulation leaves nothing out.
SANITIZED = os.environ.get("LADA_EMULATION") in ("asan", "tsan")
# Enough rows for several blocks and threads. The host emulation caps the blocks instead.
MANY = 67 if EMULATED else 1027


def generator(name: str) -> torch.Generator:
    """A fixed stream for each sample name."""
    return torch.Generator().manual_seed(int.from_bytes(name.encode()[:7].ljust(7), "big"))


def cast(arguments: dict[str, Any], dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Floating tensors to `dtype`, all tensors to `device`, with their strides; the rest as it is."""

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        base = torch.empty(0, dtype=value.dtype, device=value.device).set_(value.untyped_storage())
        base = base.to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)
        return base.as_strided(value.shape, value.stride(), value.storage_offset())

    return {name: one(value) for name, value in arguments.items()}


def normal(*shape: int, scale: float = 1.0) -> Make:
    return lambda g: {"logits": scale * torch.randn(*shape, generator=g, dtype=torch.float64)}


def with_values(*values: float) -> Make:
    """Ordinary rows, with one that holds the given values at its start."""

    def make(g: torch.Generator) -> dict[str, Any]:
        logits = torch.randn(5, 7, generator=g, dtype=torch.float64)
        logits[2, : len(values)] = torch.tensor(values)
        return {"logits": logits}

    return make


def strided(view: Callable[[Tensor], Tensor], *shape: int) -> Make:
    return lambda g: {"logits": view(torch.randn(*shape, generator=g, dtype=torch.float64))}


LOGITS: dict[str, Make] = {
    "odd": normal(7, 10),
    "one_row": normal(1, 5),
    "one_class": normal(4, 1),
    "vector": normal(10),
    "leading_axes": normal(2, 3, 33),
    "many_rows": normal(MANY, 3),
    "two_hundred": normal(33, 200),
    "wide": normal(3, 1025),
    "very_wide": normal(2, 5003),
    "ties": lambda g: {"logits": torch.randint(3, (9, 7), generator=g).double()},
    "transposed": strided(lambda t: t.t(), 10, 7),
    "sliced": strided(lambda t: t[1:, 3:33:3], 7, 40),
    "expanded": strided(lambda t: t.expand(6, 10), 1, 10),
    "offset": strided(lambda t: t.flatten()[1:61].view(6, 10), 7, 10),
    "empty_rows": normal(0, 10),
    "huge": normal(5, 7, scale=1e4),
    "tiny": normal(5, 7, scale=1e-4),
    "certain": with_values(40.0, -40.0, 0.0),
    "minus_infinity": with_values(-INF, 1.0, -INF, 2.0),
    "all_minus_infinity": with_values(*[-INF] * 7),
    "one_possible_class": with_values(*[-INF] * 6),
    "nan": with_values(0.5, NAN),
    "plus_infinity": with_values(0.5, INF),
}


def passes(t: int, *shape: int, scale: float = 2.0, view: Callable[[Tensor], Tensor] | None = None) -> Make:
    """T stochastic passes over the same instances: logits that differ by noise."""

    def make(g: torch.Generator) -> dict[str, Any]:
        mean, noise = (torch.randn(*size, generator=g, dtype=torch.float64) for size in (shape, (t, *shape)))
        logits = scale * (mean + 0.5 * noise)
        return {"logits": logits if view is None else view(logits)}

    return make


def passes_invalid(g: torch.Generator) -> dict[str, Any]:
    logits = passes(3, 6, 5)(g)["logits"]
    logits[1, 1, 2] = NAN
    logits[2, 2] = -INF
    logits[:, 3, :2] = -INF
    logits[0, 4] = torch.tensor([-INF, -INF, 1.0, -INF, -INF])
    return {"logits": logits}


PASSES: dict[str, Make] = {
    "odd": passes(3, 37, 10),
    "one_pass": passes(1, 5, 4),
    "one_class": passes(3, 4, 1),
    "many_passes": passes(100, 3, 7),
    "twenty_classes": passes(2, 9, 20),
    "hundred_classes": passes(3, 5, 100),
    "three_hundred_classes": passes(2, 3, 300),
    "wide": passes(2, 3, 1025),
    "very_wide": passes(2, 2, 5003),
    "leading_axes": passes(3, 2, 5, 6),
    "no_instances": passes(3, 0, 5),
    "huge": passes(2, 4, 5, scale=1e4),
    "passes_last_but_one": passes(4, 6, 5, view=lambda t: t.transpose(0, 1)),
    "classes_first": passes(5, 6, 4, view=lambda t: t.permute(2, 1, 0)),
    "the_same_pass": passes(1, 6, 5, view=lambda t: t.expand(4, 6, 5)),
    "invalid_rows": passes_invalid,
}


def pair(p: int, n: int, c: int, scale: float = 2.0) -> Make:
    def make(g: torch.Generator) -> dict[str, Any]:
        a, b, mixed = (scale * torch.randn(*s, generator=g, dtype=torch.float64) for s in [(p, c), (p, c), (p, n, c)])
        return {"logits_a": a, "logits_b": b, "mixed": mixed}

    return make


def pair_strided(g: torch.Generator) -> dict[str, Any]:
    stored = torch.randn(10, 5, 8, generator=g, dtype=torch.float64)
    return {"logits_a": stored[:, 0].t(), "logits_b": stored[:, 1].t(), "mixed": stored[:, 2:].permute(2, 1, 0)}


def pair_invalid(g: torch.Generator) -> dict[str, Any]:
    arguments = pair(4, 2, 5)(g)
    arguments["mixed"][1, 0, 2] = -INF
    arguments["mixed"][2, 1, 0] = NAN
    return arguments


PAIRS: dict[str, Make] = {
    "odd": pair(7, 5, 10),
    "one_pair": pair(1, 1, 3),
    "one_class": pair(3, 2, 1),
    "wide": pair(2, 3, 1025),
    "many_pairs": pair(MANY // 2, 2, 4),
    "empty": pair(0, 3, 4),
    "huge": pair(3, 2, 5, scale=1e4),
    "strided": pair_strided,
    "invalid_rows": pair_invalid,
}


def indexed(m: int, p: int, n: int, c: int) -> Make:
    def make(g: torch.Generator) -> dict[str, Any]:
        own, mixed = (torch.randn(*s, generator=g, dtype=torch.float64) for s in [(m,), (p, n, c)])
        return {"own": own, "pairs": torch.randint(m, (p, 2), generator=g), "mixed": 2 * mixed}

    return make


INDEXED: dict[str, Make] = {
    "odd": indexed(9, 7, 5, 10),
    "more_pairs_than_rows": indexed(3, 200, 2, 4),
    "wide": indexed(4, 2, 3, 1025),
    "no_pairs": indexed(4, 0, 3, 5),
}


def logit_pairs(m: int, p: int, n: int, c: int, scale: float = 2.0, tau: float | None = None) -> Make:
    def make(g: torch.Generator) -> dict[str, Any]:
        spread = (10 ** (3 * torch.rand(p, generator=g, dtype=torch.float64) - 1.5)).bfloat16().double()
        return {
            "logits": scale * torch.randn(m, c, generator=g, dtype=torch.float64),
            "pairs": torch.randint(m, (p, 2), generator=g),
            "tau": spread if tau is None else torch.full_like(spread, tau),
            "n": n,
            "key": torch.tensor([987654321, 3]),
            "index": torch.randint(-(2**62), 2**62, (p,), generator=g),
        }

    return make


def logit_pairs_with(change: Callable[[Tensor], Tensor]) -> Make:
    def make(g: torch.Generator) -> dict[str, Any]:
        arguments = logit_pairs(6, 9, 3, 5)(g)
        return {**arguments, "logits": change(arguments["logits"])}

    return make


def _impossible_classes(logits: Tensor) -> Tensor:
    logits[1, :2] = -INF
    logits[2, 1] = -INF
    return logits


def _invalid(logits: Tensor) -> Tensor:
    logits[1, 0] = NAN
    logits[3] = -INF
    return logits


LOGIT_PAIRS: dict[str, Make] = {
    "odd": logit_pairs(11, 7, 5, 10),
    "few_pairs": logit_pairs(50, 3, 2, 4),
    "more_pairs_than_rows": logit_pairs(4, 83, 3, 6),
    "many_samples": logit_pairs(5, 4, 19, 3),
    "one_pair": logit_pairs(2, 1, 1, 3),
    "one_class": logit_pairs(3, 5, 2, 1),
    "hundred_classes": logit_pairs(7, 9, 3, 100),
    "wide": logit_pairs(3, 2, 2, 1025),
    "no_pairs": logit_pairs(3, 0, 2, 4),
    "huge": logit_pairs(5, 6, 3, 5, scale=1e4),
    "small_tau": logit_pairs(5, 6, 3, 5, tau=2**-10),
    "transposed": logit_pairs_with(lambda t: t.t().contiguous().t()),
    "ties": logit_pairs_with(lambda t: t.round()),
    "impossible_classes": logit_pairs_with(_impossible_classes),
    "invalid_rows": logit_pairs_with(_invalid),
}


def mix(
    shape: tuple[int, ...], n: int, tau: float | None = None, view: Callable[[Tensor], Tensor] | None = None
) -> Make:
    """Pairs of features of `shape`, tau spread over 1e-3..1e2 unless given, ids that are not 0, 1, 2, ..."""

    def make(g: torch.Generator) -> dict[str, Any]:
        a, b = (torch.randn(*shape, generator=g, dtype=torch.float64) for _ in "ab")
        if view is not None:
            a, b = view(a), view(b)
        pairs = a.shape[0]
        spread = 10 ** (5 * torch.rand(pairs, generator=g, dtype=torch.float64) - 3)
        # representable in every storage type, so that all of them draw from the same distribution
        taus = torch.full_like(spread, tau) if tau is not None else spread.bfloat16().double()
        index = torch.randint(-(2**62), 2**62, (pairs,), generator=g)
        return {"a": a, "b": b, "tau": taus, "n": n, "key": torch.tensor([123456789, 5]), "index": index}

    return make


def mix_strides(g: torch.Generator) -> dict[str, Any]:
    """a: rows that lie apart; b: the order of the axes is another one."""
    arguments = mix((5, 3, 4, 2), 3)(g)
    a = torch.randn(10, 3, 4, 2, generator=g, dtype=torch.float64)
    b = torch.randn(2, 4, 3, 5, generator=g, dtype=torch.float64)
    return {**arguments, "a": a[::2], "b": b.permute(3, 2, 1, 0)}


def mix_one_row_for_all(g: torch.Generator) -> dict[str, Any]:
    arguments = mix((4, 6), 2)(g)
    return {**arguments, "a": arguments["a"][:1].expand(4, 6)}


MIXES: dict[str, Make] = {
    "odd": mix((7, 13), 5),
    "images": mix((3, 2, 5, 4), 3),
    "one_pair": mix((1, 1), 1),
    "scalars": mix((6,), 2),
    "several_samples": mix((3, 4), 40),
    "many_samples": mix((2, 4), 600),
    "many_pairs": mix((MANY // 2, 3), 2),
    "packets": mix((5, 16), 3),
    "packets_of_a_warp": mix((9, 128), 3),
    "packets_of_a_block": mix((2, 1024), 3),
    "off_packets": mix((4, 1031), 3, view=lambda t: t[:, 1:1025]),
    "slices": mix((2, 16400), 2),
    "no_samples": mix((3, 4), 0),
    "no_pairs": mix((0, 4), 3),
    "no_features": mix((3, 0), 2),
    "small_tau": mix((5, 6), 4, tau=2**-13),
    "large_tau": mix((5, 6), 4, tau=2.0**15),
    "transposed": mix((9, 4), 3, view=lambda t: t.t()),
    "channels_last": mix((2, 5, 4, 3), 2, view=lambda t: t.permute(0, 3, 1, 2)),
    "channels_last_3d": mix((2, 3, 5, 4, 3), 2, view=lambda t: t.permute(0, 4, 1, 2, 3)),
    "expanded": mix((1, 6), 2, view=lambda t: t.expand(4, 6)),
    "one_row_for_all": mix_one_row_for_all,
    "other_strides": mix_strides,
}


def pairs_of(make: Make, pairs: list[tuple[int, int]]) -> Make:
    """The same between rows of one tensor h, where a row may be in several pairs, in one twice, or in none."""

    def make_pairs(g: torch.Generator) -> dict[str, Any]:
        arguments = make(g)
        h, tau, index = arguments.pop("a"), arguments["tau"], arguments["index"]
        del arguments["b"]
        numbers = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        repeats = -(-len(pairs) // max(1, len(tau)))
        of_pairs = {"tau": tau.repeat(repeats)[: len(pairs)], "index": index.repeat(repeats)[: len(pairs)]}
        return {"h": h, "pairs": numbers, **arguments, **of_pairs}

    return make_pairs


TANGLED = [(0, 1), (1, 1), (2, 0), (1, 0)]
MIXED_PAIRS: dict[str, Make] = {
    "odd": pairs_of(MIXES["odd"], [(0, 1), (5, 5), (2, 0), (6, 3), (0, 6), (1, 0)]),
    "disjoint": pairs_of(MIXES["odd"], [(0, 1), (2, 3), (6, 4)]),
    "one_pair": pairs_of(MIXES["images"], [(2, 0)]),
    "one_row_in_all": pairs_of(MIXES["odd"], [(3, 3)] * 20),
    "packets": pairs_of(MIXES["packets"], TANGLED),
    "packets_of_a_warp": pairs_of(MIXES["packets_of_a_warp"], TANGLED),
    "packets_of_a_block": pairs_of(mix((3, 1024), 2), TANGLED),
    "off_packets": pairs_of(MIXES["off_packets"], TANGLED),
    "slices": pairs_of(mix((3, 16400), 2), TANGLED),
    "few_features": pairs_of(mix((3, 5), 2), TANGLED),
    "several_samples": pairs_of(MIXES["several_samples"], TANGLED),
    "no_pairs": pairs_of(MIXES["odd"], []),
    "no_samples": pairs_of(MIXES["no_samples"], TANGLED),
    "no_features": pairs_of(MIXES["no_features"], TANGLED),
    "transposed": pairs_of(MIXES["transposed"], TANGLED),
    "channels_last": pairs_of(MIXES["channels_last"], [(0, 1), (1, 1)]),
    "expanded": pairs_of(MIXES["expanded"], TANGLED),
}


def relu_mix(p: int, n: int, d: int, c: int, bias: bool = True, view: Callable[[Tensor], Tensor] | None = None) -> Make:
    """Features of pairs, weights of their mixtures, and an affine map to logits of moderate size."""

    def make(g: torch.Generator) -> dict[str, Any]:
        a, b, weight = (torch.randn(*size, generator=g, dtype=torch.float64) for size in ((p, d), (p, d), (c, d)))
        if view is not None:
            a, b, weight = view(a), view(b), view(weight)
        lam = torch.rand(a.shape[0], n, generator=g, dtype=torch.float64).bfloat16().double()
        shift = torch.randn(weight.shape[0], generator=g, dtype=torch.float64)
        weight.div_(max(1, weight.shape[1]) ** 0.5)
        return {"a": a, "b": b, "lam": lam, "weight": weight, "bias": shift if bias else None}

    return make


def relu_mix_strides(g: torch.Generator) -> dict[str, Any]:
    """Rows that lie apart, transposed weights, one weight of a for all pairs, every other bias."""
    arguments = relu_mix(6, 3, 7, 4)(g)
    a, weight = (torch.randn(*size, generator=g, dtype=torch.float64) for size in ((12, 9), (7, 4)))
    lam, bias = arguments["lam"][:1, :1].expand(6, 3), torch.randn(8, generator=g, dtype=torch.float64)[::2]
    return {"a": a[::2, 1:8], "b": arguments["b"][:1].expand(6, 7), "lam": lam, "weight": weight.t(), "bias": bias}


def relu_mix_invalid(g: torch.Generator) -> dict[str, Any]:
    """NaN in a row of a, in one of b and in lam; infinities of both signs; weights 0 and 1."""
    arguments = relu_mix(7, 3, 19, 6)(g)
    a, b, lam = arguments["a"], arguments["b"], arguments["lam"]
    a[1, 4] = b[2, 18] = lam[3, 1] = NAN
    a[4, 3], a[5, 3], b[5, 3] = INF, -INF, INF
    lam[6] = torch.tensor([0.0, 1.0, 0.5])
    return arguments


RELU_MIXES: dict[str, Make] = {
    "odd": relu_mix(7, 5, 77, 10),
    "one_pair": relu_mix(1, 1, 1, 1),
    "one_class": relu_mix(3, 2, 40, 1),
    "many_pairs": relu_mix(MANY // 2, 2, 9, 3),
    "many_samples": relu_mix(2, 13, 34, 4),
    "hundred_classes": relu_mix(3, 3, 20, 101),
    "vectors": relu_mix(4, 5, 128, 5),
    "wide": relu_mix(2, 5, 2500, 7),
    "off_packets": relu_mix(3, 4, 261, 6, view=lambda t: t[:, 1:257]),
    "few_features": relu_mix(4, 3, 5, 3),
    "no_bias": relu_mix(3, 4, 50, 6, bias=False),
    "transposed": relu_mix(6, 2, 6, 6, view=lambda t: t.t()),
    "other_strides": relu_mix_strides,
    "no_pairs": relu_mix(0, 3, 8, 4),
    "no_samples": relu_mix(3, 0, 8, 4),
    "no_features": relu_mix(3, 2, 0, 4),
    "invalid_rows": relu_mix_invalid,
}


def convolution(
    image: tuple[int, int, int, int],
    weight: tuple[int, int, int, int],
    padding: int,
    bias: bool = True,
    pool: str = "max",
) -> Make:
    """Images, and kernels of which the results are of moderate size."""

    def make(g: torch.Generator) -> dict[str, Any]:
        x, w = (torch.randn(*size, generator=g, dtype=torch.float64) for size in (image, weight))
        shift = torch.randn(weight[0], generator=g, dtype=torch.float64) / 4
        w.div_((weight[1] * weight[2] * weight[3]) ** 0.5)
        return {"image": x, "weight": w, "bias": shift if bias else None, "padding": padding, "pool": pool}

    return make


def convolution_strides(g: torch.Generator) -> dict[str, Any]:
    """Channels-last images in a larger one, one image for all, a transposed kernel, every other bias."""
    arguments = convolution((2, 7, 8, 9), (5, 7, 3, 4), 1)(g)
    wide = torch.randn(1, 10, 12, 9, generator=g, dtype=torch.float64).permute(0, 3, 1, 2)
    kernel = torch.randn(4, 3, 7, 5, generator=g, dtype=torch.float64).permute(3, 2, 1, 0) / 8
    bias = torch.randn(10, generator=g, dtype=torch.float64)[::2]
    return {**arguments, "image": wide[:, :7, 1:9, 2:11].expand(2, 7, 8, 9), "weight": kernel, "bias": bias}


CONVOLUTIONS: dict[str, Make] = {
    "odd": convolution((3, 5, 7, 9), (4, 5, 4, 3), 1),
    "policy": convolution((4, 64, 14, 14), (6, 64, 5, 5), 2),
    "whole_vectors": convolution((2, 16, 6, 6), (7, 16, 3, 3), 0),
    "many_images": convolution((37, 3, 8, 8), (2, 3, 3, 3), 1),
    "many_outputs": convolution((2, 4, 6, 6), (17, 4, 3, 3), 1),
    "one_channel": convolution((3, 1, 12, 10), (8, 1, 7, 7), 0),
    "blocks_of_outputs": convolution((2, 3, 9, 12), (19, 3, 3, 4), 1),
    "one_pixel": convolution((2, 3, 4, 4), (3, 3, 1, 1), 0),
    "one_column": convolution((2, 2, 5, 3), (1, 2, 2, 2), 0),
    "longer_than_a_vector": convolution((3, 9, 7, 9), (4, 9, 4, 3), 1),
    "wide_padding": convolution((1, 2, 3, 3), (2, 2, 3, 3), 4),
    "no_bias": convolution((2, 3, 6, 5), (3, 3, 3, 2), 1, bias=False),
    "mean": convolution((3, 1, 12, 13), (8, 1, 3, 3), 1, pool="mean"),
    "mean_odd": convolution((3, 2, 7, 10), (9, 2, 4, 3), 0, bias=False, pool="mean"),
    "mean_padding": convolution((1, 2, 3, 4), (2, 2, 3, 3), 4, pool="mean"),
    "mean_long_rows": convolution((2, 16, 7, 6), (7, 16, 3, 3), 1, pool="mean"),
    "other_strides": convolution_strides,
    "no_images": convolution((0, 3, 6, 6), (2, 3, 3, 3), 0),
}


def paired_convolution(pairs: int, *arguments: Any, **options: Any) -> Make:
    def make(g: torch.Generator) -> dict[str, Any]:
        made = convolution(*arguments, **options)(g)
        return {**made, "pairs": torch.randint(len(made["image"]), (2, pairs), generator=g).t()}

    return make


PAIRED_CONVOLUTIONS: dict[str, Make] = {
    "odd": paired_convolution(6, (5, 4, 7, 9), (4, 8, 4, 3), 1),
    "policy": paired_convolution(7, (9, 32, 14, 14), (6, 64, 5, 5), 2),
    "one_channel_of_each": paired_convolution(2, (3, 1, 8, 7), (5, 2, 3, 3), 0, pool="mean"),
    "more_pairs_than_threads": paired_convolution(41, (2, 3, 6, 6), (2, 6, 3, 3), 0, bias=False),
    "no_pairs": paired_convolution(0, (3, 2, 6, 6), (2, 4, 3, 3), 0),
}


def labelled(shape: tuple[int, ...], classes: int, scale: float = 2.0) -> Make:
    def make(g: torch.Generator) -> dict[str, Any]:
        logits = scale * torch.randn(*shape, classes, generator=g, dtype=torch.float64)
        y_a, y_b = torch.randint(0, classes, (2, shape[0]), generator=g)
        lam = torch.rand(*shape, generator=g, dtype=torch.float64).bfloat16().double()
        return {"logits": logits, "y_a": y_a, "y_b": y_b, "lam": lam}

    return make


def labelled_strides(g: torch.Generator) -> dict[str, Any]:
    arguments = labelled((6, 3), 5)(g)
    logits = torch.randn(5, 3, 6, generator=g, dtype=torch.float64).permute(2, 1, 0)
    lam = arguments["lam"][:, :1].expand(6, 3)
    return {"logits": logits, "y_a": arguments["y_a"][:1].expand(6), "y_b": arguments["y_b"], "lam": lam}


def labelled_extremes(g: torch.Generator) -> dict[str, Any]:
    """Weights 0 and 1, the same class twice, and -inf where the weight is 0."""
    arguments = labelled((4,), 6)(g)
    arguments["lam"] = torch.tensor([0.0, 1.0, 0.25, 1.0], dtype=torch.float64)
    arguments["y_b"][2] = arguments["y_a"][2]
    arguments["y_b"][3] = (arguments["y_a"][3] + 1) % 6
    arguments["logits"][3, arguments["y_b"][3]] = -INF
    return arguments


LABELLED: dict[str, Make] = {
    "odd": labelled((7, 3), 10),
    "one_sample": labelled((5,), 4),
    "one_row": labelled((1, 1), 3),
    "one_class": labelled((4, 2), 1),
    "many_rows": labelled((MANY, 2), 5),
    "many_classes": labelled((3, 2), 1025),
    "a_warp_of_classes": labelled((3, 2), 40),
    "more_axes": labelled((3, 2, 2), 7),
    "no_pairs": labelled((0, 3), 4),
    "no_samples": labelled((3, 0), 4),
    "huge": labelled((4, 2), 9, scale=1e4),
    "strided": labelled_strides,
    "extremes": labelled_extremes,
}


def affine(
    image: tuple[int, ...], transforms: int | None = None, size: tuple[int, int] | None = None, spread: float = 0.4
) -> Make:
    def make(g: torch.Generator) -> dict[str, Any]:
        leading = (image[0],) if transforms is None else (image[0], transforms)
        identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64)
        theta = identity + spread * torch.randn(*leading, 2, 3, generator=g, dtype=torch.float64)
        pixels = torch.randn(*image, generator=g, dtype=torch.float64)
        return {"image": pixels, "theta": theta.float().double(), "size": size or tuple(image[-2:])}

    return make


def affine_strided(g: torch.Generator) -> dict[str, Any]:
    arguments = affine((3, 5, 4, 2))(g)
    return {**arguments, "image": arguments["image"].permute(0, 3, 1, 2), "size": (5, 4)}


AFFINES: dict[str, Make] = {
    "odd": affine((3, 2, 5, 7)),
    "many_channels": affine((2, 17, 6, 6)),
    "one_pixel": affine((2, 3, 1, 1)),
    "one_row": affine((2, 1, 1, 6)),
    "larger_output": affine((2, 2, 4, 5), size=(9, 11)),
    "smaller_output": affine((2, 2, 9, 8), size=(3, 2)),
    "one_pixel_output": affine((2, 2, 5, 5), size=(1, 1)),
    "several_transforms": affine((3, 2, 6, 5), transforms=4),
    "far_outside": affine((4, 1, 6, 6), spread=30.0),
    "no_images": affine((0, 2, 4, 4)),
    "no_channels": affine((2, 0, 4, 4)),
    "no_transforms": affine((2, 1, 4, 4), transforms=0),
    "channels_last": affine_strided,
}


def selection(m: int, d: int, c: int, k: int, centers: int = 0, scale: float = 1.0, offset: float = 0.0) -> Make:
    """A pool to select from: features and centers, logits for BADGE, k and a key."""

    def make(g: torch.Generator) -> dict[str, Any]:
        features, fixed = (scale * torch.randn(n, d, generator=g, dtype=torch.float64) + offset for n in (m, centers))
        logits = 2 * torch.randn(m, c, generator=g, dtype=torch.float64)
        return {"features": features, "centers": fixed, "logits": logits, "k": k, "key": torch.tensor([98765, 3])}

    return make


def changed(make: Make, **changes: Callable[[Tensor], Tensor]) -> Make:
    """A sample with some of its tensors replaced."""

    def changed_make(g: torch.Generator) -> dict[str, Any]:
        arguments = make(g)
        return {name: changes[name](value) if name in changes else value for name, value in arguments.items()}

    return changed_make


def lattice(features: Tensor) -> Tensor:
    """Small integers, so that many rows are equal and many distances tie."""
    return features.round().clamp(-1, 1)


SELECTIONS: dict[str, Make] = {
    "odd": selection(37, 5, 4, 9, centers=3),
    "one_row": selection(1, 3, 2, 1),
    "every_row": selection(19, 6, 3, 19, centers=2),
    "many_rows": selection(300, 3, 3, 2, centers=1) if EMULATED else selection(1100, 3, 3, 12, centers=1),
    "many_picks": selection(67, 4, 5, 12) if EMULATED else selection(310, 4, 5, 120),
    "many_centers": selection(23, 4, 2, 5, centers=150),
    "wide": selection(11, 1031, 3, 5, centers=2),
    "packs": selection(20, 64, 16, 7, centers=5),
    "many_classes": selection(9, 3, 70, 4),
    "one_class": selection(12, 4, 1, 6),
    "clusters": changed(selection(80, 8, 3, 12), features=lambda f: f + 40 * (torch.arange(80) % 5)[:, None]),
    "duplicates": changed(selection(30, 3, 2, 30, centers=1), features=lattice, centers=lattice, logits=lattice),
    "equal_rows": changed(selection(15, 4, 3, 15), features=torch.ones_like, logits=torch.ones_like),
    "constant_logits": changed(selection(14, 4, 3, 8), logits=torch.zeros_like),
    "minus_infinity": changed(selection(14, 4, 3, 8), logits=lambda z: z.masked_fill(z < -1, -INF).index_fill(1, torch.tensor([0]), 1.0)),
    "zeros": changed(selection(6, 4, 3, 6), features=torch.zeros_like),
    "offset": selection(30, 16, 4, 10, offset=100.0),
    "large": selection(30, 5, 3, 10, centers=2, scale=1e4),
    "small": selection(30, 5, 3, 10, centers=2, scale=2.0**-12),
    "no_features": selection(5, 0, 3, 3, centers=1),
    "no_picks": selection(5, 4, 3, 0, centers=2),
    "no_rows": selection(0, 4, 3, 0, centers=2),
    "transposed": changed(selection(8, 8, 8, 4, centers=8), features=lambda t: t.t(), centers=lambda t: t.t(), logits=lambda t: t.t()),
    "expanded": changed(selection(12, 4, 3, 5), logits=lambda z: z[:1].expand(12, 3)),
}  # fmt: skip


def stored(
    m: int, channels: int, height: int, width: int, taken: int, padding: int | None = None,
    view: Callable[[Tensor], Tensor] = lambda t: t, **options: Any,
) -> Make:  # fmt: skip
    """A pool of bytes, rows to take, and with `padding` the key of random windows."""

    def make(g: torch.Generator) -> dict[str, Any]:
        images = torch.randint(256, (m, channels, height, width), generator=g, dtype=torch.uint8)
        index = torch.randint(len(view(images)), (taken,), generator=g) if m else torch.empty(0, dtype=torch.int64)
        drawn = {} if padding is None else {"key": torch.tensor([20211107, 3]), "padding": padding, "mirror": True}
        seen = view(images).shape[1]
        tone = {"mean": torch.rand(seen, generator=g), "std": 0.1 + torch.rand(seen, generator=g)}
        whole = {"images": view(images), "index": index, "key": None, "padding": 0, "mirror": False}
        return {**whole, **drawn, **tone, **options}

    return make


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


TAKEN: dict[str, Make] = {
    "digits": stored(7, 1, 28, 28, 10),
    "colours": stored(7, 3, 9, 11, 10, padding=4),
    "channels_last": stored(7, 3, 9, 11, 10, padding=4, view=channels_last),
    "channels_last_whole": stored(7, 3, 8, 8, 5, view=channels_last),
    "no_normalization": stored(5, 3, 8, 8, 6, padding=1, mean=None, std=None),
    "not_mirrored": stored(5, 2, 7, 5, 6, padding=2, mirror=False),
    "only_mirrored": stored(5, 2, 7, 5, 9, padding=0),
    "wide_border": stored(4, 2, 3, 5, 12, padding=9),
    "one_pixel": stored(5, 1, 1, 1, 9, padding=1),
    "one_image": stored(1, 3, 5, 7, 1, padding=2),
    "many": stored(9, 3, 6, 5, 20 if EMULATED else 500, padding=2),
    "transposed": stored(5, 3, 6, 8, 7, padding=2, view=lambda t: t.transpose(2, 3)),
    "every_other": stored(5, 4, 6, 8, 7, padding=2, view=lambda t: t[:, ::2, :, ::2]),
    "expanded": stored(1, 2, 6, 8, 1, padding=2, view=lambda t: t.expand(4, 2, 6, 8)),
    "misaligned": stored(5, 3, 5, 5, 7, view=lambda t: t[1:]),
    "nothing_taken": stored(5, 3, 6, 6, 0, padding=2),
    "no_images": stored(0, 3, 6, 6, 0),
    "no_channels": stored(5, 0, 6, 6, 3),
}


def views(v: int, m: int, c: int, scale: float = 2.0, view: Callable[[Tensor], Tensor] = lambda t: t) -> Make:
    return lambda g: {"logits": view(scale * torch.randn(v, m, c, generator=g, dtype=torch.float64))}


def invalid_views(g: torch.Generator) -> dict[str, Any]:
    logits = torch.randn(3, 5, 4, generator=g, dtype=torch.float64)
    logits[0, 1, 2] = -INF
    logits[1, 2] = -INF
    logits[2, 3, 1] = NAN
    logits[0, 4, 0] = INF
    return {"logits": logits}


VIEWS: dict[str, Make] = {
    "odd": views(5, 7, 10),
    "one_view": views(1, 4, 6),
    "one_class": views(3, 4, 1),
    "one_instance": views(9, 1, 5),
    "many_views": views(70, 3, 4),
    "many_instances": views(2, MANY // 2, 3),
    "wide": views(2, 3, 1025),
    "certain": views(4, 6, 5, scale=1e4),
    "alike": views(4, 6, 5, scale=1e-4),
    "permuted": views(4, 6, 5, view=lambda t: t.permute(2, 0, 1)),
    "no_instances": views(3, 0, 4),
    "invalid_rows": invalid_views,
}
