"""rounds.jsonl: what happened in a run, one event a line. It is the truth; everything else can be made again from it.

A line is on disk before the run goes on. A line that a crash cut short is cut off before the next is written. An
advisory lock, which dies with its process, keeps two processes from writing one journal.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType

from lada_al.errors import UsageError
from lada_al.events import Event, from_json, to_json


class Journal:
    """An open journal: `events` so far, and `append` for the next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UsageError(f"{path} is being written by another process") from None
        self.events = self._read_and_cut()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def holds(self, kind: type[Event], round: int) -> bool:
        return any(isinstance(event, kind) and event.round == round for event in self.events)

    def append(self, event: Event) -> None:
        """Writes the event and waits until it is on disk."""
        self._file.write(json.dumps(to_json(event)).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.events.append(event)

    def _read_and_cut(self) -> list[Event]:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
            os.fsync(self._file.fileno())
        return parse(content[:whole], self.path)


def read(path: Path) -> list[Event]:
    """The events of a journal that may be being written; a line not yet whole is left out."""
    if not path.exists():
        return []
    content = path.read_bytes()
    return parse(content[: content.rfind(b"\n") + 1], path)


def parse(content: bytes, path: Path) -> list[Event]:
    events = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            events.append(from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}, line {number}: not an event of a run ({error})") from error
    return events
