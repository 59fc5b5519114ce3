"""Which files below a folder are a pool, and of what kind it is: one rule for whatever opens pools.

Files and folders whose names begin with a dot, and what is no regular file (a pipe, a socket, a device), are passed
over. A folder holds images, Parquet or tar files. Where it holds two of these it is refused, because one would be left
out without a word; but Parquet files without a column `image` beside others are tables about them, and no pool.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from lada_al.errors import UsageError
from lada_al.pools.decode import SUFFIXES

DATA = {".parquet": "parquet", ".tar": "tar"}
ARRAYS = {".npy": "array", ".npz": "array"}
NAMES = {"folder": "image files", "parquet": "Parquet files", "tar": "tar files"}
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of one slash: a Path joins two to one


def kind_of(path: Path, argument: str = "pool") -> str | None:
    """folder, parquet, tar or array; None if a file, or what is not there, has no suffix of any of them.

    Raises:
        UsageError: a folder is of two kinds, or this is a URL; naming the `argument` that it was given for.
    """
    if not path.exists() and URL.match(str(path)):
        raise UsageError(f"{argument}: {path} is a URL; expected a path: mount the store, or copy the files")
    if not path.is_dir():
        return (DATA | ARRAYS).get(path.suffix.lower())
    found: dict[str, list[str]] = {}
    for name in files_below(path, SUFFIXES | DATA.keys()):
        kind = DATA.get(_suffix(name), "folder")
        if kind == "parquet" or kind not in found:
            found.setdefault(kind, []).append(name)
    if len(found) > 1 and not any(_may_hold_images(path / name) for name in found.get("parquet", [])):
        found.pop("parquet", None)
    if len(found) > 1:
        kinds = " and ".join(f"{NAMES[kind]} ({names[0]})" for kind, names in sorted(found.items()))
        raise UsageError(
            f"{argument}: {path} holds {kinds}; name the files of one kind, or hide the others by a name that begins "
            "with a dot"
        )
    return next(iter(found), "folder")


def data_files(path: Path, suffix: str) -> list[Path]:
    """The files of a pool of Parquet or tar files: those with this suffix below a folder, or the one at the path."""
    if not path.is_dir():
        return [path]
    return sorted(path / name for name in files_below(path, {suffix}))


def files_below(folder: Path, suffixes: Collection[str], prefix: str = "") -> Iterator[str]:
    """Files and links to them, sorted: each one's path, which is `prefix` and what is below the folder."""
    with os.scandir(folder) as entries:
        listed = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(Path(entry.path), suffixes, f"{prefix}{entry.name}/")
        elif _suffix(entry.name) in suffixes and _is_file(entry):
            yield prefix + entry.name


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether this is a regular file or leads to one, or a link that leads nowhere, which its reader will tell."""
    return entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path) or not os.path.exists(entry.path)


def _may_hold_images(path: Path) -> bool:
    """Whether a Parquet file has a column `image`, or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return "image" in pq.read_schema(path).names
    except (pa.ArrowException, OSError, UnicodeError):
        return True
