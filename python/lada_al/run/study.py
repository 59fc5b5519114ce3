"""What a comparison was begun with: study.json beside its runs, so that it goes on with the settings it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lada_al.errors import UsageError
from lada_al.run.config import Config
from lada_al.run.experiment import MAY_CHANGE
from lada_al.run.files import write_atomically

STUDY = "study.json"


class Study(BaseModel):
    """Methods x seeds under shared settings, which are named as in Config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: list[str]
    seeds: list[int]
    settings: dict[str, Any]

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = self.model_dump_json(indent=2) + "\n"
        write_atomically(folder / STUDY, lambda file: file.write(text.encode()))


def begun(folder: Path, resume: bool) -> Study | None:
    """The comparison in a folder that is to be resumed; None if there is none.

    Raises:
        UsageError: there is one and it is not to be resumed, or its file cannot be read.
    """
    path = folder / STUDY
    if not path.exists():
        return None
    if not resume:
        raise UsageError(f"--out: {folder} holds a comparison; add --resume to go on with it")
    try:
        return Study.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise UsageError(f"{path} is not what a comparison was begun with: {error}") from error


def go_on(before: Study, methods: list[str] | None, seeds: list[int] | None, given: dict[str, Any], at: Path) -> Study:
    """The comparison `before`, with further methods and seeds if some are named.

    Raises:
        UsageError: naming the settings that are `given` and differ from those it was begun with.
    """
    settings = {**before.settings, **given}
    then, now = (
        Config(**{**s, "method": before.methods[0]}).model_dump() for s in (before.settings, settings)
    )  # as numbers, with all that a preset fills in
    different = [name for name in now if now[name] != then[name] and name not in MAY_CHANGE]
    if different:
        changes = ", ".join(f"{name} was {then[name]!r} and is {now[name]!r}" for name in different)
        raise UsageError(f"--resume: {at} was begun with other settings: {changes}")
    return Study(
        methods=list(dict.fromkeys([*before.methods, *(methods or [])])),
        seeds=list(dict.fromkeys([*before.seeds, *(seeds or [])])),
        settings=settings,
    )
