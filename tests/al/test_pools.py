"""Pools in every form hold the same images, under ids that stay, read in any ranges; what is bad is told or skipped."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lada_al.errors import UsageError
from lada_al.pools import ImageSpec, Limits, UnreadableError, kind_of, open_pool
from lada_al.pools.decode import decode, open_image
from lada_al.pools.first import read_first
from lada_al.timing import NoMeter
from PIL import Image, ImageOps
from pooling import (
    ODD_NAMES,
    POOLS,
    SPEC,
    badly_tagged,
    contents,
    folder,
    name,
    npz,
    oddly_named,
    parquet_file,
    pixels,
    png,
    shards,
    tiff,
)

COUNT = 23


@pytest.mark.parametrize("kind", POOLS)
class TestEveryPool:
    def test_holds_the_images_under_unique_ids(self, kind: str, tmp_path: Path) -> None:
        pool = open_pool(POOLS[kind](tmp_path, COUNT))
        assert len(pool) == COUNT
        assert sorted(contents(pool).values()) == sorted(image.tobytes() for image in pixels(COUNT))
        assert list(pool.ids()) == list(contents(pool))
        assert pa.array(list(pool.ids()), pool.id_type).null_count == 0

    def test_any_ranges_are_parts_of_the_whole(self, kind: str, tmp_path: Path) -> None:
        pool = open_pool(POOLS[kind](tmp_path, COUNT))
        whole = list(contents(pool).items())
        for start, stop in [(5, 6), (0, 9), (9, 23), (3, 3), (20, 23), (1, 22)]:
            assert list(contents(pool, start, stop).items()) == whole[start:stop]

    def test_ids_and_order_stay(self, kind: str, tmp_path: Path) -> None:
        path = POOLS[kind](tmp_path, COUNT)
        listing = tmp_path / "listing.arrow"
        first, second, sent = open_pool(path, listing), open_pool(path, listing), open_pool(path)
        sent = pickle.loads(pickle.dumps(sent))
        assert contents(first) == contents(second) == contents(sent)
        assert list(first.ids()) == list(sent.ids())
        assert first.fingerprint() == second.fingerprint() == sent.fingerprint()

    def test_another_pool_has_another_fingerprint(self, kind: str, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        (tmp_path / "2").mkdir()
        first, second = (open_pool(POOLS[kind](tmp_path / n, COUNT + int(n))) for n in "12")
        assert first.fingerprint() != second.fingerprint()


class TestNames:
    def test_any_name_of_a_file_is_part_of_a_folder(self, tmp_path: Path) -> None:
        pool = open_pool(oddly_named(tmp_path))
        assert contents(pool) == {
            id_: image.tobytes() for id_, image in zip(ODD_NAMES.values(), pixels(len(ODD_NAMES)), strict=True)
        }
        assert set(pool.ids()) == {*ODD_NAMES.values()}
        assert pa.array(list(pool.ids()), pool.id_type).null_count == 0

    def test_names_in_tar_files_that_are_no_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
            member = tarfile.TarInfo("caf\u00e9.png")
            member.size = len(png(pixels(1)[0]))
            archive.addfile(member, io.BytesIO(png(pixels(1)[0])))
        path.rename(tmp_path / "sh\udce9rd.tar")
        assert contents(open_pool(tmp_path)) == {"sh\\xe9rd.tar#caf\\xe9.png": pixels(1)[0].tobytes()}

    @pytest.mark.parametrize("kind", ["folder", "tar", "shards"])
    def test_two_names_that_are_one_text_are_refused(self, kind: str, tmp_path: Path) -> None:
        names = ["two\nlines", "two\\nlines"]
        if kind == "folder":
            for name in names:
                (tmp_path / f"{name}.png").touch()
        elif kind == "shards":
            for name in names:
                shutil.copy(shards(tmp_path, 2) / "0.tar", tmp_path / f"{name}.tar")
                shutil.rmtree(tmp_path / "shards")
        else:
            with tarfile.open(tmp_path / "a.tar", "w") as archive:
                for name in names:
                    archive.addfile(tarfile.TarInfo(f"{name}.png"))
        with pytest.raises(UsageError, match=r"pool: two files are both written two\\nlines\.\w+; rename one of them"):
            open_pool(tmp_path)

    def test_a_parquet_file_whose_name_is_no_utf8(self, tmp_path: Path) -> None:
        parquet_file(tmp_path, 1).rename(tmp_path / "sh\udce9rd.parquet")
        with pytest.raises(UsageError, match="is not a readable Parquet file"):
            open_pool(tmp_path)


class TestKinds:
    """What lies beside the images of a pool."""

    @pytest.mark.parametrize("name", [".cache/a.tar", ".a.tar", "x/.cache/y/a.parquet", ".a.parquet"])
    def test_hidden_files_of_other_kinds_are_no_part_of_a_folder(self, name: str, tmp_path: Path) -> None:
        path = folder(tmp_path, 4)
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"")
        assert kind_of(path) == "folder"
        assert len(open_pool(path)) == 4

    @pytest.mark.parametrize(("kind", "suffix"), [("parquet folder", "parquet"), ("tar", "tar")])
    def test_hidden_files_of_its_own_kind_are_no_part_of_a_pool(self, kind: str, suffix: str, tmp_path: Path) -> None:
        path = POOLS[kind](tmp_path, 9)
        (path / ".cache").mkdir()
        for hidden in (f".cache/a.{suffix}", f".a.{suffix}"):
            (path / hidden).write_bytes(b"")
        (path / f"folder.{suffix}").mkdir()
        assert len(open_pool(path)) == 9

    @pytest.mark.parametrize("kind", ["folder", "tar"])
    def test_parquet_without_images_is_a_table_about_them(self, kind: str, tmp_path: Path) -> None:
        path = POOLS[kind](tmp_path, 4)
        pq.write_table(pa.table({"file_name": ["a"], "label": [1]}), path / "metadata.parquet")
        assert kind_of(path) == kind
        assert len(open_pool(path)) == 4


class TestArrays:
    def test_a_file_is_what_it_holds_whatever_its_name(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", pixels(3))
        (tmp_path / "a.npy").rename(tmp_path / "a.NPY")
        pool = open_pool(tmp_path / "a.NPY")
        assert isinstance(pool._images, np.memmap)  # type: ignore[attr-defined]
        assert len(pickle.dumps(pool)) < 2000
        npz(tmp_path, 3).rename(tmp_path / "b.npy")
        for file in ("a.NPY", "b.npy"):
            pool = open_pool(tmp_path / file)
            assert list(contents(pickle.loads(pickle.dumps(pool))).values()) == [p.tobytes() for p in pixels(3)]

    @pytest.mark.parametrize("form", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
    def test_in_memory_ids_are_rows(self, form: Any) -> None:
        pool = open_pool(form(pixels(COUNT)))
        assert contents(pool) == {row: image.tobytes() for row, image in enumerate(pixels(COUNT))}
        assert list(pool.ids()) == pa.array(range(COUNT), pool.id_type).to_pylist()
        assert contents(pool, 5, 9) == {row: pixels(COUNT)[row].tobytes() for row in range(5, 9)}
        sent = pickle.loads(pickle.dumps(pool))
        assert (contents(sent), sent.fingerprint()) == (contents(pool), pool.fingerprint())

    @pytest.mark.parametrize("images", [np.zeros((3, 8, 8)), np.zeros((0, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)])
    def test_what_is_no_array_of_images_is_told(self, images: np.ndarray) -> None:
        with pytest.raises(UsageError, match=r"pool: expected uint8 images \(M, H, W\).*, got "):
            open_pool(images)

    def test_ids_that_come_twice_are_named(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", images=pixels(3), ids=np.array([5, 3, 5]))
        with pytest.raises(UsageError, match=r"a\.npz: ids must be unique; 5 comes 2 times"):
            open_pool(tmp_path / "a.npz")

    @pytest.mark.parametrize("kind", ["damaged", "text"])
    def test_what_is_no_array_is_told(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        if kind == "damaged":
            np.savez_compressed(path, images=pixels(30))
            stored = bytearray(path.read_bytes())
            place = stored.index(b"images.npy") + 30  # where what is compressed begins
            stored[place : place + 9] = b"\xff" * 9
            path.write_bytes(stored)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("images", "hello")
        with pytest.raises(UsageError, match=r"a\.npz is not a readable array file"):
            open_pool(path)


class Images(torch.utils.data.Dataset[Any]):
    """(image, id), of which item 2 cannot be read."""

    def __init__(self, ids: list[Any]) -> None:
        self.names = ids

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        if i == 2:
            raise OSError("the disk is gone")
        return Image.fromarray(pixels(COUNT)[i]), self.names[i]


class TestParquet:
    def test_only_row_groups_that_are_asked_for_are_read(self, tmp_path: Path, row_groups_read: list[int]) -> None:
        pool = open_pool(parquet_file(tmp_path, 7 * 30))
        for row in (3, 5, 70, 71, 76, 77, 209):
            (item,) = pool.read(row, row + 1)
            assert decode(item.stored, SPEC, pool.limits).tobytes() == pixels(7 * 30)[row].tobytes()
        assert row_groups_read == [0, 10, 11, 29]
        assert len(contents(pool, 12, 30)) == 18
        assert row_groups_read == [0, 10, 11, 29, 1, 2, 3, 4]

    def test_ranges_may_be_read_by_turns(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lada_al.pools.parquet.ROWS_AT_A_TIME", 3)
        pool = open_pool(parquet_file(tmp_path, 20))
        ids = [(a.id, b.id) for a, b in zip(pool.read(0, 10), pool.read(10, 20), strict=True)]
        assert ids == [(f"images.parquet#{i}", f"images.parquet#{i + 10}") for i in range(10)]


class TestObjects:
    def test_a_torch_dataset_of_images_and_ids(self) -> None:
        pool = open_pool(Images(["a", "b", "c", "d"]))
        items = list(pool.read(0, 4))
        assert [item.id for item in items] == ["a", "b", "item 2", "d"]
        assert isinstance(items[2].stored, UnreadableError)
        assert decode(items[3].stored, SPEC, pool.limits).tobytes() == pixels(COUNT)[3].tobytes()

    def test_a_hugging_face_dataset(self) -> None:
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        rows = {
            "image": [{"bytes": png(p), "path": None} for p in pixels(COUNT)],
            "id": [f"h{i}" for i in range(COUNT)],
        }
        pool = open_pool(datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()))
        assert list(contents(pool).items()) == [(f"h{i}", p.tobytes()) for i, p in enumerate(pixels(COUNT))]

    @pytest.mark.parametrize(
        ("dataset", "message"),
        [
            (Images([1, 1, 2, 3]), "ids must be unique; 1 comes more than once"),
            (Images([1, "x", 2, 3]), "all text or all whole numbers"),
            (Images([1.5, 2.5, 3.5]), "an id must be text or a whole number, got float"),
            ([1, 2], r"must yield \(image, id\), got int at 0"),
            (iter([]), "expected a path, an array of images, a Hugging Face data set, or a torch Dataset"),
        ],
        ids=["twice", "mixed", "float", "no pair", "iterator"],
    )
    def test_bad_objects(self, dataset: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            open_pool(dataset)


class TestBadPaths:
    def make(self, kind: str, root: Path) -> Path:  # noqa: PLR0911
        path = root / "pool"
        if kind == "nothing":
            return path
        if kind == "empty folder":
            path.mkdir()
            return path
        if kind == "text file":
            path = path.with_suffix(".txt")
            path.write_text("hello")
            return path
        if kind == "both":
            shards(root, 3)
            return parquet_file(root, 3).parent
        if kind.startswith("images and "):
            return self.make_mixed(kind, root)
        if kind in ("no parquet", "no tar", "no npy"):
            path = path.with_suffix("." + kind.split()[1])
            path.write_bytes(b"nonsense" * 99)
            return path
        path = path.with_suffix(".parquet")
        table = {
            "no column": {"picture": [b""]},
            "text column": {"image": ["a"]},
            "no rows": {"image": pa.array([], pa.binary())},
            "ids twice": {"image": [b"", b""], "id": ["a", "a"]},
            "null id": {"image": [b"", b""], "id": ["a", None]},
            "float id": {"image": [b""], "id": [1.5]},
            "large id": {"image": [b""], "id": pa.array([2**63], pa.uint64())},
            "text bytes": {"image": [{"bytes": "a"}]},
            "list of bytes": {"image": [{"bytes": [b"a"]}]},
            "number for a path": {"image": [{"bytes": None, "path": 5}]},
        }
        if kind in table:
            pq.write_table(pa.table(table[kind]), path)
            return path
        path = path.with_suffix(".npy")
        shape = {"float": (2, 4, 4), "vectors": (2, 4), "four channels": (2, 8, 8, 4)}[kind]
        np.save(path, np.zeros(shape, np.float64 if kind == "float" else np.uint8))
        return path

    def make_mixed(self, kind: str, root: Path) -> Path:
        path = folder(root, 2)
        if kind == "images and tar":
            (path / "x").mkdir()
            (path / "x" / "y.tar").write_bytes(b"")
        elif kind == "images and parquet":
            parquet_file(path, 2)
        else:
            (path / "b.parquet").write_bytes(b"")
        return path

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("nothing", "there is no .*pool; expected a folder of images"),
            ("empty folder", "holds no image files .*; hidden ones and links to folders are passed over"),
            ("text file", "is of no known kind; expected"),
            (
                "both",
                r"holds Parquet files \(images.parquet\) and tar files \(shards/0.tar\); name the files of one kind",
            ),
            (
                "images and tar",
                r"holds image files \(a/000.png\) and tar files \(x/y.tar\); name the files of one kind",
            ),
            ("images and parquet", r"holds image files \(a/000.png\) and Parquet files \(images.parquet\); name"),
            ("images and a damaged parquet", r"holds image files .* and Parquet files \(b.parquet\); name"),
            ("no parquet", "is not a readable Parquet file"),
            ("no tar", "is not a readable, uncompressed tar file"),
            ("no npy", "is not a readable array file"),
            ("no column", "expected a column image of bytes or of struct<bytes: binary, path: string>, got picture: "),
            ("text column", "got image: string"),
            ("no rows", "has no rows"),
            ("ids twice", "ids must be unique; 'a' comes 2 times"),
            ("null id", "1 ids are null"),
            ("float id", "ids must be text or whole numbers, got double"),
            ("large id", "ids must be text or whole numbers of 64 bits"),
            ("text bytes", "got image: struct<bytes: string>"),
            ("list of bytes", "got image: struct<bytes: list<"),
            ("number for a path", "got image: struct<bytes: null, path: int64>"),
            ("float", "expected uint8 images .* got float64"),
            ("vectors", r"got uint8 of shape \(2, 4\)"),
            ("four channels", r"of 1 or 3 channels, got uint8 of shape \(2, 8, 8, 4\)"),
        ],
    )
    def test_is_told_what_is_wrong(self, kind: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=message):
            open_pool(self.make(kind, tmp_path))

    @pytest.mark.parametrize("url", ["s3://bucket/photos", "https://host/a.parquet"])
    def test_urls_are_told_to_be_none(self, url: str) -> None:
        for pool in (url, Path(url)):
            with pytest.raises(UsageError, match=r"^pool: \w+:/.* is a URL; expected a path: mount the store, or copy"):
                open_pool(pool)

    def test_pickled_objects_in_arrays_are_not_loaded(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "images.npz", images=pixels(2), ids=np.array([{"a": 1}, "b"], dtype=object))
        with pytest.raises(UsageError, match="not a readable array file.*allow_pickle"):
            open_pool(tmp_path / "images.npz")


class TestBadItems:
    def reasons(self, path: Path, **limits: int) -> dict[Any, str]:
        pool = open_pool(path, limits=Limits(**limits))
        found = {}
        for item in pool.read(0, len(pool)):
            try:
                decode(item.stored, SPEC, pool.limits)
            except UnreadableError as error:
                found[item.id] = str(error)
        return found

    def test_each_is_an_item_with_its_reason(self, tmp_path: Path) -> None:
        path = folder(tmp_path, 6)
        (path / name(0)).write_bytes(b"not an image")
        (path / name(1)).write_bytes(png(pixels(2)[1])[:80])
        (path / name(2)).write_bytes(b"")
        (path / name(3)).unlink()
        (path / name(3)).symlink_to(tmp_path / "elsewhere.png")
        (tmp_path / "elsewhere.png").write_bytes(png(pixels(1)[0]))
        (path / name(4)).unlink()
        (path / name(4)).symlink_to(path / name(4))
        reasons = self.reasons(path)
        assert set(reasons) == {name(0), name(1), name(2), name(3), name(4)}
        assert "leads outside" in reasons[name(3)]
        assert all(reasons.values())

    def test_what_is_too_large_is_not_decoded(self, tmp_path: Path) -> None:
        path = folder(tmp_path, 2)
        (path / name(0)).write_bytes(png(np.zeros((3000, 3000), np.uint8)))  # a small file
        assert "3000 x 3000 pixels" in self.reasons(path, pixels=8_000_000)[name(0)]
        assert set(self.reasons(path, bytes=20)) == {name(0), name(1)}

    def test_hidden_files_and_other_files_are_not_part_of_a_folder(self, tmp_path: Path) -> None:
        path = folder(tmp_path, 3)
        (path / ".hidden.png").write_bytes(png(pixels(1)[0]))
        (path / "notes.txt").write_text("x")
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "a.png").write_bytes(png(pixels(1)[0]))
        (path / "more").symlink_to(tmp_path / "more")
        assert len(open_pool(path)) == 3

    def test_what_is_no_regular_file_is_not_waited_for(self, tmp_path: Path) -> None:
        path = folder(tmp_path, 3)
        os.mkfifo(path / "pipe.png")
        os.mkfifo(path / "pipe.tar")
        (path / "link.png").symlink_to("pipe.png")
        assert len(open_pool(path)) == 3
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = pa.array([{"bytes": None, "path": name} for name in ("pipe.png", "link.png", "a")], kind)
        pq.write_table(pa.table({"image": rows}), path / "images.parquet")
        reasons = self.reasons(path / "images.parquet")
        assert list(reasons.values()) == 3 * ["it is no regular file"]

    def test_paths_in_parquet_stay_in_the_pools_folder(self, tmp_path: Path) -> None:
        (tmp_path / "secret.png").write_bytes(png(pixels(1)[0]))
        root = folder(tmp_path, 2)
        paths = [name(0), "../secret.png", str(tmp_path / "secret.png"), None, "nul\0.png"]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = pa.array([{"bytes": None, "path": path} for path in paths], kind)
        pq.write_table(pa.table({"image": rows}), root / "images.parquet")
        reasons = self.reasons(root / "images.parquet")
        assert {id_: reason for id_, reason in reasons.items() if "outside" in reason}.keys() == {
            "images.parquet#1",
            "images.parquet#2",
        }
        assert reasons["images.parquet#3"] == "there are no bytes"
        assert "its path cannot be used" in reasons["images.parquet#4"]
        assert len(reasons) == 4

    @pytest.mark.parametrize("kind", [pa.large_string(), pa.uint16()])
    def test_ids_of_other_widths_are_taken(self, kind: pa.DataType, tmp_path: Path) -> None:
        ids = pa.array([7, 5]).cast(kind)
        pq.write_table(pa.table({"image": [png(image) for image in pixels(2)], "id": ids}), tmp_path / "a.parquet")
        pool = open_pool(tmp_path / "a.parquet")
        assert list(contents(pool)) == list(pool.ids()) == ids.to_pylist()
        assert pool.id_type in (pa.string(), pa.int64())

    @pytest.mark.parametrize("damage", ["a header", "cut in a header", "cut in an image", "cut after an image"])
    def test_a_damaged_tar_file_is_told_and_not_read_in_part(self, damage: str, tmp_path: Path) -> None:
        path = shards(tmp_path, 20) / "1.tar"
        with tarfile.open(path) as archive:
            place = archive.getmembers()[8].offset
        stored = bytearray(path.read_bytes())
        if damage == "a header":
            stored[place + 150] ^= 1
        else:
            del stored[place + {"cut in a header": 100, "cut in an image": 520, "cut after an image": 0}[damage] :]
        path.write_bytes(stored)
        with pytest.raises(UsageError, match=r"1\.tar is damaged or cut short at byte \d+$"):
            open_pool(path.parent)

    def test_a_tar_file_that_was_cut_short_after_it_was_listed(self, tmp_path: Path) -> None:
        path = shards(tmp_path, 6) / "0.tar"
        pool = open_pool(path)
        with tarfile.open(path) as archive:
            last = archive.getmembers()[4].offset_data
        with path.open("r+b") as file:
            file.truncate(last + 10)
        items = list(pool.read(0, len(pool)))
        assert isinstance(items[2].stored, UnreadableError)
        assert not isinstance(items[1].stored, UnreadableError)


class TestFirst:
    def test_what_is_unreadable_makes_way_for_the_next_and_no_more_is_looked_at(self) -> None:
        """The first three are read in the order of their places, then two more for the two that cannot be."""
        looked_at, reads = [], []
        unreadable: dict[str, str] = {}

        def ids() -> Iterator[str]:
            for id_ in "hbfaecgd":
                looked_at.append(id_)
                yield id_

        def read(id_: str) -> str:
            reads.append(id_)
            if id_ in "hf":
                raise UnreadableError(f"{id_} is no image")
            return id_.upper()

        found = read_first(ids(), 3, read, ord, unreadable, NoMeter())
        assert list(found.items()) == [("b", "B"), ("a", "A"), ("e", "E")]
        assert unreadable == {"h": "h is no image", "f": "f is no image"}
        assert reads == ["b", "f", "h", "a", "e"]
        assert looked_at == ["h", "b", "f", "a", "e"]

    def test_fewer_than_are_wanted(self) -> None:
        assert read_first([5, 3], 4, str, int, {}, NoMeter()) == {5: "5", 3: "3"}
        assert read_first([5, 3], 0, str, int, {}, NoMeter()) == {}


class TestImages:
    def test_are_scaled_until_they_cover_and_cut_around_the_centre(self) -> None:
        spec = ImageSpec(3, 10, 20)
        image = np.zeros((40, 40, 3), np.uint8)
        image[10:30] = 200  # the middle half of the height, which is all that is left
        assert (spec.pixels(Image.fromarray(image))[1:-1] > 100).all()
        assert spec.pixels(image).shape == (10, 20, 3)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_of_every_mode_are_taken(self, mode: str, channels: int, tmp_path: Path) -> None:
        kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
        Image.new(mode, (9, 7)).save(tmp_path / "image", format=kind)
        image = open_image((tmp_path / "image").read_bytes(), Limits())
        spec = ImageSpec(channels, 12, 12, (0.5,) * channels, (0.5,) * channels)
        assert spec.pixels(image).shape == (12, 12, channels)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_palette_with_alpha_is_taken_without_a_warning(self, channels: int) -> None:
        image, file = Image.effect_noise((9, 7), 90).convert("P"), io.BytesIO()
        image.save(file, "PNG", transparency=bytes(range(256)))
        spec = ImageSpec(channels, 7, 9, (0.5,) * channels, (0.5,) * channels)
        assert np.array_equal(decode(file.getvalue(), spec, Limits()), decode(image, spec, Limits()))

    @pytest.mark.parametrize("mode", ["La", "LAB", "RGBX"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_of_less_usual_modes_are_taken(self, mode: str, channels: int) -> None:
        spec = ImageSpec(channels, 12, 12, (0.5,) * channels, (0.5,) * channels)
        assert decode(tiff(mode), spec, Limits()).shape == (12, 12, channels)

    def test_of_floating_pixels_are_refused(self) -> None:
        for stored in (tiff("F"), Image.new("F", (9, 7))):
            with pytest.raises(UnreadableError, match="floating pixels, expected whole numbers of 8 or 16 bits"):
                decode(stored, SPEC, Limits())

    def test_of_sixteen_bits_keep_the_upper_ones(self) -> None:
        image = Image.fromarray(np.full((12, 12), 1000, np.uint16))
        assert (decode(image, SPEC, Limits()) == 3).all()

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", None])
    def test_of_twelve_bits_in_sixteen_are_as_bright_as_white_says(self, kind: str | None) -> None:
        values = np.array([[0, 15, 16, 2048, 4095, 5000]] * 6, np.uint16)
        stored: Image.Image | bytes = Image.fromarray(values)
        if kind is not None:
            file = io.BytesIO()
            Image.fromarray(values).save(file, kind)
            stored = file.getvalue()
        spec = ImageSpec(1, 6, 6, (0.5,), (0.5,))
        assert (decode(stored, spec, Limits(white=4095))[:, :, 0] == [0, 0, 1, 128, 255, 255]).all()
        assert (decode(stored, spec, Limits())[:, :, 0] == [0, 0, 0, 8, 15, 19]).all()

    @pytest.mark.parametrize("white", [0, 65536])
    def test_white_is_a_value_of_sixteen_bits(self, white: int) -> None:
        with pytest.raises(UsageError, match=f"white must be from 1 to 65535, got {white}"):
            Limits(white=white)

    def test_are_turned_though_another_tag_is_damaged(self) -> None:
        assert open_image(badly_tagged(), Limits()).size == (8, 16)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_are_turned_as_pillow_turns_them(self, orientation: int) -> None:
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.effect_noise((9, 7), 99).save(file, "PNG", exif=exif)
        expected = ImageOps.exif_transpose(Image.open(file))
        assert open_image(file.getvalue(), Limits()).tobytes() == expected.tobytes()

    def test_normalised_is_what_it_says(self) -> None:
        spec = ImageSpec(3, 4, 5)
        stored = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
        expected = (stored.permute(0, 3, 1, 2) / 255 - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[
            :, None, None
        ]
        found = spec.normalised(stored)
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("options", [{"channels": 2}, {"height": 0}, {"mean": (0.5,)}, {"std": (1.0, 0.0, 1.0)}])
    def test_a_spec_that_is_none(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="ImageSpec"):
            ImageSpec(**options)
