"""Data sets as Python objects: arrays, Hugging Face `datasets`, and any torch Dataset that yields (image, id)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lada_al.errors import UsageError
from lada_al.pools.arrays import ArrayInMemory
from lada_al.pools.decode import Limits, UnreadableError
from lada_al.pools.source import Id, Item, Source, read_file


class TorchPool(Source):
    """A Dataset of (image, id): an image of PIL, or a uint8 array or tensor; an id that is text or a whole number.

    Ids are read once, item by item, unless the data set says them in an attribute `ids`. An item that cannot be read
    then has the id `item I`, or -1 - I where ids are numbers.
    """

    def __init__(self, dataset: Any, limits: Limits) -> None:
        self.dataset, self.limits = dataset, limits
        ids = list(dataset.ids) if hasattr(dataset, "ids") else [self._item(i)[1] for i in range(len(dataset))]
        as_text = any(isinstance(id_, str) for id_ in ids)
        unknown = [f"item {i}" if as_text else -1 - i for i in range(len(ids))]
        known = [unknown[i] if id_ is None else id_ for i, id_ in enumerate(ids)]
        self._ids = checked_ids(known, len(dataset))
        self.id_type = pa.string() if isinstance(self._ids[0], str) else pa.int64()

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, start: int, stop: int) -> Iterator[Item]:
        for i in range(start, stop):
            yield Item(self._ids[i], self._item(i)[0])

    def ids(self) -> Iterator[Id]:
        yield from self._ids

    def fingerprint(self) -> str:
        return str(len(self))

    def _item(self, i: int) -> tuple[Any, Any]:
        """Image and id; an error and None if the user's own code cannot read the item, whatever it raises."""
        try:
            item = self.dataset[i]
        except Exception as error:
            return UnreadableError(f"{type(error).__name__}: {error}"), None
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UsageError(f"pool: the data set must yield (image, id), got {type(item).__name__} at {i}")
        return item[0], item[1]


class HuggingFacePool(Source):
    """A Hugging Face data set with a column `image`. An id is what a column `id` says, or the row."""

    def __init__(self, dataset: Any, limits: Limits) -> None:
        from datasets import Image

        if "image" not in dataset.column_names:
            raise UsageError(f"pool: the data set must have a column image, got {', '.join(dataset.column_names)}")
        self.limits = limits
        self.dataset = dataset.cast_column("image", Image(decode=False))
        ids = dataset["id"][:] if "id" in dataset.column_names else range(len(dataset))
        self._ids = checked_ids(ids, len(dataset))
        self.id_type = pa.string() if isinstance(self._ids[0], str) else pa.int64()

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, start: int, stop: int) -> Iterator[Item]:
        for i in range(start, stop):
            yield Item(self._ids[i], _stored(self.dataset[i]["image"], self.limits))

    def ids(self) -> Iterator[Id]:
        yield from self._ids

    def fingerprint(self) -> str:
        return self.dataset._fingerprint


def open_object(dataset: Any, limits: Limits) -> Source:
    if isinstance(dataset, np.ndarray | torch.Tensor):
        return ArrayInMemory(dataset.numpy(force=True) if isinstance(dataset, torch.Tensor) else dataset)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or not len(dataset):
        raise UsageError(
            "pool: expected a path, an array of images, a Hugging Face data set, or a torch Dataset with __len__ and "
            f"__getitem__ that yields (image, id), with at least one item; got {type(dataset).__name__}"
        )
    if hasattr(dataset, "column_names") and hasattr(dataset, "cast_column"):
        return HuggingFacePool(dataset, limits)
    return TorchPool(dataset, limits)


def checked_ids(ids: Any, count: int) -> list[Id]:
    """All text or all whole numbers, each once."""
    ids = [id_ if isinstance(id_, str) else _whole(id_) for id_ in ids]
    if len(ids) != count or len({type(id_) for id_ in ids}) != 1:
        raise UsageError(f"pool: expected {count} ids, all text or all whole numbers, got {len(ids)} of mixed kinds")
    if len(set(ids)) < count:
        seen: set[Id] = set()
        double = next(id_ for id_ in ids if id_ in seen or seen.add(id_))  # type: ignore[func-returns-value]
        raise UsageError(f"pool: ids must be unique; {double!r} comes more than once")
    return ids


def _whole(id_: Any) -> int:
    try:
        return int(id_.__index__())
    except (AttributeError, TypeError) as error:
        raise UsageError(f"pool: an id must be text or a whole number, got {type(id_).__name__}") from error


def _stored(image: Any, limits: Limits) -> Any:
    """What `datasets` holds of an image: its bytes, or the path of its file on this machine."""
    if image is None:
        return UnreadableError("there is no image")
    if image["bytes"] is not None:
        return image["bytes"]
    try:
        return read_file(Path(image["path"]), limits)
    except OSError as error:
        return UnreadableError(error.strerror or type(error).__name__)
