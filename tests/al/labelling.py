"""Labelling projects over a folder of images made from mnist5k, and the command `lada` in this process."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from unittest import mock

from lada_al import cli, data
from lada_al.label.begin import create
from lada_al.label.project import Project
from PIL import Image

CLASSES = [str(digit) for digit in range(10)]
# A ranking with these takes a fraction of a second.
QUICK = {"candidates": 24, "epochs": 2, "samples": 2, "policy_epochs": 1, "policy_batch": 6, "threads": 1}


@functools.cache
def mnist5k() -> data.Dataset:
    return data.load("mnist5k")


def write_pool(folder: Path, count: int) -> Path:
    """`count` images as PNG files in two folders; a file's name ends with its digit, which is how truth() knows."""
    dataset = mnist5k()
    step = len(dataset.train_images) // count
    for i in range(count):
        row = i * step
        path = folder / f"part-{i % 2}" / f"{row:04d}-{int(dataset.train_labels[row])}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dataset.train_images[row, 0].numpy()).save(path)
    return folder


def truth(id_: str) -> str:
    """The digit that an image of write_pool shows."""
    return id_.removesuffix(".png")[-1]


def begin(folder: Path, pool: Path, **options: Any) -> Project:
    settings = {**QUICK, **options.pop("settings", {})}
    return create(folder, pool, options.pop("classes", CLASSES), None, settings=settings, **options)


def lada(*arguments: object) -> tuple[int, str, str]:
    """The exit code, what was printed, and what was complained of."""
    out, err = io.StringIO(), io.StringIO()
    command = ["lada", *map(str, arguments)]
    with mock.patch.object(sys, "argv", command), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code
    return int(code or 0), out.getvalue(), err.getvalue()


class Page:
    """`lada label` in a process of its own, and what its page asks of it."""

    def __init__(self, project: Path, *options: str) -> None:
        command = [sys.executable, "-m", "lada_al", "label", "--project", str(project), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[-1]

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def state(self, what: str = "state") -> Any:
        with urllib.request.urlopen(f"{self.address}{what}") as answer:
            return json.load(answer)

    def label(self, number: int, label: str) -> Any:
        """What the page shows after this label."""
        body = json.dumps({"number": number, "label": label, "nonce": os.urandom(16).hex()}).encode()
        headers = {"Content-Type": "application/json", "Origin": self.address[: self.address.index("/", 7)]}
        with urllib.request.urlopen(urllib.request.Request(f"{self.address}label", body, headers)) as answer:
            return json.load(answer)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fill_in(source: Path, to: Path, only: slice = slice(None)) -> None:
    """A batch with its column `label` filled in, as a person with a spreadsheet would."""
    rows = read_csv(source)
    for row in rows[only]:
        row["label"] = truth(row["id"])
    with to.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
