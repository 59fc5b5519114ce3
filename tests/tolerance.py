"""The one table of tolerances: how close a result must come to the reference in float64."""

from __future__ import annotations

import torch

# Relative and absolute tolerance of a result stored in this dtype, against the reference in float64.
TOLERANCE = {
    torch.float64: (1e-11, 1e-12),
    torch.float32: (4e-6, 2e-6),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (1.6e-2, 1.6e-2),
}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, slack: float = 1.0) -> None:
    """Within `slack` times the tolerance of actual's dtype; NaN where, and only where, NaN is expected."""
    rtol, atol = (slack * t for t in TOLERANCE[actual.dtype])
    torch.testing.assert_close(
        actual.double().cpu(), expected.detach().double().cpu(), rtol=rtol, atol=atol, equal_nan=True
    )
