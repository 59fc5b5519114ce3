"""What a comparison was begun with: study.json beside its runs, so that it goes on with the settings it began with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lada_al.errors import UsageError, one_line
from lada_al.files import write_text
from lada_al.methods import expand
from lada_al.run import protocols
from lada_al.run.config import Config
from lada_al.run.folder import refuse_changes

STUDY = "study.json"
SEEDS = "3"  # unless some are named
RANGE = re.compile(r"(\d+)(?:-(\d+))?")  # 6 or 6-25


class Study(BaseModel):
    """Methods x seeds under shared settings, which are named as in Config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    settings: dict[str, Any]

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / STUDY, self.model_dump_json(indent=2) + "\n")


def asked_for(
    folder: Path, *, resume: bool, methods: str | None, seeds: str | None, protocol: str | None, given: dict[str, Any]
) -> tuple[Study, Study]:
    """The comparison in a folder as a whole, and that part of it that is to be carried out now.

    Args:
        folder, resume: where it is, and whether one that is there is to be gone on with.
        methods, seeds, protocol: as on the command line, None where they are not named.
        given: the settings that are named.

    Raises:
        UsageError: naming the argument, what was expected and what came.
    """
    planned = protocols.protocol(protocol) if protocol else None
    settings = {**(planned.settings if planned else {}), **given}
    for name in {"method", "seed"} & settings.keys():
        raise UsageError(f"--set {name}: lada compare takes --{name}s")
    methods = methods or (planned.methods if planned else None)
    seeds = seeds or (str(planned.seeds) if planned else None)
    names, numbers = (expand(methods) if methods else None), (seeds_of(seeds) if seeds else None)
    before = begun(folder, resume)
    if before:
        whole = go_on(before, names, numbers, settings, folder)
    else:
        whole = Study(methods=names or expand(""), seeds=numbers or seeds_of(SEEDS), settings=settings)
    return whole, whole.model_copy(update={"methods": names or whole.methods, "seeds": numbers or whole.seeds})


def seeds_of(text: str) -> list[int]:
    """One number N is how many, seeds 1 to N; with commas or from A to B they are the seeds themselves."""
    if text.isdecimal():
        numbers = list(range(1, int(text) + 1))
    else:
        ranges = [RANGE.fullmatch(part) for part in text.split(",")]
        numbers = [n for found in ranges if found for n in range(int(found[1]), int(found[2] or found[1]) + 1)]
        numbers = numbers if all(ranges) else []
    if not numbers or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"--seeds takes a number N, for seeds 1 to N, or different seeds with commas, or from A-B, got '{text}'"
        )
    return numbers


def begun(folder: Path, resume: bool) -> Study | None:
    """The comparison in a folder that is to be resumed; None if there is none.

    Raises:
        UsageError: there is one and it is not to be resumed, or its file is damaged.
    """
    path = folder / STUDY
    if not path.exists():
        return None
    if not resume:
        raise UsageError(f"--out: {folder} holds a comparison; add --resume to go on with it")
    try:
        return Study.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{path} is not what a comparison was begun with: {one_line(error)}") from error


def go_on(before: Study, methods: list[str] | None, seeds: list[int] | None, given: dict[str, Any], at: Path) -> Study:
    """The comparison `before`, with further methods and seeds if some are named.

    Raises:
        UsageError: naming the settings that are `given` and differ from those it was begun with.
    """
    settings = {**before.settings, **given}
    then, now = (Config(**{**s, "method": before.methods[0]}) for s in (before.settings, settings))
    refuse_changes(then, now, at)  # of configurations: as numbers, with all that a preset fills in
    return Study(
        methods=list(dict.fromkeys([*before.methods, *(methods or [])])),
        seeds=list(dict.fromkeys([*before.seeds, *(seeds or [])])),
        settings=settings,
    )
