"""checkpoint.pt: the learner after a round, with the journal line of that round. A cache: without it, rounds are
trained again from the purchases in the journal.
"""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lada_al.events import Trained, from_json, to_json
from lada_al.files import write_bytes


@dataclass(frozen=True)
class Checkpoint:
    trained: Trained
    learner: dict[str, Any]


def save(path: Path, trained: Trained, learner: dict[str, Any]) -> None:
    payload = {"trained": json.dumps(to_json(trained)), "learner": learner}
    write(path, payload)


def write(path: Path, payload: dict[str, Any]) -> None:
    """Puts a file of torch.save in the place of `path`.

    It is made in memory: where torch.save cannot write on, as on a full disk, it raises an error of its own for the
    system's.
    """
    data = io.BytesIO()
    torch.save(payload, data)
    write_bytes(path, data.getbuffer())


def load(path: Path, device: torch.device) -> Checkpoint | None:
    """The checkpoint, or None if there is none that can be read."""
    try:
        payload = torch.load(path, map_location=device, weights_only=True)
        trained = from_json(json.loads(payload["trained"]))
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError):
        return None
    return Checkpoint(trained, payload["learner"]) if isinstance(trained, Trained) else None
