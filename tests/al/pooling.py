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


# Names of files as they are, and the ids of these files.
ODD_NAMES = {
    "Screenshot 10.15\u202fAM.png": "Screenshot 10.15\u202fAM.png",
    "no\u00a0break/\u3000wide.png": "no\u00a0break/\u3000wide.png",
    "\U0001f469\u200d\U0001f680.png": "\U0001f469\u200d\U0001f680.png",
    "two\nlines.png": "two\\nlines.png",
    "escape\x1b/a.png": "escape\\x1b/a.png",
    "back\\slash.png": "back\\slash.png",
    "back\\nslash.png": "back\\nslash.png",
    "two\nlines and a \\.png": "two\\nlines and a \\\\.png",
    "next\x85line.png": "next\\u0085line.png",
    "next\udc85line.png": "next\\x85line.png",
    "line\u2028end.png": "line\\u2028end.png",
    "caf\udce9.png": "caf\\xe9.png",  # a byte that is no UTF-8, as Python holds it
}


def oddly_named(root: Path) -> Path:
    """A folder with an image under each of ODD_NAMES."""
    for name, image in zip(ODD_NAMES, pixels(len(ODD_NAMES)), strict=True):
        (root / "odd" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "odd" / name).write_bytes(png(image))
    return root / "odd"


def badly_tagged() -> bytes:
    """A JPEG of width 16 and height 8 that is to be turned, in whose EXIF data a tag is of the wrong type."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112], exif[0x010E] = 6, "hello"
    damaged = exif.tobytes().replace(b"\x01\x0e\x00\x02", b"\x01\x01\x00\x02")
    Image.new("L", (16, 8)).save(file, "JPEG", exif=damaged)
    return file.getvalue()


def tiff(mode: str) -> bytes:
    """A TIFF file of this mode; La, grey with associated alpha, is LA with another number in the tag ExtraSamples."""
    file = io.BytesIO()
    Image.new("LA" if mode == "La" else mode, (9, 7)).save(file, "TIFF")
    tag = b"\x52\x01\x03\x00\x01\x00\x00\x00"
    return file.getvalue().replace(tag + b"\x02", tag + b"\x01") if mode == "La" else file.getvalue()


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
