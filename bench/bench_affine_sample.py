"""Sampling under an affine map, against grid_sample of affine_grid."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext
from bench.contenders import compiled, op_case
from bench.harness import Case
from lada_ext import reference

SIZES = [(256, 3, 32, 32), (256, 64, 32, 32)]


def eager(image: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)


def images(*shape: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, generator=g), torch.eye(2, 3) + 0.1 * torch.randn(shape[0], 2, 3, generator=g)


def cases(device: str) -> Iterator[Case]:
    contenders = {"lada_ext": lada_ext.affine_sample, "eager": eager, "torch.compile": compiled(eager)}
    for shape in SIZES:

        def image_and_theta(g: torch.Generator, shape: tuple[int, ...] = shape) -> tuple[Tensor, ...]:
            return images(*shape, g=g)

        def with_grad(g: torch.Generator, shape: tuple[int, ...] = shape) -> tuple[Tensor, ...]:
            return *(t.requires_grad_() for t in images(*shape, g=g)), torch.randn(*shape, generator=g)

        name, image_bytes = "x".join(map(str, shape)), 4 * torch.Size(shape).numel()
        yield op_case(
            "affine_sample",
            name,
            device,
            image_and_theta,
            contenders,
            reference.affine_sample,
            bytes_moved=2 * image_bytes,
            tolerance=1e-3,
        )
        yield op_case(
            "affine_sample",
            f"{name}, forward + backward",
            device,
            with_grad,
            contenders,
            reference.affine_sample,
            bytes_moved=5 * image_bytes,  # the image twice and its gradient, the sampled image and its gradient
            wrt=[0],
            tolerance=1e-3,
        )
