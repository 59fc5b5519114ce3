"""torch.vmap of ops in one call: the mapped axis is one more axis of rows, or joins the axis of the pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Dims = Sequence[int | None]


def fold(value: Tensor, dim: int | None, batch: int) -> Tensor:
    """(batch, P, ...) as (batch * P, ...); what is not mapped over is repeated."""
    value = value.expand(batch, *value.shape) if dim is None else value.movedim(dim, 0)
    return value.flatten(0, 1)


def fold_index(index: Tensor | None, dim: int | None, batch: int, pairs: int, device: torch.device) -> Tensor:
    """Every map draws as it would alone, so each has the same names for its pairs."""
    return fold(torch.arange(pairs, device=device) if index is None else index, dim, batch)


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
        if dim is None:
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
        del info
        assert dims[0] is not None
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
        folded = [fold(a, d, batch) for a, d in zip(args[:tensors], dims[:tensors], strict=True)]
        return unfold(op(*folded, *args[tensors:]), batch, pairs_of(args[0], dims[0]))

    torch.library.register_vmap(f"lada_ext::{name}", rule)
