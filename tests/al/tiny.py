"""A data set of 20 x 20 images in Parquet files, and settings with which a whole run takes a second."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ["bars", "spots", "<script>alert(1)</script>"]
TINY_SETTINGS: dict[str, Any] = {
    "dataset": "fashion",
    "rounds": 2,
    "query": 4,
    "initial": 6,
    "candidates": 24,
    "samples": 3,
    "policy_epochs": 2,
    "policy_batch": 5,
    "policy_lr": 1e-3,
    "epochs": 3,
    "bald_samples": 4,
    "cal_views": 3,
    "vaal_steps": 3,
    "vaal_batch": 8,
    "vaal_width": 4,
    "bgadl_width": 8,
    "pi_batch": 8,
    "threads": 1,
    "device": "cpu",
}


def write_parquet(path: Path, count: int, seed: int, classes: list[str] = CLASSES) -> None:
    """`count` grey images that a classifier can learn: stripes, blobs or noise by class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(classes)
    images = []
    for label in labels:
        pixels = random.integers(0, 80, (20, 20))
        if label == 0:
            pixels[:, :: random.integers(2, 5)] += 150
        elif label == 1:
            row, column = random.integers(3, 17, 2)
            pixels[row - 3 : row + 3, column - 3 : column + 3] += 150
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, format="PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    info = {"info": {"features": {"label": {"names": classes}}}}
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata={"huggingface": json.dumps(info)})
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": pa.array(labels)}, schema=schema), path)
