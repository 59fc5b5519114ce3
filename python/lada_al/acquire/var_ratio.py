"""Variation Ratio: one minus the probability of the likeliest class, f_acq^Var (Section 2.3)."""

from __future__ import annotations

from torch import Tensor

import lada_ext
from lada_al.view import View

SHORT = "var"
FUSED = "variation_ratio"


def score(view: View) -> Tensor:
    return lada_ext.variation_ratio(view.logits)
