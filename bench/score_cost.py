"""What `lada score` costs, stage by stage, and what that means for pools that are too large to try.

    python -m bench.score_cost --rows 100000 1000000 10000000 [--csv FILE]

Cached logits are scored at growing sizes; the line through all but the last has to foretell the last. Images go
through decoding, and through a network with and without the loop around it. Logits are (M, 10) float16 in a .npy file,
which is deleted. The bare network runs on the same pixels, decoded before.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lada_al.load_model import Loaded
from lada_al.pools import ImageSpec, open_pool
from lada_al.score.images import Batches, ImageScores
from PIL import Image
from torchvision import models

from bench.study import record

CLASSES, IMAGES, SIDE, REPEATS = 10, 1024, 96, 5
PHOTO = 256  # pixels of a side of the JPEG files
BILLION = 1_000_000_000
CACHED = "score cached logits, rank, write"


@dataclass(frozen=True)
class Scoring:
    """One run of the command over cached logits."""

    rows: int
    seconds: float
    own_memory: int
    """Most bytes that are the process's own: not pages of the mapped file, which the system may take back."""
    written: int


@dataclass(frozen=True)
class Line:
    """seconds = start + rows * each."""

    start: float
    each: float

    @classmethod
    def through(cls, runs: list[Scoring]) -> Line:
        """The least relative error, so that small pools count like large ones."""
        rows, seconds = (np.array([getattr(run, name) for run in runs], float) for name in ("rows", "seconds"))
        design = np.stack([1 / seconds, rows / seconds], 1)
        start, each = np.linalg.lstsq(design, np.ones(len(runs)), rcond=None)[0]
        return cls(float(start), float(each))

    def seconds(self, rows: int) -> float:
        return self.start + self.each * rows


def cached(rows: int, folder: Path) -> Scoring:
    path, out = folder / "logits.npy", folder / "out"
    logits = np.lib.format.open_memmap(path, "w+", np.float16, (rows, CLASSES))
    random = np.random.default_rng(0)
    for start in range(0, rows, 1 << 18):
        part = logits[start : start + (1 << 18)]
        part[:] = 3 * random.standard_normal(part.shape, np.float32)
    logits.flush()
    command = [sys.executable, "-m", "lada_al", "score", "--embeddings", str(path), "--out", str(out)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, own_memory(process.pid))
        time.sleep(0.02)
    seconds = time.perf_counter() - begun
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Scoring(rows, seconds, most, sum(file.stat().st_size for file in out.rglob("*.parquet")))


def own_memory(process: int) -> int:
    """Bytes of a process that belong to no file; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def decoding(folder: Path) -> float:
    """Seconds to read, decode and scale one JPEG of PHOTO x PHOTO in one process."""
    random = np.random.default_rng(0)
    for number in range(256):
        coarse = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((PHOTO, PHOTO)).save(folder / f"{number}.jpg", quality=90)
    batches = Batches(open_pool(folder), ImageSpec(3, SIDE, SIDE), [(0, 256)])
    return median_seconds(lambda: batches[0]) / 256


def overhead(folder: Path) -> tuple[float, float]:
    """Median seconds of the scores of decoded images, and of the network alone on prepared tensors, interleaved."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    model = Loaded(models.resnet18(num_classes=CLASSES), ImageSpec(3, SIDE, SIDE))
    scorer = ImageScores(open_pool(folder / "images.npy"), model, "entropy", torch.device("cpu"), 128, workers=0)
    prepared = scorer.spec.normalised(torch.from_numpy(images)).split(32)
    loop, bare = [], []
    for _ in range(REPEATS + 1):  # the first is to warm up
        start = time.perf_counter()
        list(scorer.shards([(0, IMAGES)]))
        middle = time.perf_counter()
        with torch.inference_mode():
            for batch in prepared:
                scorer.module(batch)
        loop.append(middle - start)
        bare.append(time.perf_counter() - middle)
    return statistics.median(loop[1:]), statistics.median(bare[1:])


def median_seconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def report_cached(rows: list[int]) -> list[Scoring]:
    """Measures, prints, and says how well the smaller pools foretell the largest."""
    runs = []
    for count in sorted(rows):
        with tempfile.TemporaryDirectory() as folder:
            run = cached(count, Path(folder))
        runs.append(run)
        print(
            f"{count:>12,} rows: {run.seconds:7.2f} s, {count / run.seconds:>11,.0f} rows/s, "
            f"{run.own_memory / 2**20:5.0f} MiB of its own, {run.written / count:.1f} B/row written",
            flush=True,
        )
    if len(runs) > 2:
        foretold = Line.through(runs[:-1]).seconds(runs[-1].rows)
        print(
            f"the smaller ones foretell {foretold:.2f} s for the last: {100 * (foretold / runs[-1].seconds - 1):+.0f}%"
        )
    return runs


def report_billion(stages: dict[str, float], dollars: float) -> None:
    """Hours and money for 10^9 images, from seconds of one image on this whole machine."""
    print(f"10^9 images, at ${dollars:.3f} an hour of this machine:")
    for stage, each in stages.items():
        hours = each * BILLION / 3600
        print(f"  {stage:<44} {each * 1e6:10.2f} us {hours:12,.1f} h {hours * dollars:12,.2f} $")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--dollars", type=float, default=0.1, help="price of this machine an hour")
    parser.add_argument("--csv", type=Path)
    chosen = parser.parse_args()
    runs = report_cached(chosen.rows)
    with tempfile.TemporaryDirectory() as folder:
        decode = decoding(Path(folder)) / torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        loop, bare = overhead(Path(folder))
    print(f"{IMAGES} images of {SIDE} x {SIDE}, resnet18, {torch.get_num_threads()} threads:")
    print(f"loop {loop:.3f} s, bare network {bare:.3f} s: {100 * (loop / bare - 1):+.1f}%")
    stages = {
        f"decode a JPEG of {PHOTO} x {PHOTO}, on all cores": decode,
        f"resnet18 at {SIDE} x {SIDE}": bare / IMAGES,
        "the loop around it": max(0.0, loop - bare) / IMAGES,
        CACHED: Line.through(runs).each,
    }
    report_billion(stages, chosen.dollars)
    table = [
        {"stage": CACHED, "images": run.rows, "seconds": f"{run.seconds:.2f}", "MiB": f"{run.own_memory / 2**20:.0f}"}
        for run in runs
    ]
    table += [
        {"stage": stage, "images": 1, "seconds": f"{each:.3g}", "MiB": ""}
        for stage, each in stages.items()
        if stage != CACHED
    ]
    record(chosen.csv, table, {})


if __name__ == "__main__":
    main()
