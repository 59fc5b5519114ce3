"""One pool of images in every form in which a pool can be stored."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lada_al.pools import ImageSpec, Source
from lada_al.pools.decode import decode
from PIL import Image

SPEC = ImageSpec(1, 12, 12, (0.5,), (0.5,))


def pixels(count: int) -> np.ndarray:
    """(count, 12, 12) uint8, each image another."""
    return np.random.default_rng(0).integers(0, 256, (count, 12, 12), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def name(i: int) -> str:
    return f"{'ab'[i % 2]}/{i:03d}.png"


def folder(root: Path, count: int) -> Path:
    for i, image in enumerate(pixels(count)):
        path = root / "folder" / name(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return root / "folder"


def parquet_file(root: Path, count: int) -> Path:
    path = root / "images.parquet"
    pq.write_table(pa.table({"image": [png(image) for image in pixels(count)]}), path, row_group_size=7)
    return path


def parquet_folder(root: Path, count: int) -> Path:
    """In the Hugging Face layout, in three files, with ids."""
    path = root / "parquet"
    path.mkdir()
    rows = [{"id": f"x{i}", "image": {"bytes": png(p), "path": None}} for i, p in enumerate(pixels(count))]
    for number, part in enumerate(np.array_split(np.arange(count), 3)):
        schema = pa.schema([("id", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
        pq.write_table(pa.Table.from_pylist([rows[i] for i in part], schema), path / f"{number}.parquet")
    return path


def shards(root: Path, count: int) -> Path:
    path = root / "shards"
    path.mkdir()
    for number, part in enumerate(np.array_split(np.arange(count), 2)):
        with tarfile.open(path / f"{number}.tar", "w") as archive:
            for i in part.tolist():
                for suffix, content in (("png", png(pixels(count)[i])), ("cls", b"1")):
                    member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return path


def npy(root: Path, count: int) -> Path:
    np.save(root / "images.npy", pixels(count))
    return root / "images.npy"


def npz(root: Path, count: int) -> Path:
    np.savez(root / "images.npz", images=pixels(count)[:, None], ids=np.array([f"n{i}" for i in range(count)]))
    return root / "images.npz"


POOLS: dict[str, Callable[[Path, int], Path]] = {
    "folder": folder,
    "parquet file": parquet_file,
    "parquet folder": parquet_folder,
    "tar": shards,
    "npy": npy,
    "npz": npz,
}


def contents(pool: Source, start: int = 0, stop: int | None = None) -> dict[object, bytes]:
    """Pixels by id."""
    items = list(pool.read(start, len(pool) if stop is None else stop))
    found = {item.id: decode(item.stored, SPEC, pool.limits).tobytes() for item in items}
    assert len(found) == len(items)
    return found
