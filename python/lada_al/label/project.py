"""project.json: what a labelling project is about. It is written once by `lada init` and only read after that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lada_al.errors import UsageError, one_line
from lada_al.files import write_text
from lada_al.label.images import Images
from lada_al.pools import Limits, kind_of, open_pool
from lada_al.pools.decode import WHITE, UnreadableError

PROJECT = "project.json"
SMALLEST, LARGEST = 8, 1024  # sides of what the network takes
LOOKED_AT = 64  # images that decide how large the network's inputs are
LARGEST_NATURAL_SIZE = 64  # images that are all of one size up to this keep it
USUAL_SIZE = 64
DARK = 16  # of 255: where white of 12 bits is in an image of 16


class Project(BaseModel):
    """The pool, its classes, and how the next batch is chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: Path
    kind: Literal["folder", "parquet", "tar", "array"]
    ids: Literal["own", "row"] = "row"
    """Whether a column `id` of Parquet files says the ids, or file and row do, as before this was written down."""
    classes: list[str]
    method: str = "lada-ent-mix"
    model: str = "small"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1  # what an SQLite column holds
    size: tuple[Annotated[int, Field(ge=SMALLEST, le=LARGEST)], Annotated[int, Field(ge=SMALLEST, le=LARGEST)]]
    """Height and width to which images are scaled for the network; people see them as they are."""
    channels: Literal[1, 3]
    white: Annotated[int, Field(ge=1, le=WHITE)] = WHITE
    """The value of white in grey images of 16 bits."""
    settings: dict[str, Any] = {}
    """Other settings of lada_al.Config."""

    @field_validator("classes")
    @classmethod
    def _classes_are_names(cls, classes: list[str]) -> list[str]:
        if len(classes) < 2:
            raise UsageError(f"classes must be at least two names, got {classes}")
        for name in classes:
            if not name or name != name.strip() or not name.isprintable() or len(name) > 100:
                raise UsageError(f"classes must be names of 1 to 100 characters without spaces around, got {name!r}")
        if len(set(classes)) < len(classes):
            raise UsageError(f"classes must differ, got {', '.join(classes)}")
        return classes

    def images(self) -> Images:
        """The pool, opened.

        Raises:
            UsageError: it is not there any more, or cannot be used.
        """
        if not self.pool.exists():
            raise UsageError(f"pool: there is no {self.pool} any more; {PROJECT} says where it is, if it was moved")
        limits = Limits(white=self.white)
        return Images(open_pool(self.pool, limits=limits, kind=self.kind, own_ids=self.ids == "own"))


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
    _check_ranking(project)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(project.model_dump(mode="json"), indent=2, ensure_ascii=False)
    write_text(folder / PROJECT, text + "\n")
    return project


def read(folder: Path) -> Project:
    """The project in a folder.

    Raises:
        UsageError: there is none, or its file is damaged.
    """
    path = folder / PROJECT
    if not path.exists():
        raise UsageError(f"--project: {folder} holds no {PROJECT}; `lada init` begins a project")
    try:
        return Project.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{path}: {one_line(error)}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _check_ranking(project: Project) -> None:
    """Refuses a method, model or setting that the first ranking would refuse."""
    from lada_al.label.rank import config_of

    config_of(project)


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
    return (height, width, 1 if modes == {"L"} else 3) if natural else (0, 0, 1 if modes == {"L"} else 3)


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
