"""torch.vmap of ops: in one call where the mapped axis is one more axis of rows, or joins the axis of the pairs; else
in a call for each map.

A map that lacks an axis is given to the op as it is, for the op to say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Dims = Sequence[int | None]


def lack_axes(values: Sequence[Tensor | None], dims: Dims, axes: int = 1) -> bool:
    """Whether one of them, if it is there, has less than `axes` axes in each map."""
    given = [(value, dim) for value, dim in zip(values, dims, strict=True) if value is not None]
    return any(value.dim() - (dim is not None) < axes for value, dim in given)


def fold(value: Tensor, dim: int | None, batch: int) -> Tensor:
    """(batch, P, ...) as (batch * P, ...); what is not mapped over is repeated."""
    value = value.expand(batch, *value.shape) if dim is None else value.movedim(dim, 0)
    return value.flatten(0, 1)


def fold_index(index: Tensor | None, dim: int | None, batch: int, pairs: int, device: torch.device) -> Tensor:
    """Every map draws as it would alone, so each has the same names for its pairs."""
    return fold(torch.arange(pairs, device=device) if index is None else index, dim, batch)


def fold_pool(pool: Tensor, dim: int | None, pairs: Tensor, pairs_dim: int | None, batch: int) -> tuple[Tensor, Tensor]:
    """The rows of all maps, one map after another, and the pairs that name them there; a pool that is not mapped over
    stays as it is."""
    count, folded = pairs_of(pairs, pairs_dim), fold(pairs, pairs_dim, batch)
    if dim is None:
        return pool, folded
    rows = pairs_of(pool, dim)
    first = rows * torch.arange(batch, device=pairs.device).repeat_interleave(count)[:, None]
    beyond = torch.where(folded < 0, 0, rows * (batch - 1))  # what is in no map's range stays out of all
    return fold(pool, dim, batch), folded + torch.where((folded < 0) | (folded >= rows), beyond, first)


def unfold(results: Any, batch: int, pairs: int) -> tuple[Any, Any]:
    """Results (batch * pairs, ...) and the axis of the batch in them, as torch.library.register_vmap wants it."""
    if isinstance(results, Tensor):
        return results.unflatten(0, (batch, pairs)), 0
    return tuple(unfold(r, batch, pairs)[0] for r in results), (0,) * len(results)


def pairs_of(value: Tensor, dim: int | None) -> int:
    """P of what may be mapped over `dim`."""
    return value.shape[1 if dim == 0 else 0]


def one_by_one(op: Callable[..., Any], batch: int, dims: Dims, args: Sequence[Any]) -> tuple[Any, Any]:
    """For maps over what one call cannot hold several of, such as keys."""

    def part(value: Any, dim: int | None, i: int) -> Any:
        if not isinstance(dim, int):  # None, or that of each number of a list
            return value
        return value.select(dim, i) if batch else value.sum(dim, dtype=value.dtype)  # zeros, for the shape of a result

    results = [op(*(part(a, d, i) for a, d in zip(args, dims, strict=True))) for i in range(max(1, batch))]
    if isinstance(results[0], Tensor):
        return torch.stack(results)[:batch], 0
    return tuple(torch.stack(each)[:batch] for each in zip(*results, strict=True)), (0,) * len(results[0])


def register_rows(name: str, leading: int = 0) -> None:
    """Of an op on rows of logits (..., C), and of its backward pass; the mapped axis goes behind `leading` others."""
    forward, backward = (getattr(torch.ops.lada_ext, f"{name}{suffix}") for suffix in ("", "_backward"))

    def rule(info: Any, dims: Dims, logits: Tensor, *rest: Any) -> tuple[Tensor, int]:
        assert dims[0] is not None
        if lack_axes([logits], dims[:1], leading + 1):
            return one_by_one(forward, info.batch_size, dims, (logits, *rest))
        return forward(logits.movedim(dims[0], leading), *rest), 0

    def backward_rule(info: Any, dims: Dims, grad: Tensor, logits: Tensor, *rest: Any) -> tuple[Tensor, int]:
        def mapped(value: Tensor, dim: int | None, to: int) -> Tensor:
            whole = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            return whole.movedim(0, to)

        return backward(mapped(grad, dims[0], 0), mapped(logits, dims[1], leading), *rest), leading

    torch.library.register_vmap(f"lada_ext::{name}", rule)
    torch.library.register_vmap(f"lada_ext::{name}_backward", backward_rule)


def register_folded(name: str, tensors: int) -> None:
    """Of an op whose first `tensors` arguments have an axis of pairs and whose other arguments are not tensors."""
    op = getattr(torch.ops.lada_ext, name)

    def rule(info: Any, dims: Dims, *args: Any) -> tuple[Any, Any]:
        batch = info.batch_size
        if lack_axes(args[:tensors], dims[:tensors]):
            return one_by_one(op, batch, dims, args)
        folded = [fold(a, d, batch) for a, d in zip(args[:tensors], dims[:tensors], strict=True)]
        return unfold(op(*folded, *args[tensors:]), batch, pairs_of(args[0], dims[0]))

    torch.library.register_vmap(f"lada_ext::{name}", rule)


def register_one_by_one(name: str) -> None:
    """Of an op whose work is so much that a call for each map costs nothing."""
    op = getattr(torch.ops.lada_ext, name)

    def rule(info: Any, dims: Dims, *args: Any) -> tuple[Any, Any]:
        return one_by_one(op, info.batch_size, dims, args)

    torch.library.register_vmap(f"lada_ext::{name}", rule)
