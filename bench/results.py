"""Results as CSV, with where they come from, and as a table for people."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import torch

from bench.harness import Result, Spread

ROOT = Path(__file__).parent.parent
COLUMNS = [
    "family", "case", "contender", "median_us", "p20_us", "p80_us", "ratio", "ratio_p20", "ratio_p80", "host_us",
    "peak_mib", "bytes_moved", "floor_us", "copy_fraction", "rounds", "note", "kernels", "device", "host",
    "torch", "commit",
]  # fmt: skip
HEADINGS = ["case", "contender", "median", "p20 to p80", "ratio to ours", "peak MiB", "floor", "% of copy", "note"]


def provenance(device: str) -> dict[str, str]:
    """Where results come from: device, host, torch, commit."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return {"device": name, "host": host(), "torch": torch.__version__, "commit": commit()}


def host() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"


def commit() -> str:
    """The commit of the sources, "+" if they differ from it; LADA_COMMIT where there is no repository."""
    if os.environ.get("LADA_COMMIT"):
        return os.environ["LADA_COMMIT"]
    try:
        git = ["git", "-C", str(ROOT)]
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        sources = ["csrc", "lada_ext", "python", "bench/*.py", "setup.py"]
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *sources], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed else "")


def rows(results: Iterable[Result], origin: dict[str, str]) -> list[dict[str, str]]:
    """One row of CSV a result."""
    return [_row(result) | origin for result in results]


def _row(result: Result) -> dict[str, str]:
    return {
        "family": result.family,
        "case": result.case,
        "contender": result.contender,
        **_spread(("median_us", "p20_us", "p80_us"), result.seconds, 1e6),
        **_spread(("ratio", "ratio_p20", "ratio_p80"), result.ratio, 1),
        "host_us": _number(result.host_seconds, 1e6),
        "peak_mib": _number(result.peak_bytes, 1 / 2**20),
        "bytes_moved": str(result.bytes_moved),
        "floor_us": _number(result.floor_seconds, 1e6),
        "copy_fraction": _number(result.copy_fraction, 1),
        "rounds": str(result.rounds),
        "note": result.note,
        "kernels": " ".join(result.kernels),
    }


def _spread(names: tuple[str, str, str], value: Spread | None, scale: float) -> dict[str, str]:
    parts = (value.median, value.p20, value.p80) if value else (None, None, None)
    return {name: _number(part, scale) for name, part in zip(names, parts, strict=True)}


def _number(value: float | None, scale: float) -> str:
    return "" if value is None else f"{float(f'{value * scale:.4g}'):.12g}"  # four digits, no exponent


def write_csv(path: Path, table: Sequence[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def read_csv(path: Path) -> list[dict[str, str]]:
    """No lines where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cells(result: Result) -> list[str]:
    """One line of the table."""
    seconds, ratio = result.seconds, result.ratio
    if seconds is None or ratio is None or result.floor_seconds is None or result.copy_fraction is None:
        return [result.case, result.contender, *["-"] * 6, result.note]
    peak = "-" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.1f}"
    return [
        result.case,
        result.contender,
        duration(seconds.median),
        f"{duration(seconds.p20)} to {duration(seconds.p80)}",
        f"{ratio.median:.2f} ({ratio.p20:.2f} to {ratio.p80:.2f})",
        peak,
        duration(result.floor_seconds),
        f"{100 * result.copy_fraction:.0f}",
        result.note,
    ]


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def markdown(table: Iterable[Result]) -> str:
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    return "\n".join([*lines, *("| " + " | ".join(cells(result)) + " |" for result in table)])


def show(title: str, table: Sequence[Result]) -> None:
    """Prints the table, as Markdown where rich is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(f"{title}\n\n{markdown(table)}\n", flush=True)
        return
    page = Table(*HEADINGS, title=title)
    for _, group in groupby(table, key=lambda result: result.case):
        page.add_section()
        for result in group:
            page.add_row(*cells(result))
    Console(width=None if sys.stdout.isatty() else 170).print(page)
