"""Sampling under an affine map, against torch's pair of affine_grid and grid_sample, and kornia's warp_affine.

Small images, features and large images, each forward, with both gradients, and with the gradient to theta alone (the
learning of InfoSTN's policy); outputs smaller than the image; bytes sampled to normalised floats; and the deterministic
gradient beside the fast one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext
from bench.contenders import Make, Op, as_double, compiled, forward_and_backward, op_case
from bench.harness import Case
from lada_ext import reference

Shape = tuple[int, ...]
SIZES: list[Shape] = [(256, 3, 32, 32), (256, 64, 32, 32), (32, 3, 224, 224)]
SHRINKING: list[tuple[Shape, int]] = [((8, 3, 224, 224), 64), ((8, 3, 224, 224), 32), ((8, 64, 56, 56), 24)]
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]
FAMILY = "affine_sample"


def eager(image: Tensor, theta: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    grid = F.affine_grid(theta, [*image.shape[:2], *(size or image.shape[2:])], align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)


def to_side(op: Op, side: int) -> Op:
    return lambda image, theta: op(image, theta, (side, side))


def kornia_warp(image: Tensor, theta: Tensor) -> Tensor:
    """kornia takes a map of pixels, from input to output; building it from theta is part of using it here."""
    from kornia.geometry import warp_affine

    height, width = image.shape[-2:]
    to_unit = theta.new_tensor([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
    last = theta.new_tensor([0.0, 0, 1]).expand(len(theta), 1, 3)
    pixels = torch.linalg.inv(to_unit) @ torch.cat([theta, last], 1) @ to_unit
    out: Tensor = warp_affine(image, torch.linalg.inv(pixels)[:, :2], (height, width), align_corners=True)
    return out


def images(g: torch.Generator, shape: Shape) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, generator=g), torch.eye(2, 3) + 0.1 * torch.randn(shape[0], 2, 3, generator=g)


def with_gradient(g: torch.Generator, shape: Shape, *, image: bool, side: int | None = None) -> tuple[Tensor, ...]:
    pixels, theta = images(g, shape)
    grad = torch.randn(shape if side is None else (*shape[:2], side, side), generator=g)
    return pixels.requires_grad_(image), theta.requires_grad_(), grad


def normalized_eager(image: Tensor, theta: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return eager((image.float() / 255 - mean[:, None, None]) / std[:, None, None], theta)


def normalized(image: Tensor, theta: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return lada_ext.affine_sample(image, theta, normalize=(mean, std))


def normalized_reference(image: Tensor, theta: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return reference.affine_sample(image, theta, normalize=(mean, std))


def pool_images(g: torch.Generator, shape: Shape) -> tuple[Tensor, ...]:
    pixels = torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
    return pixels, images(g, shape)[1], torch.tensor(MEAN), torch.tensor(STD)


def deterministic(image: Tensor, theta: Tensor) -> Tensor:
    """Its backward gathers; the switch is read when the gradient is computed, so it is set around both directions."""
    return _Deterministic.apply(image, theta)


class _Deterministic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(image, theta)
        return lada_ext.affine_sample(image, theta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        torch.use_deterministic_algorithms(True)
        try:
            image, theta = ctx.saved_tensors
            out: tuple[Tensor, Tensor] = torch.ops.lada_ext.affine_sample_backward(
                grad, image, theta, "bilinear", "zeros", False, None, None, [True, True]
            )
            return out
        finally:
            torch.use_deterministic_algorithms(False)


def gradients_are_right(
    make: Make, wrt: list[int], device: str, ours: Op = lada_ext.affine_sample, definition: Op = reference.affine_sample
) -> None:
    """In float32 a few pixels lie on the other side of a cell edge than in float64, which the gradient to theta shows,
    torch's as well as ours: there the median entry is compared."""
    made = make(torch.Generator().manual_seed(0))
    arguments = tuple(t.detach().to(device).requires_grad_(t.requires_grad) for t in made)
    actual = forward_and_backward(ours, wrt)(*arguments)
    expected = forward_and_backward(definition, wrt)(*as_double(arguments))
    for i, got, want in zip(wrt, actual, expected, strict=True):
        error = (got - want).abs() / (1 + want.abs())
        assert (error.max() < 1e-3) if i == 0 else (error.median() < 1e-4), f"gradient {i}: off by {error.max()}"


def shrinking_cases(device: str) -> Iterator[Case]:
    case = partial(op_case, FAMILY, device=device, tolerance=1e-3)
    for shape, side in SHRINKING:
        name = f"{'x'.join(map(str, shape))} to {side}x{side}"
        ours, theirs, definition = (
            to_side(op, side) for op in (lada_ext.affine_sample, eager, reference.affine_sample)
        )
        contenders = {"lada_ext": ours, "eager": theirs, "torch.compile": compiled(theirs)}
        image_bytes, out_bytes = 4 * torch.Size(shape).numel(), 4 * shape[0] * shape[1] * side * side
        yield case(
            name=name,
            make=partial(images, shape=shape),
            contenders=contenders,
            definition=definition,
            bytes_moved=image_bytes + out_bytes,
        )
        make = partial(with_gradient, shape=shape, image=True, side=side)
        made = case(
            name=f"{name}, forward + backward",
            make=make,
            contenders=contenders,
            definition=definition,
            bytes_moved=3 * image_bytes + 2 * out_bytes,
            wrt=[0, 1],
        )
        yield replace(made, check=partial(gradients_are_right, make, [0, 1], device, ours, definition))


def cases(device: str) -> Iterator[Case]:
    contenders = {
        "lada_ext": lada_ext.affine_sample,
        "eager": eager,
        "torch.compile": compiled(eager),
        "kornia": kornia_warp,
    }
    case = partial(op_case, FAMILY, device=device, tolerance=1e-3)
    for shape in SIZES:
        name, image_bytes = "x".join(map(str, shape)), 4 * torch.Size(shape).numel()
        yield case(
            name=name,
            make=partial(images, shape=shape),
            contenders=contenders,
            definition=reference.affine_sample,
            bytes_moved=2 * image_bytes,
        )
        # the image twice and its gradient, the sampled image and its gradient
        for which, wrt, images_moved in (("", [0, 1], 5), ("theta ", [1], 4)):
            make = partial(with_gradient, shape=shape, image=0 in wrt)
            made = case(
                name=f"{name}, {which}forward + backward",
                make=make,
                contenders=contenders | ({"deterministic": deterministic} if 0 in wrt else {}),
                definition=reference.affine_sample,
                bytes_moved=images_moved * image_bytes,
                wrt=wrt,
            )
            yield replace(made, check=partial(gradients_are_right, make, wrt, device))
    yield from shrinking_cases(device)
    for shape in (SIZES[0], SIZES[2]):
        yield case(
            name=f"{'x'.join(map(str, shape))}, bytes to normalised float",
            make=partial(pool_images, shape=shape),
            contenders={"lada_ext": normalized, "eager": normalized_eager, "torch.compile": compiled(normalized_eager)},
            definition=normalized_reference,
            bytes_moved=5 * torch.Size(shape).numel(),
        )
