"""Selections from cached features: Coreset and BADGE, which choose a set and score no item alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import lada_ext
from lada_al.errors import UsageError
from lada_al.keys import Keys
from lada_al.run.config import Config
from lada_al.score import cached, run

SELECTIONS = ("coreset", "badge")


@torch.no_grad()
def select(path: Path, method: str, k: int, out: Path, device: torch.device) -> int:
    """Writes the `k` picks, in their order, to top.csv of a new folder `out`; returns how many there are.

    The file holds `features` (M, D), what the last layer sees; for badge also `logits` (M, C); for coreset perhaps
    `labelled` (L, D), features of what has its label already. The selections are exact, in one process and in memory.

    Raises:
        UsageError: naming the array that is missing or is something else.
    """
    arrays = cached.load(path)
    features = cached.matrix(arrays, "features", path)
    ids = cached.ids_of(arrays, len(features), path)
    logits = cached.matrix(arrays, "logits", path) if method == "badge" or "logits" in arrays else None
    if logits is not None and len(logits) != len(features):
        raise UsageError(f"--embeddings: {len(features)} rows of features, but {len(logits)} of logits in {path}")
    labelled = cached.matrix(arrays, "labelled", path) if "labelled" in arrays else np.empty((0, features.shape[1]))
    if labelled.shape[1] != features.shape[1]:
        raise UsageError(
            f"--embeddings: labelled must have {features.shape[1]} columns as features, got {labelled.shape}"
        )
    if (out / run.ABOUT).exists():
        raise UsageError(f"--out: {out} holds a scoring or a selection; {method} takes another folder")
    run.check_folder(out, resume=False)
    about = {"method": method, "embeddings": str(path.resolve()), "top": k}
    rows = torch.tensor(features, device=device)
    centers = torch.tensor(labelled, device=device).to(rows)
    seen = None if logits is None else torch.tensor(logits, device=device).to(rows)
    k = min(k, len(rows))
    _check_finite("features", rows, path)
    if method == "coreset":
        _check_finite("labelled", centers, path)
        picks = lada_ext.k_center_greedy(rows, centers, k)
    else:
        assert seen is not None
        _check_finite("the softmax of logits", seen.softmax(1), path)
        picks = lada_ext.badge_select(rows, seen, k, Keys(Config().seed).key("pick", 0, device=device))
    entropy = [None] * k if seen is None else lada_ext.entropy(seen[picks]).tolist()
    chosen = picks.tolist()
    names = chosen if ids is None else ids[chosen].tolist()
    run.begin(out, about)
    run.write_csv(
        out / run.TOP, run.COLUMNS, [[name, None, h, None, None] for name, h in zip(names, entropy, strict=True)]
    )
    return k


def _check_finite(name: str, rows: Tensor, path: Path) -> None:
    """Refuses rows that have no distance to others; on a GPU the ops do not look for them."""
    lengths = rows.to(torch.promote_types(rows.dtype, torch.float32)).square().sum(1)
    wrong = (~lengths.isfinite()).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise UsageError(
            f"--embeddings: {name} must have a finite squared norm, got {float(lengths[row])} in row {row} of {path}"
        )
