"""Random: every instance is as good as another."""

from __future__ import annotations

import torch
from torch import Tensor

from lada_al.view import View


def pick(view: View, n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(view), generator=generator)[:n]
