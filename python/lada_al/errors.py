"""What a user did wrong, in one line."""

from __future__ import annotations

from pydantic import ValidationError


class UsageError(ValueError):
    """Bad arguments or input files; the command line prints its text and exits with 2."""


def one_line(error: ValidationError) -> str:
    """The first of pydantic's complaints: the field, what was expected and what came."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UsageError):
        return str(cause)
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}, got {first['input']!r}"
