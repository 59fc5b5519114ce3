"""Writes docs/gpu-status.md from the committed results of check.sh: which kernels were verified on a GPU, and how fast.

    python -m bench.gpu.status               writes the page again, after a change in a kernel for instance
    python -m bench.gpu.status --add FOLDER  takes over the results of check.sh first, the $OUT of all its stages

A kernel counts as verified if all tests had passed and the driver launched it. It is unverified again once its sources
are no longer those of that run. What the verdicts do not say is written by hand into notes.md beside them.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

from bench.gpu.kernels import ROOT, Kernel, kernels
from bench.results import read_csv

RESULTS = ROOT / "bench" / "results" / "gpu"
PAGE = ROOT / "docs" / "gpu-status.md"
KEPT = ["kernels.csv", "checks.csv", "bench.csv", "paper.csv"]
OURS = "lada_ext"
Row = dict[str, str]

HEAD = """# What was verified on a GPU

Written by `python -m bench.gpu.status` from bench/results/gpu; do not edit. {state}

- **verified**: all tests of the ops passed on the GPU in one run, after which the driver launched the kernel.
- **error**: the largest of |result - exact| / (1 + |exact|) in float32 over an ordinary input of each op that launches
  the kernel; exact is the same op in float64 on the CPU, which the tests compare with its definition.
- **of copy bandwidth**: the least bytes that the op has to move, in the time it took, as a part of what a plain copy
  moved in the same run; the case is named. A case that runs forward and backward counts all its kernels together.
  Arithmetic bounds those of pairs, and the host's waits a short search: [scores.md](scores.md).

| kernel | verified at commit | GPU | error | of copy bandwidth |
|---|---|---|---|---|
"""

FOOT = """
To verify them: `OUT=FOLDER bench/gpu/check.sh test` on a machine with a GPU, then its stages `sanitize` and `bench`,
and `python -m bench.gpu.status --add FOLDER` here.
"""


def render(results: Path = RESULTS, found: list[Kernel] | None = None) -> str:
    """The page, from the folders of results and the kernels that there are."""
    found = kernels() if found is None else found
    latest = [(kernel, *_latest(results, kernel)) for kernel in found]
    never = sum(row is None for _, row, _ in latest)
    changed = sum(row is not None and row["sources"] != kernel.digest for kernel, row, _ in latest)
    verified = len(found) - never - changed
    state = f"Of {len(found)} kernels, {verified} are verified, {changed} changed since they were, {never} never were."
    lines = [_line(kernel, row, folder) for kernel, row, folder in latest]
    return HEAD.format(state=state) + "\n".join(lines) + "\n" + _checks(results) + FOOT


def _latest(results: Path, kernel: Kernel) -> tuple[Row | None, Path]:
    """The kernel's row in the newest results that launched it, and their folder."""
    rows = [
        (row, path.parent)
        for path in sorted(results.glob("*/kernels.csv"))
        for row in read_csv(path)
        if row["kernel"] == kernel.name and row["ops"]
    ]
    return max(rows, key=lambda found: found[0]["date"], default=(None, results))


def _line(kernel: Kernel, row: Row | None, folder: Path) -> str:
    if row is None:
        return f"| `{kernel.name}` | not yet | | | |"
    commit = row["commit"] + ("" if row["sources"] == kernel.digest else "; changed since, so unverified")
    speed = fraction_of_copy(kernel.name, read_csv(folder / "bench.csv"))
    return f"| `{kernel.name}` | {commit} | {row['device']} | {row['error'] or 'not measured'} | {speed} |"


def fraction_of_copy(kernel: str, rows: list[Row]) -> str:
    """Of the largest case that launches the kernel and as few others as there are."""
    ours = [row for row in rows if row["contender"] == OURS and row["copy_fraction"]]
    mine = [row for row in ours if kernel in row["kernels"].split()]
    if not mine:
        return "not measured"
    chosen = min(mine, key=lambda row: (len(row["kernels"].split()), -int(row["bytes_moved"])))
    return f"{100 * float(chosen['copy_fraction']):.0f}% ({chosen['case']})"


def _checks(results: Path) -> str:
    """The verdicts of each folder; a build counts only as a stage of its own."""
    verdict = {"yes": "ok", "no": "FAILED"}
    lines = [
        f"| {folder.name} | {row['stage']}: {row['check']} | {verdict[row['passed']]} | {row['detail']} |"
        for folder in sorted(results.glob("*/"))
        for row in read_csv(folder / "checks.csv")
        if row["stage"] == "build" or row["check"] != "build"
    ]
    notes = [path.read_text().strip() for path in sorted(results.glob("*/notes.md"))]
    table = ["| results | check | | |", "|---|---|---|---|", *lines] if lines else []
    return "\n".join(["", *table, "", *(f"{note}\n" for note in notes)]) if lines or notes else ""


def add(folder: Path, results: Path = RESULTS) -> Path:
    """Copies the results of check.sh to <gpu>-<commit>.

    Raises:
        ValueError: they are not of a GPU, or not of one commit, without changes beside it.
    """
    rows = read_csv(folder / "checks.csv")
    origins = {(row["device"], row["commit"]) for row in rows}
    if len(origins) != 1:
        raise ValueError(f"{folder}/checks.csv must hold results of one GPU and one commit, got {sorted(origins)}")
    device, commit = origins.pop()
    if device == "cpu" or not re.fullmatch(r"[0-9a-f]{7,40}", commit):
        raise ValueError(f"results must be of a GPU and of a commit, got {device}, {commit}; set LADA_COMMIT there")
    target = results / f"{re.sub(r'[^a-z0-9]+', '-', device.lower())}-{commit}"
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / name)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, metavar="FOLDER", help="results of check.sh to take over first")
    chosen = parser.parse_args()
    if chosen.add:
        try:
            print(add(chosen.add))
        except ValueError as error:
            sys.exit(str(error))
    PAGE.write_text(render())
    print(PAGE)


if __name__ == "__main__":
    main()
