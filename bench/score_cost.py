"""What `lada score` costs: cached logits at growing sizes, and images through a network against the bare network.

    python -m bench.score_cost --rows 100000 1000000 10000000

Logits are (M, 10) float16 in a .npy file, which is deleted. The bare network runs on the same pixels, decoded before.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lada_al.load_model import Loaded
from lada_al.pools import ImageSpec, open_pool
from lada_al.score.images import ImageScores
from torchvision import models

CLASSES, IMAGES, SIDE, REPEATS = 10, 1024, 96, 5


def cached(rows: int, folder: Path) -> tuple[float, float, int]:
    """Seconds of the whole command, its greatest memory in MB, and bytes that it wrote."""
    path, out = folder / "logits.npy", folder / "out"
    logits = np.lib.format.open_memmap(path, "w+", np.float16, (rows, CLASSES))
    random = np.random.default_rng(0)
    for start in range(0, rows, 1 << 18):
        part = logits[start : start + (1 << 18)]
        part[:] = 3 * random.standard_normal(part.shape, np.float32)
    logits.flush()
    code = f"""
import resource, sys
from lada_al import cli
sys.argv = ["lada", "score", "--embeddings", {str(path)!r}, "--out", {str(out)!r}]
cli.app(prog_name="lada", standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    return seconds, float(done.stdout.split()[-1]), sum(file.stat().st_size for file in out.rglob("*.parquet"))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    for rows in parser.parse_args().rows:
        with tempfile.TemporaryDirectory() as folder:
            seconds, memory, written = cached(rows, Path(folder))
        rate = rows / seconds
        print(
            f"{rows:>10,} rows: {seconds:6.2f} s, {rate:>11,.0f} rows/s, {memory:5.0f} MB, {written / rows:.1f} B/row"
        )
    with tempfile.TemporaryDirectory() as folder:
        loop, bare = overhead(Path(folder))
    print(f"{IMAGES} images of {SIDE} x {SIDE}, resnet18, {torch.get_num_threads()} threads:")
    print(f"loop {loop:.3f} s, bare network {bare:.3f} s: {100 * (loop / bare - 1):+.1f}%")


if __name__ == "__main__":
    main()
