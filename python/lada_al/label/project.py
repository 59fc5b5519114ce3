"""project.json: what a labelling project is about. It is written once by `lada init` and only read after that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lada_al.errors import UsageError, one_line
from lada_al.label.images import Images
from lada_al.pools import Limits, open_pool
from lada_al.pools.decode import WHITE

PROJECT = "project.json"
SMALLEST, LARGEST = 8, 1024  # sides of what the network takes


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
