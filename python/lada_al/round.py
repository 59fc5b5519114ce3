"""What an acquisition works with: the settings, keys, acquisition function and augmentation of one round."""

from __future__ import annotations

from dataclasses import dataclass

from lada_al import diverse
from lada_al.acquire import Acquisition
from lada_al.augment import Augmentation
from lada_al.keys import Keys
from lada_al.run.config import Config
from lada_al.timing import Clock, Meter


@dataclass(frozen=True)
class Round:
    """What the steps of one acquisition share."""

    number: int
    config: Config
    keys: Keys
    f_acq: Acquisition
    f_aug: Augmentation | None
    meter: Meter
    clock: Clock

    @property
    def query(self) -> int:
        return self.config.labels_of(self.number)

    @property
    def shortlist(self) -> int:
        """The units of which a purchase is made: as many as it has, or more where it is to be diverse."""
        arity = 1 if self.f_aug is None else self.f_aug.arity
        return self.query // arity * (diverse.SHORTLIST if self.config.selection == "diverse" else 1)
