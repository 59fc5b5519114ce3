"""Max Entropy: the predictive entropy of an instance in bits, f_acq^Ent (Section 2.3)."""

from __future__ import annotations

from torch import Tensor

import lada_ext
from lada_al.view import View

SHORT = "ent"
FUSED = "entropy"


def score(view: View) -> Tensor:
    return lada_ext.entropy(view.logits)
