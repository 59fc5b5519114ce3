"""A second device without hardware, "second", with the rules of CUDA: tensors there and on the CPU do not mix.

Its tensors hold a CPU tensor, in which their ops are carried out; results there are those on the CPU. What CUDA allows
is allowed: copies between devices, numbers without axes from the CPU, and indices on the CPU into a tensor there. All
else is refused. Our own ops take nothing from the CPU. Random numbers there come from the CPU's generator.

Once in a process `register` makes the device known to torch, before the first backward pass and for good; so it is for
a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "second"
COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
TAKE_INDICES = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
    torch.ops.aten._unsafe_index.Tensor,
}
WAIT = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.repeat_interleave.Tensor,
}


class SecondTensor(Tensor):
    """A tensor on the device; `inside` is the CPU tensor that it holds."""

    inside: Tensor
    recording = False

    @staticmethod
    def __new__(cls, inside: Tensor) -> SecondTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=torch.device(NAME, 0),
        )
        made.inside = inside
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return carry_out(func, args, kwargs or {})

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            args[0].inside = args[1].inside
        with torch._C.DisableTorchFunctionSubclass():  # a result on the CPU is a plain tensor
            return func(*args, **(kwargs or {}))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Files hold what is inside; whoever loads them to the CPU gets it there."""
        return self.inside.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> SecondTensor:
        copied = memo[id(self)] = SecondTensor(self.inside.clone()).requires_grad_(self.requires_grad)
        copied._is_param = isinstance(self, nn.Parameter)
        return copied

    def data_ptr(self) -> int:
        return self.inside.data_ptr()

    def tolist(self) -> Any:
        if SecondTensor.recording:
            raise RuntimeError("tolist: cannot be recorded")
        return self.inside.tolist()

    def numpy(self, **options: Any) -> Any:
        raise TypeError(f"a tensor on {NAME} has to be copied to the CPU first")


def carry_out(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An op on CPU tensors, or an error if its tensors are on both devices."""
    leaves = tree_leaves((args, kwargs))
    check(func, args, kwargs)
    if SecondTensor.recording:
        check_recording(func, args, kwargs)
    to_cpu = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
    inside = {**kwargs, "device": "cpu"} if kwargs.get("device") is not None else kwargs
    made = func(*tree_map(unwrapped, args), **tree_map(unwrapped, inside))
    if to_cpu or func is torch.ops.aten._local_scalar_dense.default:
        return made
    if func is torch.ops.aten.copy_.default:
        return args[0]
    for leaf in leaves:
        if isinstance(leaf, SecondTensor) and leaf.shape != leaf.inside.shape:
            with torch._C.DisableTorchFunctionSubclass(), torch._C._DisableTorchDispatch():
                leaf.data = SecondTensor(leaf.inside)
    held = {id(leaf.inside): leaf for leaf in leaves if isinstance(leaf, SecondTensor)}  # what an op in place returns
    return tree_map(lambda value: held.get(id(value)) if id(value) in held else wrapped(value), made)


def check(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    ours = func.namespace == "lada_ext"
    if func in COPIES:
        return
    if func is torch.ops.lada_ext.top_pairs.default:  # its quadrature's nodes are always on the CPU
        args = args[:1]
    if func in TAKE_INDICES and isinstance(args[0], SecondTensor):
        args = [args[0], *args[2:]]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    strangers = [t for t in tensors if not isinstance(t, SecondTensor) and (ours or t.dim() > 0)]
    if strangers and any(isinstance(t, SecondTensor) for t in tensors):
        raise RuntimeError(f"{func}: tensors on {NAME} and on the CPU, {[tuple(t.shape) for t in strangers]}")


@contextmanager
def recording() -> Iterator[None]:
    """What a CUDA graph cannot record is refused inside the block: whatever waits for the device, or has to do with the
    CPU's memory."""
    SecondTensor.recording = True
    try:
        yield
    finally:
        SecondTensor.recording = False


def check_recording(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    leaves = tree_leaves((args, kwargs))
    on_cpu = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, SecondTensor)]
    to_cpu = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
    by_mask = func in TAKE_INDICES and any(i is not None and i.dtype == torch.bool for i in args[1])
    if on_cpu or to_cpu or by_mask or func in WAIT:
        raise RuntimeError(f"{func}: cannot be recorded, {[tuple(t.shape) for t in on_cpu]} on the CPU")


def unwrapped(value: Any) -> Any:
    return value.inside if isinstance(value, SecondTensor) else value


def wrapped(value: Any) -> Any:
    return SecondTensor(value) if isinstance(value, Tensor) else value


def factory(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Ops that no tensor on the device takes part in: those that make one."""
    return carry_out(func, args, kwargs)


def made_by_way_of_the_cpu(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.tensor and torch.as_tensor write to a device's memory directly, and the device has none."""

    def by_way_of_the_cpu(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        return make(data, **kwargs) if device is None else make(data, **kwargs).to(device)

    return by_way_of_the_cpu


LIBRARY = torch.library.Library("_", "IMPL")


def register() -> None:
    _setup_privateuseone_for_python_backend(NAME)
    LIBRARY.fallback(factory, "PrivateUse1")
    torch.tensor, torch.as_tensor = map(made_by_way_of_the_cpu, (torch.tensor, torch.as_tensor))
