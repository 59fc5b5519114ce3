"""The pool of a labelling project: images by id, from whatever `lada score` reads too (pools/).

An id is text that names one image for ever. Ids are looked up in what the pool holds and are never made into paths, so
nothing that people or files say can reach outside of it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from PIL import Image

from lada_al.pools import Limits, Source, UnreadableError
from lada_al.pools.decode import as_hwc, open_image


class Images:
    """What ranking and labelling need to know of a pool. Several threads may ask."""

    def __init__(self, pool: Source) -> None:
        self._pool, self._lock = pool, threading.Lock()
        self._places = {str(id_): place for place, id_ in enumerate(pool.ids())}

    def ids(self) -> list[str]:
        """Every id, in an order that does not change."""
        return list(self._places)

    def place(self, id: str) -> int:
        """Where it is in the pool. In this order files are read fastest.

        Raises:
            KeyError: the pool has no such id.
        """
        return self._places[id]

    def image(self, id: str) -> Image.Image:
        """The image, in mode L or RGB and the right way up.

        Raises:
            KeyError: the pool has no such id.
            UnreadableError: it cannot be decoded.
        """
        place = self._places[id]
        with self._lock:
            (item,) = self._pool.read(place, place + 1)
        return decode(item.stored, self._pool.limits)

    def location(self, id: str) -> str:
        """Where a person finds it; KeyError if the pool has no such id."""
        return self._pool.location(self._places[id])

    def file(self, id: str) -> bytes | None:
        """Its path below the pool's folder, if it is a file by itself; KeyError if the pool has no such id."""
        return self._pool.file(self._places[id])


def decode(stored: Any, limits: Limits) -> Image.Image:
    """An item as a pool stores it, in mode L or RGB and the right way up.

    Raises:
        UnreadableError: it is no image, is cut short, or exceeds the limits.
    """
    if isinstance(stored, UnreadableError):
        raise stored
    if isinstance(stored, bytes):
        image = open_image(stored, limits)
    else:
        pixels = as_hwc(np.asarray(stored))
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
