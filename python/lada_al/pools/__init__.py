"""Pools of images as people have them: folders, Parquet, tar shards, arrays, data set objects.

A pool is a sequence of items, each with an id that is unique and names the same image for ever. It is read in ranges,
so that a pool of any size is scored in constant memory, and an item that cannot be read is an item with a reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lada_al.errors import UsageError
from lada_al.pools.decode import ImageSpec, Limits, UnreadableError
from lada_al.pools.files import kind_of
from lada_al.pools.source import Id, Item, Source

__all__ = ["Id", "ImageSpec", "Item", "Limits", "Source", "UnreadableError", "kind_of", "open_pool"]

KINDS = "a folder of images, Parquet file or folder, tar file or folder of them, .npy or .npz"


def open_pool(
    pool: Any,
    listing: Path | None = None,
    limits: Limits | None = None,
    kind: str | None = None,
    own_ids: bool = True,
) -> Source:
    """The pool at a path, or in an object: a Source, an array, a Hugging Face data set, or a Dataset of (image, id).

    Args:
        pool: a path or an object. Arrays and tensors are of uint8, (M, H, W), (M, H, W, C) or (M, C, H, W).
        listing: where the list of a folder's or a tar file's items is kept, or found if it is there already. Without
            it, the list is held in memory.
        limits: what is too large to be decoded, and how bright white is; a Source has its own.
        kind: what `kind_of` said of a path, if that is to hold whatever lies there now.
        own_ids: whether a column `id` of Parquet files says the ids; if not, they are file and row.

    Raises:
        UsageError: there is nothing there, or it is none of these, or files of two kinds.
    """
    from lada_al.pools import arrays, folder, objects, parquet, tar

    limits = limits or Limits()
    if isinstance(pool, Source):
        return pool
    if not isinstance(pool, str | Path):
        return objects.open_object(pool, limits)
    path = Path(pool)
    kind = kind or kind_of(path)
    if not path.exists():
        raise UsageError(f"pool: there is no {path}; expected {KINDS}")
    if kind == "parquet":
        return parquet.ParquetPool(path, limits, own_ids)
    if kind == "tar":
        return tar.TarPool(path, listing, limits)
    if kind == "folder":
        return folder.FolderPool(path, listing, limits)
    if kind == "array":
        return arrays.ArrayPool(path)
    raise UsageError(f"pool: {path} is of no known kind; expected {KINDS}")
