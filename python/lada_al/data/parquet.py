"""Data sets in Parquet, in the Hugging Face image layout: a struct `image` whose `bytes` hold one image file, an int64
`label`. A data set is a folder with train.parquet and test.parquet; images of one set have one size and mode.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lada_al.data import Dataset, has_random_crop, statistics
from lada_al.errors import UsageError

MODES = {"L": 1, "RGB": 3}


def find(folder: Path, name: str) -> Path | None:
    """The folder that holds the set's Parquet files: folder/name or folder itself."""
    return next((f for f in (folder / name, folder) if (f / "train.parquet").exists()), None)


def load(folder: Path, name: str, size: int | None = None) -> Dataset:
    """With a `size`, images of any are scaled and cut to size x size."""
    train_images, train_labels, classes = _read(folder / "train.parquet", size)
    test_images, test_labels, _ = _read(folder / "test.parquet", size)
    count = max(int(train_labels.max()), int(test_labels.max())) + 1
    classes = classes or [str(c) for c in range(count)]
    if count > len(classes):
        raise UsageError(f"{folder}: label {count - 1} is beyond the {len(classes)} class names of the schema")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise UsageError(
            f"{folder}: images of test.parquet have shape {tuple(test_images.shape[1:])}, "
            f"of train.parquet {tuple(train_images.shape[1:])}"
        )
    mean, std = statistics(train_images)
    return Dataset(
        name, classes, train_images, train_labels, test_images, test_labels, mean, std, has_random_crop(name)
    )


def _read(path: Path, size: int | None) -> tuple[Tensor, Tensor, list[str]]:
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} is not a readable Parquet file: {error}") from error
    _check_schema(path, table.schema)
    if table.num_rows == 0:
        raise UsageError(f"{path} has no rows")
    files = table["image"].combine_chunks().field("bytes")
    images = [_decode(path, row, data.as_py(), size) for row, data in enumerate(files)]
    for row, image in enumerate(images):
        if image.shape != images[0].shape:
            raise UsageError(f"{path}, row {row}: image has shape {image.shape}, row 0 has {images[0].shape}")
    labels = table["label"]
    if labels.null_count:
        row = labels.to_pylist().index(None)
        raise UsageError(f"{path}, row {row}: label is null")
    values = torch.from_numpy(labels.to_numpy().astype(np.int64))
    if int(values.min()) < 0:
        raise UsageError(f"{path}, row {int(values.argmin())}: label {int(values.min())} is negative")
    return torch.from_numpy(np.stack(images)), values, _class_names(table.schema)


def _check_schema(path: Path, schema: pa.Schema) -> None:
    wanted = "columns image: struct<bytes: binary, ...> and label: int64"
    kinds = {field.name: field.type for field in schema}
    image, label = kinds.get("image"), kinds.get("label")
    if image is None or not pa.types.is_struct(image) or image.get_field_index("bytes") < 0 or label is None:
        raise UsageError(f"{path}: expected {wanted}, got {', '.join(f'{n}: {t}' for n, t in kinds.items())}")
    if not pa.types.is_integer(label):
        raise UsageError(f"{path}: expected {wanted}, got label: {label}")


def _decode(path: Path, row: int, data: bytes | None, size: int | None) -> np.ndarray:
    """(channels, H, W) uint8."""
    if data is None:
        raise UsageError(f"{path}, row {row}: image has no bytes")
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        if image.mode not in MODES:
            image = image.convert("RGB")
        if size is not None:
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{path}, row {row}: cannot decode the image: {error}") from error
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _class_names(schema: pa.Schema) -> list[str]:
    """The names that the Hugging Face metadata gives to the labels, or nothing."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return []
    features = json.loads(text).get("info", {}).get("features", {})
    return list(features.get("label", {}).get("names", []))
