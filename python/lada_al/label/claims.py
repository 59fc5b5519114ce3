"""Which image is on whose page, so that people who label at the same time see different ones.

A page holds a lock on one byte of a file, at the number of the item that it shows. The system takes a lock back when
its process ends, however it ends, so nothing has to expire.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import TracebackType

CLAIMS = "pages.lock"


class Claims:
    """The one item that a page has for itself. One page a process: a process is not kept out by its own locks."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._held: int | None = None

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def is_free(self, number: int) -> bool:
        """Whether no other page has this item now."""
        if number == self._held:
            return True
        free = self._lock(number)
        if free:
            self._unlock(number)
        return free

    def take(self, number: int) -> bool:
        """Whether this page has the item now; if so, it gives back the one it had before."""
        if number == self._held:
            return True
        taken = self._lock(number)
        if taken and self._held is not None:
            self._unlock(self._held)
        self._held = number if taken else self._held
        return taken

    def _lock(self, number: int, operation: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> bool:
        """Whether no other process has it, so far as can be told: on a disk that knows no locks, nobody has."""
        try:
            fcntl.lockf(self._file, operation, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return True
        return True

    def _unlock(self, number: int) -> None:
        self._lock(number, fcntl.LOCK_UN)
