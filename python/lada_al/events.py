"""What a run yields and its journal keeps: a purchase, and the training that follows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Bought:
    """The instances bought in a round, with all that is needed to train on them and on their virtual instances.

    With an augmentation that makes pairs, ids 2i and 2i + 1 are pair i. `tau` has one entry for each virtual instance's
    origin: a pair's concentration, or the affine map of an image.
    """

    round: int
    ids: list[int]
    labels: list[int]
    scores: list[float] | None = None
    """What each instance was chosen for; both of a pair have the pair's score."""
    entropy: list[float] | None = None
    """Predictive entropy of each instance in bits, before it was trained on."""
    k: int = 0
    tau: list[Any] | None = None
    virtual_entropy: list[float] | None = None
    """Mean predictive entropy of the virtual instances of each pair or image, in bits."""
    candidates: dict[str, float] = field(default_factory=dict)
    """Statistics over all candidates of the round."""
    seconds: dict[str, float] = field(default_factory=dict)

    def units(self, part: slice, arity: int) -> Bought:
        """What training needs of some of the units, pairs or images."""
        instances = slice(part.start * arity, part.stop * arity)
        tau = None if self.tau is None else self.tau[part]
        return replace(self, ids=self.ids[instances], labels=self.labels[instances], tau=tau)


@dataclass(frozen=True)
class Trained:
    """The classifier after training on all that was bought up to this round."""

    round: int
    labelled: int
    accuracy: float
    """On the test set."""
    loss: float
    """Mean training loss of the last epoch."""
    seconds: dict[str, float] = field(default_factory=dict)


Event = Bought | Trained


def to_json(event: Event) -> dict[str, Any]:
    return {"event": type(event).__name__.lower(), **asdict(event)}


def from_json(values: dict[str, Any]) -> Event:
    kinds: dict[str, type[Bought] | type[Trained]] = {"bought": Bought, "trained": Trained}
    fields = dict(values)
    return kinds[fields.pop("event")](**fields)
