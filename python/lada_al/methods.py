"""Methods by the names of the paper's tables: a grammar over the files of acquire/ and augment/.

entropy                    an acquisition function alone
ent+manifold-mixup         a pipeline: acquire, then augment what was bought
lada-ent-mix-fixed         look-ahead: acquire by the scores of real and virtual instances (Eq. 2, 13), fixed policy
lada-ent-mix               the same, with the policy learned each round (Eq. 1)
"""

from __future__ import annotations

from dataclasses import dataclass

from lada_al import acquire, augment
from lada_al.acquire import Acquisition
from lada_al.augment import AugmentationKind
from lada_al.errors import UsageError


@dataclass(frozen=True)
class Method:
    """What a round does: f_acq, f_aug, whether it looks ahead, and whether it learns the policy first."""

    name: str
    acquisition: Acquisition
    augmentation: AugmentationKind | None = None
    look_ahead: bool = False
    learn: bool = False

    @property
    def summary(self) -> str:
        if self.augmentation is None:
            return self.acquisition.summary
        acquisition, augmentation = self.acquisition.name, self.augmentation.name
        if not self.look_ahead:
            return f"Acquire by {acquisition}, then augment the bought instances by {augmentation}."
        policy = "learned each round" if self.learn else "fixed"
        return f"Acquire by {acquisition} of real and virtual instances; {augmentation} with its policy {policy}."


def all_methods() -> dict[str, Method]:
    """Every method there is."""
    acquisitions = [acquire.load(name) for name in acquire.names()]
    augmentations = [augment.load(name) for name in augment.names()]
    plain = [Method(f_acq.name, f_acq) for f_acq in acquisitions]
    composed = [
        method
        for f_acq in acquisitions
        if f_acq.score is not None
        for f_aug in augmentations
        for method in (
            Method(f"{f_acq.short}+{f_aug.pipeline}", f_acq, f_aug),
            Method(f"lada-{f_acq.short}-{f_aug.name}-fixed", f_acq, f_aug, look_ahead=True),
            Method(f"lada-{f_acq.short}-{f_aug.name}", f_acq, f_aug, look_ahead=True, learn=True),
        )
    ]
    return {method.name: method for method in plain + composed}


def method(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: there is none; the message names all.
    """
    known = all_methods()
    if name not in known:
        raise UsageError(f"unknown method '{name}'; choose one of {', '.join(known)}")
    return known[name]
