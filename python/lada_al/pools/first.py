"""The images of a round out of a pool of any size: as many as are wanted of those that can be decoded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from itertools import islice
from typing import TypeVar

from lada_al.pools.decode import UnreadableError
from lada_al.timing import Meter

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def read_first(
    ids: Iterable[K],
    count: int,
    read: Callable[[K], T],
    place: Callable[[K], int],
    unreadable: dict[K, str],
    meter: Meter,
) -> dict[K, T]:
    """What `read` makes of the first `count` of `ids` that can be decoded, in their order.

    No more ids are looked at than that takes. They are read by their `place` in the pool, the order in which that is
    fastest. Where `read` raises UnreadableError, the id is left out and entered in `unreadable` with the reason.
    """
    found: dict[K, T] = {}
    order: list[K] = []
    waiting = iter(ids)
    while part := list(islice(waiting, count - len(found))):
        order += part
        for id_ in meter.track("read", sorted(part, key=place)):
            try:
                found[id_] = read(id_)
            except UnreadableError as error:
                unreadable[id_] = str(error)
    return {id_: found[id_] for id_ in order if id_ in found}
