"""Random: every instance is as good as another."""

from __future__ import annotations

import torch
from torch import Tensor

from lada_al.acquire import Occasion
from lada_al.view import View


def pick(view: View, n: int, occasion: Occasion) -> Tensor:
    return torch.randperm(len(view), generator=occasion.keys.generator("pick", occasion.round))[:n]
