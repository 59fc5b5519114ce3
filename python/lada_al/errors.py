"""What a user did wrong, in one line."""

from __future__ import annotations

import math

from pydantic import ValidationError


class UsageError(ValueError):
    """Bad arguments or input files; the command line prints its text and exits with 2."""


def refuse_divergence(loss: float, lr: float) -> None:
    """Refuses a network whose training has ended with a loss that is no number: what it chooses would be chance.

    Raises:
        UsageError: naming the learning rate and the loss.
    """
    if not math.isfinite(loss):
        raise UsageError(f"lr: expected a rate at which training converges, got {lr:g}, and a loss of {loss}")


def one_line(error: ValidationError) -> str:
    """The first of pydantic's complaints: the field, what was expected and what came."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UsageError):
        return str(cause)
    field = ".".join(str(part) for part in first["loc"])
    text = f"{field}: {first['msg']}" if field else first["msg"]
    if first["type"] == "extra_forbidden":
        return f"{field} is no setting here"
    came_whole = first["type"] in ("json_invalid", "missing")  # the input is then all that was given
    return text if came_whole else f"{text}, got {first['input']!r}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
