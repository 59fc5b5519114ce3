"""Data sets by name, and what is said about files that are not as they should be."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lada_al import data
from lada_al.data import Dataset
from lada_al.errors import UsageError
from PIL import Image
from tiny import CLASSES, write_parquet

SHARED = Path(__file__).parents[3] / "shared" / "data"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(mode: str = "L", size: tuple[int, int] = (20, 20)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format="PNG")
    return file.getvalue()


def write(path: Path, images: list[bytes | None], labels: list[int | None]) -> None:
    column = pa.array([{"bytes": data, "path": None} for data in images], IMAGE)
    pq.write_table(pa.table({"image": column, "label": pa.array(labels, pa.int64())}), path)


SHAPES = {"turned": (1, 9, 7), "grey of 16 bits": (1, 9, 7), "one bit": (1, 9, 7)}


def unusual(mode: str) -> list[bytes]:
    """Three images, two for training and one to test on, of width 7 and height 9 as they are to be seen."""
    images = [Image.effect_noise((7, 9), 90) for _ in range(3)]
    exif = Image.Exif()
    if mode == "turned":
        images = [image.transpose(Image.Transpose.ROTATE_90) for image in images]
        exif[0x0112] = 6
    elif mode == "grey of 16 bits":
        images = [Image.fromarray((np.arange(63) % 3 * 32767.5).astype(np.uint16).reshape(9, 7))] * 3
    else:
        images = [image.convert({"one bit": "1", "palette": "P", "mixed": "L"}[mode]) for image in images]
        if mode == "mixed":
            images[1] = Image.merge("RGB", images)
    stored = [io.BytesIO() for _ in images]
    for image, file in zip(images, stored, strict=True):
        image.save(file, "PNG", exif=exif)
    return [file.getvalue() for file in stored]


def png_of_16_bits(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((9, 7), value, np.uint16)).save(file, "PNG")
    return file.getvalue()


def in_folders(root: Path, images: list[bytes]) -> Path:
    for name, stored in zip(("train/a", "train/b", "test/b"), images, strict=True):
        (root / name).mkdir(parents=True)
        (root / name / "0.png").write_bytes(stored)
    return root


def in_parquet(root: Path, images: list[bytes]) -> Path:
    root.mkdir(exist_ok=True)
    write(root / "train.parquet", [*images[:2]], [0, 1])
    write(root / "test.parquet", [*images[2:]], [1])
    return root


def test_mnist5k() -> None:
    dataset = data.load("mnist5k")
    assert dataset.shape == (1, 28, 28)
    assert dataset.train_labels.bincount().tolist() == [400] * 10
    assert dataset.test_labels.bincount().tolist() == [100] * 10
    train = {bytes(image.numpy().tobytes()) for image in dataset.train_images}
    assert not any(bytes(image.numpy().tobytes()) in train for image in dataset.test_images)
    assert dataset.mean[0] == pytest.approx(0.13, abs=0.01)
    assert dataset.std[0] == pytest.approx(0.31, abs=0.01)


def test_parquet(tiny: Dataset) -> None:
    assert tiny.classes == CLASSES
    assert tiny.shape == (1, 20, 20)
    assert (len(tiny.train_images), len(tiny.test_images)) == (90, 30)
    pixels = tiny.train_images.double() / 255
    assert tiny.mean == pytest.approx([pixels.mean().item()])
    assert tiny.std == pytest.approx([pixels.std(correction=0).item()])


@pytest.mark.parametrize(
    ("name", "shape"), [("cifar10", (3, 32, 32)), ("cifar100", (3, 32, 32)), ("fashion", (1, 28, 28))]
)
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real image files that lie beside the project")
def test_real_files(name: str, shape: tuple[int, int, int]) -> None:
    dataset = data.load(name, SHARED)
    assert dataset.shape == shape
    assert len(dataset.train_images) == 20_000
    assert len(dataset.classes) == (100 if name == "cifar100" else 10)
    assert dataset.random_crop == name.startswith("cifar")
    published = {"cifar10": (0.4918, 0.2467), "cifar100": (0.5082, 0.2673), "fashion": (0.2860, 0.3535)}[name]
    assert (dataset.mean[0], dataset.std[0]) == pytest.approx(published, abs=1e-4)


def test_official_statistics(tiny_folder: Path) -> None:
    assert data.load("fashion", tiny_folder, official_statistics=True).mean == [0.1307]


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
    with gzip.open(path.with_suffix(".gz"), "wb") as file:
        file.write(header + array.tobytes())
    path.write_bytes(header + array.tobytes())


def test_torchvision_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    images = {
        part: random.integers(0, 256, (count, 28, 28), dtype=np.uint8) for part, count in (("train", 20), ("t10k", 10))
    }
    for part, pixels in images.items():
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(len(pixels)) % 10).astype(np.uint8))
    dataset = data.load("fashion", tmp_path)
    assert torch.equal(dataset.train_images[:, 0], torch.from_numpy(images["train"]))
    assert dataset.test_labels.tolist() == list(range(10))
    assert dataset.classes[9] == "Ankle boot"


class TestOwn:
    """Labelled images of the user's own, in each of their forms."""

    @staticmethod
    def folders(root: Path, mode: str = "L") -> Path:
        for part, counts in (("train", {"cat": 3, "dog": 2}), ("test", {"dog": 1})):
            for name, count in counts.items():
                (root / part / name / "deep").mkdir(parents=True)
                for i in range(count):
                    value = (10 * i + (name == "dog")) if mode == "L" else (10 * i, 2, 3)
                    Image.new(mode, (20, 16), value).save(root / part / name / "deep" / f"{i}.png")
        (root / "train" / "cat" / "notes.txt").write_text("not an image")
        return root

    def test_folders(self, tmp_path: Path) -> None:
        dataset = data.load("own", self.folders(tmp_path))
        assert dataset.classes == ["cat", "dog"]
        assert dataset.shape == (1, 16, 20)
        assert dataset.train_images[:, 0, 0, 0].tolist() == [0, 10, 20, 1, 11]
        assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1]
        assert dataset.test_labels.tolist() == [1]
        assert not dataset.random_crop

    def test_one_image_in_colour_makes_all_so(self, tmp_path: Path) -> None:
        self.folders(tmp_path)
        Image.new("RGBA", (20, 16), (7, 8, 9, 255)).save(tmp_path / "test" / "dog" / "b.png")
        dataset = data.load("own", tmp_path)
        assert dataset.shape == (3, 16, 20)
        assert sorted(dataset.test_images[:, :, 0, 0].tolist()) == [[1, 1, 1], [7, 8, 9]]

    def test_images_of_many_sizes(self, tmp_path: Path) -> None:
        self.folders(tmp_path)
        Image.new("L", (30, 40)).save(tmp_path / "train" / "dog" / "z.png")
        message = (
            r"z\.png is 30 x 40 pixels, .*0\.png 20 x 16; --dataset own --set image_size=N makes all of them N x N"
        )
        with pytest.raises(UsageError, match=message):
            data.load("own", tmp_path)
        assert data.load("own", tmp_path, size=12).shape == (1, 12, 12)

    def test_parquet_of_many_sizes(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", [png(size=(20, 20)), png(size=(30, 10))], [0, 1])
        write(tmp_path / "test.parquet", [png(size=(8, 8))], [1])
        with pytest.raises(UsageError, match="row 1 is 30 x 10 pixels, .*row 0 20 x 20; "):
            data.load("own", tmp_path)
        assert data.load("own", tmp_path, size=16).shape == (1, 16, 16)

    @pytest.mark.parametrize("mode", ["turned", "grey of 16 bits", "one bit", "palette", "mixed"])
    def test_folders_and_parquet_give_the_same(self, mode: str, tmp_path: Path) -> None:
        stored = unusual(mode)
        of_folder = data.load("own", in_folders(tmp_path / "a", stored))
        of_parquet = data.load("own", in_parquet(tmp_path / "b", stored))
        assert of_folder.shape == of_parquet.shape == SHAPES.get(mode, (3, 9, 7))
        assert torch.equal(of_folder.train_images, of_parquet.train_images)
        assert torch.equal(of_folder.test_images, of_parquet.test_images)
        if mode == "grey of 16 bits":
            assert of_parquet.test_images.unique().tolist() == [0, 127, 255]

    @pytest.mark.parametrize("form", [in_folders, in_parquet])
    def test_white_of_twelve_bits(self, form: Callable[[Path, list[bytes]], Path], tmp_path: Path) -> None:
        folder = form(tmp_path, [png_of_16_bits(value) for value in (0, 2048, 4095)])
        dataset = data.load("own", folder, white=4095)
        assert dataset.train_images[:, 0, 0, 0].tolist() + dataset.test_images[:, 0, 0, 0].tolist() == [0, 128, 255]
        assert data.load("own", folder).test_images.unique().tolist() == [15]

    def test_grey_with_alpha_is_grey(self, tmp_path: Path) -> None:
        self.folders(tmp_path)
        Image.new("LA", (20, 16), (7, 9)).save(tmp_path / "test" / "dog" / "b.png")
        dataset = data.load("own", tmp_path)
        assert dataset.shape == (1, 16, 20)
        assert sorted(dataset.test_images[:, 0, 0, 0].tolist()) == [1, 7]

    @pytest.mark.parametrize("form", ["in_folders", "in_parquet"])
    def test_an_image_that_would_fill_the_memory(self, form: str, tmp_path: Path) -> None:
        bomb = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
        write_form = {"in_folders": in_folders, "in_parquet": in_parquet}[form]
        with pytest.raises(UsageError, match=r"cannot be read as an image: .*400000000 pixels"):
            data.load("own", write_form(tmp_path, [bomb.getvalue()] * 3))

    @pytest.mark.parametrize("shape", [(16, 20), (16, 20, 3), (3, 16, 20), (16, 20, 1)], ids=str)
    def test_arrays(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        draw = np.random.default_rng(0).integers
        arrays = {
            f"{part}_images": draw(256, size=(n, *shape), dtype=np.uint8) for part, n in (("train", 6), ("test", 4))
        }
        labels = {"train_labels": np.arange(6) % 3, "test_labels": np.arange(4, dtype=np.uint8) % 3}
        np.savez(tmp_path / "a.npz", **arrays, **labels, classes=np.array(["a", "b", "c"]))
        dataset = data.load("own", tmp_path / "a.npz")
        assert dataset.shape == (1 if 3 not in shape else 3, 16, 20)
        assert dataset.classes == ["a", "b", "c"]
        expected = arrays["test_images"][2]
        assert dataset.test_images[2].flatten().sum() == expected.sum()
        assert dataset.test_images[2, 0, 5, 7] == expected.reshape(-1, 16, 20)[0, 5, 7] or shape[-1] == 3
        assert dataset.test_labels.tolist() == [0, 1, 2, 0]

    def test_constant_images_have_a_deviation(self, tmp_path: Path) -> None:
        np.savez(
            tmp_path / "a.npz", train_images=np.full((2, 9, 9), 7, np.uint8), train_labels=np.arange(2),
            test_images=np.full((2, 9, 9), 7, np.uint8), test_labels=np.arange(2),
        )  # fmt: skip
        assert data.load("own", tmp_path / "a.npz").std == [1.0]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"train_labels": None}, "expected arrays train_images, train_labels, test_images, test_labels, got"),
            ({"test_images": np.zeros((2, 9, 9))}, "test_images must be uint8 .*got float64 of shape"),
            ({"test_images": np.zeros((2, 9, 8), np.uint8)}, r"train_images are of shape \(1, 9, 9\), test_images"),
            ({"test_images": np.zeros((2, 9, 9, 5), np.uint8)}, "test_images must be uint8 .*of 1 or 3 channels"),
            ({"train_labels": np.arange(3)}, "train_labels must be 2 class numbers from 0, got int64 of shape"),
            ({"train_labels": np.array([0, -1])}, "train_labels must be 2 class numbers from 0"),
            ({"classes": np.array(["a"])}, "expected names of 2 classes or more, got 1"),
        ],
    )
    def test_bad_arrays(self, changes: dict[str, np.ndarray | None], message: str, tmp_path: Path) -> None:
        images, labels = np.zeros((2, 9, 9), np.uint8), np.arange(2)
        good = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
        arrays = {name: value for name, value in {**good, **changes}.items() if value is not None}
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(UsageError, match=message):
            data.load("own", tmp_path / "a.npz")

    def test_bad_folders(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="data set 'own' needs --data DIR: train/CLASS/FILE"):
            data.load("own")
        with pytest.raises(UsageError, match="--data: expected train/CLASS/FILE and test/CLASS/FILE, train.parquet"):
            data.load("own", tmp_path)
        (tmp_path / "train" / "cat").mkdir(parents=True)
        with pytest.raises(UsageError, match="expected a folder of images for each of two classes or more"):
            data.load("own", tmp_path)
        (tmp_path / "train" / "dog").mkdir()
        with pytest.raises(UsageError, match=r"test does not exist"):
            data.load("own", tmp_path)
        (tmp_path / "test" / "cow").mkdir(parents=True)
        with pytest.raises(UsageError, match=r"cow: there is no such class in .*train"):
            data.load("own", tmp_path)
        (tmp_path / "test" / "cow").rmdir()
        with pytest.raises(UsageError, match=r"train: no image files in cat, dog"):
            data.load("own", tmp_path)
        self.folders(tmp_path / "more")
        (tmp_path / "more" / "train" / "cat" / "bad.png").write_text("nonsense")
        with pytest.raises(UsageError, match=r"bad\.png: cannot be read as an image: no image in any of PNG"):
            data.load("own", tmp_path / "more")


class TestErrors:
    def test_unknown_name_and_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="unknown data set 'imagenet'; choose one of mnist5k, fashion, svhn"):
            data.load("imagenet")
        with pytest.raises(UsageError, match="data set 'cifar10' needs --data DIR"):
            data.load("cifar10")
        with pytest.raises(UsageError, match="there is no folder"):
            data.load("cifar10", tmp_path / "nowhere")
        for name in ("fashion", "cifar10", "cifar100", "svhn"):
            with pytest.raises(UsageError, match=f"does not hold '{name}'.*add --download"):
                data.load(name, tmp_path)

    def test_missing_test_part(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "train.parquet", 3, seed=0)
        with pytest.raises(UsageError, match=r"test\.parquet does not exist"):
            data.load("fashion", tmp_path)

    def test_not_a_parquet_file(self, tmp_path: Path) -> None:
        (tmp_path / "train.parquet").write_text("nonsense")
        with pytest.raises(UsageError, match=r"train\.parquet is not a readable Parquet file"):
            data.load("fashion", tmp_path)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"img": [1], "label": [1]}, "expected columns image.*got img: int64, label: int64"),
            ({"image": [b"x"], "label": [1]}, "expected columns image.*got image: binary"),
            ({"image": [{"bytes": b"x"}], "label": ["cat"]}, "got label: string"),
        ],
    )
    def test_wrong_schema(self, columns: dict[str, list[object]], message: str, tmp_path: Path) -> None:
        pq.write_table(pa.table(columns), tmp_path / "train.parquet")
        with pytest.raises(UsageError, match=message):
            data.load("fashion", tmp_path)

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            ([png(), b"not an image"], [0, 1], "row 1: cannot be read as an image"),
            ([png(), png()[:50]], [0, 1], "row 1: cannot be read as an image"),
            ([png(), None], [0, 1], "row 1: image has no bytes"),
            ([png(), png(size=(20, 21))], [0, 1], r"row 1 is 20 x 21 pixels, .*train\.parquet, row 0 20 x 20; "),
            ([png(), png()], [0, None], "row 1: label is null"),
            ([png(), png()], [0, -3], "row 1: label -3 is negative"),
            ([], [], "has no rows"),
        ],
    )
    def test_corrupt_rows_are_named(
        self, images: list[bytes | None], labels: list[int | None], message: str, tmp_path: Path
    ) -> None:
        write(tmp_path / "train.parquet", images, labels)
        write(tmp_path / "test.parquet", [png()], [0])
        with pytest.raises(UsageError, match=message):
            data.load("fashion", tmp_path)

    def test_parts_that_do_not_fit(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", [png()], [0])
        write(tmp_path / "test.parquet", [png(size=(24, 24))], [0])
        with pytest.raises(
            UsageError, match=r"test\.parquet, row 0 is 24 x 24 pixels, .*train\.parquet, row 0 20 x 20; "
        ):
            data.load("fashion", tmp_path)
        write_parquet(tmp_path / "train.parquet", 3, seed=0, classes=["a", "b", "c"])
        write(tmp_path / "test.parquet", [png()], [7])
        with pytest.raises(UsageError, match="label 7 is beyond the 3 class names"):
            data.load("fashion", tmp_path)


def test_images_of_other_modes_become_rgb(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [png("RGBA"), png("P")], [0, 1])
    write(tmp_path / "test.parquet", [png("RGB")], [0])
    assert data.load("fashion", tmp_path).shape == (3, 20, 20)
