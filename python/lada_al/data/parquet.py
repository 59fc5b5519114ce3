"""Data sets in Parquet, in the Hugging Face image layout: a struct `image` whose `bytes` hold one image file, an int64
`label`. A data set is a folder with train.parquet and test.parquet, whose images are read as in image_files.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lada_al.data import Dataset, has_random_crop, statistics
from lada_al.data.image_files import stacked
from lada_al.errors import UsageError
from lada_al.pools.decode import Limits


def find(folder: Path, name: str) -> Path | None:
    """The folder that holds the set's Parquet files: folder/name or folder itself."""
    return next((f for f in (folder / name, folder) if (f / "train.parquet").exists()), None)


def load(folder: Path, name: str, size: int | None, limits: Limits) -> Dataset:
    """With a `size`, images of any are scaled and cut to size x size."""
    train, test = _read(folder / "train.parquet"), _read(folder / "test.parquet")
    train_labels, test_labels = train.labels, test.labels
    count = max(int(train_labels.max()), int(test_labels.max())) + 1
    classes = train.classes or [str(c) for c in range(count)]
    if count > len(classes):
        raise UsageError(f"{folder}: label {count - 1} is beyond the {len(classes)} class names of the schema")
    images = stacked(chain(train.files, test.files), size, limits)
    train_images, test_images = images[: len(train_labels)], images[len(train_labels) :]
    mean, std = statistics(train_images)
    return Dataset(
        name, classes, train_images, train_labels, test_images, test_labels, mean, std, has_random_crop(name)
    )


@dataclass(frozen=True)
class _Part:
    """What one Parquet file holds."""

    files: Iterator[tuple[str, bytes]]
    labels: Tensor
    classes: list[str]


def _read(path: Path) -> _Part:
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} is not a readable Parquet file: {error}") from error
    _check_schema(path, table.schema)
    if table.num_rows == 0:
        raise UsageError(f"{path} has no rows")
    labels = table["label"]
    if labels.null_count:
        row = labels.to_pylist().index(None)
        raise UsageError(f"{path}, row {row}: label is null")
    values = torch.from_numpy(labels.to_numpy().astype(np.int64))
    if int(values.min()) < 0:
        raise UsageError(f"{path}, row {int(values.argmin())}: label {int(values.min())} is negative")
    return _Part(_stored(path, table["image"]), values, _class_names(table.schema))


def _check_schema(path: Path, schema: pa.Schema) -> None:
    wanted = "columns image: struct<bytes: binary, ...> and label: int64"
    kinds = {field.name: field.type for field in schema}
    image, label = kinds.get("image"), kinds.get("label")
    if image is None or not pa.types.is_struct(image) or image.get_field_index("bytes") < 0 or label is None:
        raise UsageError(f"{path}: expected {wanted}, got {', '.join(f'{n}: {t}' for n, t in kinds.items())}")
    if not pa.types.is_integer(label):
        raise UsageError(f"{path}: expected {wanted}, got label: {label}")


def _stored(path: Path, images: pa.ChunkedArray) -> Iterator[tuple[str, bytes]]:
    for row, data in enumerate(images.combine_chunks().field("bytes")):
        if not data.is_valid:
            raise UsageError(f"{path}, row {row}: image has no bytes")
        yield f"{path}, row {row}", data.as_py()


def _class_names(schema: pa.Schema) -> list[str]:
    """The names that the Hugging Face metadata gives to the labels, or nothing."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return []
    features = json.loads(text).get("info", {}).get("features", {})
    return list(features.get("label", {}).get("names", []))
