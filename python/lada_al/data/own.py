"""A labelled data set of one's own: image files in a folder for each class, Parquet files, or arrays.

A folder with train/CLASS/FILE and test/CLASS/FILE; one with train.parquet and test.parquet (parquet.py); or a .npz
file of train_images, train_labels, test_images and test_labels, and perhaps `classes`, the names. Image
files are read as in image_files.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lada_al.data import Dataset, parquet, statistics
from lada_al.data.image_files import channels_first, stacked
from lada_al.errors import UsageError
from lada_al.pools.arrays import load_arrays
from lada_al.pools.decode import SUFFIXES, Limits

NAME = "own"
EXPECTED = "train/CLASS/FILE and test/CLASS/FILE, train.parquet and test.parquet, or a .npz file"
ARRAYS = ["train_images", "train_labels", "test_images", "test_labels"]


def load(path: Path, size: int | None, limits: Limits) -> Dataset:
    """
    Args:
        path: the folder or .npz file.
        size: height and width that image files are scaled and cut to; None for images that are of one size.
        limits: what is too large to be decoded, and how bright white is.

    Raises:
        UsageError: naming the file, what was expected and what came.
    """
    if path.suffix.lower() == ".npz":
        return _of_arrays(path)
    if (path / "train.parquet").exists():
        return parquet.load(path, NAME, size, limits)
    if (path / "train").is_dir():
        return _of_folders(path, size, limits)
    raise UsageError(f"--data: expected {EXPECTED}, got {path}")


def _of_folders(folder: Path, size: int | None, limits: Limits) -> Dataset:
    classes = sorted(child.name for child in (folder / "train").iterdir() if child.is_dir())
    if len(classes) < 2:
        raise UsageError(f"{folder / 'train'}: expected a folder of images for each of two classes or more")
    if not (folder / "test").is_dir():
        raise UsageError(f"{folder / 'test'} does not exist; it holds a folder of images for each class")
    strangers = sorted({child.name for child in (folder / "test").iterdir() if child.is_dir()} - {*classes})
    if strangers:
        raise UsageError(f"{folder / 'test' / strangers[0]}: there is no such class in {folder / 'train'}")
    train, test = (_files(folder / part, classes) for part in ("train", "test"))
    images = stacked(_stored([file for file, _ in [*train, *test]]), size, limits)
    labels = torch.tensor([label for _, label in [*train, *test]])
    return _dataset(classes, images, labels, len(train))


def _files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Image files and the numbers of their classes."""
    found = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.is_file()
    ]
    if not found:
        raise UsageError(f"{folder}: no image files in {', '.join(classes)}")
    return found


def _stored(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        try:
            yield str(file), file.read_bytes()
        except OSError as error:
            raise UsageError(f"{file}: cannot be read: {error}") from error


def _of_arrays(path: Path) -> Dataset:
    arrays = load_arrays(path)
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise UsageError(f"{path}: expected arrays {', '.join(ARRAYS)}, got {', '.join(arrays)}")
    images, labels = [], []
    for part in ("train", "test"):
        pixels, numbers = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        grey, color = pixels.ndim == 3, pixels.ndim == 4 and (pixels.shape[-1] in (1, 3) or pixels.shape[1] in (1, 3))
        if pixels.dtype != np.uint8 or not (grey or color) or not len(pixels):
            raise UsageError(
                f"{path}: {part}_images must be uint8 (M, H, W), (M, H, W, C) or (M, C, H, W) of 1 or 3 channels, "
                f"got {pixels.dtype} of shape {pixels.shape}"
            )
        if numbers.shape != (len(pixels),) or numbers.dtype.kind not in "iu" or int(numbers.min()) < 0:
            raise UsageError(
                f"{path}: {part}_labels must be {len(pixels)} class numbers from 0, "
                f"got {numbers.dtype} of shape {numbers.shape}"
            )
        images.append(channels_first(pixels))
        labels.append(torch.from_numpy(numbers.astype(np.int64)))
    if images[0].shape[1:] != images[1].shape[1:]:
        shapes = [tuple(image.shape[1:]) for image in images]
        raise UsageError(f"{path}: train_images are of shape {shapes[0]}, test_images {shapes[1]}")
    count = int(torch.cat(labels).max()) + 1
    classes = [str(name) for name in arrays["classes"]] if "classes" in arrays else [str(c) for c in range(count)]
    if len(classes) < max(count, 2):
        raise UsageError(f"{path}: expected names of {max(count, 2)} classes or more, got {len(classes)}")
    return _dataset(classes, torch.cat(images), torch.cat(labels), len(images[0]))


def _dataset(classes: list[str], images: Tensor, labels: Tensor, train: int) -> Dataset:
    mean, std = statistics(images[:train])
    return Dataset(NAME, classes, images[:train], labels[:train], images[train:], labels[train:], mean, std)
