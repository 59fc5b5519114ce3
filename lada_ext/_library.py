"""Loads the compiled library once, and holds what every family page shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor


def _cannot_load(reason: object) -> ImportError:
    return ImportError(
        f"lada_ext's compiled ops cannot be loaded ({reason}).\n"
        "Build them in the environment that has torch, from the folder of the project:\n"
        "    pip install --no-build-isolation .\n"
        "and again after changing torch. Run Python from another folder than the checkout, or install with -e."
    )


try:
    from lada_ext import _C
except ImportError as error:
    raise _cannot_load(error) from error


def build_info() -> dict[str, Any]:
    """How the extension was compiled: torch, compiler, CUDA version (None: CPU only) and its GPU architectures."""
    return dict(_C.build_info())


def release_memory() -> None:
    """Gives the memory back to the system that is kept on the CPU for results to come (of 2 MiB and more).

    Such memory is used again, because the system takes longer to hand out fresh pages than most ops take to fill them.
    What is kept and what is in use together never exceed the most that was in use at once, and on Linux the system may
    take all but 32 MiB of what is kept by itself when it is short of memory, so that this call is rarely needed.
    """
    _C.release_memory()


def check_tensor(op: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")


Fake = TypeVar("Fake", bound=Callable[..., Any])


def require_op(op: str) -> None:
    """That the library has the op: one that was built from older sources has not."""
    name, _, overload = op.removeprefix("lada_ext::").partition(".")
    found = getattr(torch.ops.lada_ext, name, None)
    if found is None or not hasattr(found, overload or "default"):
        raise _cannot_load(f"they are of an older build, without {name}")


def register_fake(op: str) -> Callable[[Fake], Fake]:
    """torch.library.register_fake, for ops that the library has and whose tensors are on one device.

    The dispatcher takes a call for one of the meta device if one tensor is there; a result made like another tensor,
    which is not, would be memory that nobody has written.
    """
    require_op(op)

    def register(fake: Fake) -> Fake:
        def checked(*args: Any, **kwargs: Any) -> Any:
            devices = {value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
            if torch.device("meta") in devices and len(devices) > 1:
                names = " and ".join(sorted(map(str, devices)))
                raise RuntimeError(f"{op.removeprefix('lada_ext::')}: tensors must be on one device, got {names}")
            return fake(*args, **kwargs)

        torch.library.register_fake(op, checked)
        return fake

    return register


def score_dtype(tensor: torch.Tensor) -> torch.dtype:
    """float64 for float64, float32 for every other storage type."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _in_range(number: float, dtype: torch.dtype) -> float:
    """A finite number as the nearest one that is finite in `dtype`, and positive if it is."""
    limits = torch.finfo(dtype)
    if not -math.inf < number < math.inf:
        return number
    return min(max(number, limits.tiny if number > 0 else -limits.max), limits.max)


_NUMBERS = (Tensor, Real, torch.SymFloat, torch.SymInt)


def for_each(op: str, tau: Tensor | float, pairs: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """tau as (P,)."""
    if not isinstance(tau, _NUMBERS):
        raise TypeError(f"{op}: tau must be a tensor or a number, got {type(tau).__name__}")
    if not isinstance(tau, Tensor):
        return torch.full((pairs,), _in_range(float(tau), dtype), dtype=dtype, device=device)
    if tau.dim() == 0:
        return tau.expand(pairs)
    return tau.squeeze(1) if tau.dim() == 2 and tau.shape[1] == 1 else tau
