"""`lada init`: what a pool of images is like, and the project over it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lada_al.errors import UsageError
from lada_al.files import write_text
from lada_al.label.images import Images
from lada_al.label.project import PROJECT, SMALLEST, Project
from lada_al.label.rank import config_of
from lada_al.pools import Limits, kind_of, open_pool
from lada_al.pools.decode import WHITE, UnreadableError

LOOKED_AT = 64  # images that decide how large the network's inputs are
LARGEST_NATURAL_SIZE = 64  # images that are all of one size up to this keep it
USUAL_SIZE = 64
DARK = 16  # of 255: where white of 12 bits is in an image of 16


def create(
    folder: Path, pool: Path, classes: list[str], size: int | None, white: int = WHITE, **options: Any
) -> Project:
    """Writes project.json of a new project into `folder`.

    Raises:
        UsageError: there is one already, or the pool, the classes or an option cannot be used.
    """
    if (folder / PROJECT).exists():
        raise UsageError(f"--project: {folder / PROJECT} exists; a project is begun once")
    kind = kind_of(pool, "--pool")
    images = Images(open_pool(pool, limits=Limits(white=white), kind=kind))
    height, width, channels = _shape(images)
    if size is not None:
        height = width = size
    elif (height, width) == (0, 0):
        height = width = USUAL_SIZE
    project = Project(
        pool=pool.resolve(),
        kind=kind,
        ids="own",
        classes=classes,
        size=(height, width),
        channels=channels,
        white=white,
        **options,
    )
    config_of(project)  # refuses what the first ranking would refuse
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(project.model_dump(mode="json"), indent=2, ensure_ascii=False)
    write_text(folder / PROJECT, text + "\n")
    return project


def _shape(images: Images) -> tuple[int, int, int]:
    """Height and width that the first images share, or zeros; and 1 channel if all of them are grey, or 3.

    Images that share a size below what a network takes are scaled up to that.
    """
    sizes, modes = set(), set()
    for image in _first(images):
        sizes.add((image.height, image.width))
        modes.add(image.mode)
    if not modes:
        raise UsageError(f"--pool: none of the {len(images.ids())} images can be decoded")
    height, width = (max(side, SMALLEST) for side in next(iter(sizes)))
    natural = len(sizes) == 1 and max(height, width) <= LARGEST_NATURAL_SIZE
    channels = 1 if modes == {"L"} else 3
    return (height, width, channels) if natural else (0, 0, channels)


def brightest(images: Images) -> int:
    """The largest value of the pixels of the first images, of 255."""
    return max(int(np.asarray(image).max()) for image in _first(images))


def _first(images: Images) -> Iterator[Image.Image]:
    """The first images of the pool that can be decoded."""

    def decoded() -> Iterator[Image.Image]:
        for id_ in images.ids():
            try:
                yield images.image(id_)
            except UnreadableError:
                continue

    return islice(decoded(), LOOKED_AT)
