"""The paper's main comparison on one GPU: lada-ent-mix, entropy and random on CIFAR-10 with ResNet-18, preset `paper`.

    python -m bench.gpu.paper --data DIR [--minutes 7] [--runs DIR] [--packages DIR] [--out DIR]

The methods go forward in turn, a round each, so that their seconds a round compare; all of a seed come before the next
seed. When the time is up it stops where it is, which loses no more than a round. Called again it goes on: from the
checkpoints in --runs, or on another machine from the journals in OUT/paper-runs.tar.gz unpacked there, which costs
training the rounds again.

--data holds cifar10/train.parquet and cifar10/test.parquet, or torchvision's files. lada_al needs numpy, pydantic,
Pillow and pyarrow here; --packages is a folder with what is missing, made elsewhere by `pip install --target`.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import signal
import statistics
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lada_al.events import Trained

METHODS = ["random", "entropy", "lada-ent-mix"]
NEEDED = {"numpy": "numpy", "pydantic": "pydantic", "PIL": "pillow", "pyarrow": "pyarrow"}
COLUMNS = ["method", "seed", "round", "labelled", "accuracy", "acquire_s", "train_s", "round_s"]
SETTLED = 2  # rounds left out of the projection: in them algorithms are chosen
SECONDS_TO_WRITE = 15


class TimeIsUp(BaseException):
    """Raised wherever the run happens to be; its folder is safe at every moment.

    Not an Exception, and raised again a second later, because a library that is being imported may swallow it.
    """


def time_is_up(*_: object) -> None:
    raise TimeIsUp


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder of the runs, kept between calls")
    parser.add_argument("--packages", type=Path, help="folder of packages that are not installed")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of paper.csv and paper.md")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1 on")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting of lada_al")
    return parser.parse_args()


def missing_packages() -> list[str]:
    """What lada_al's loop cannot do without and cannot import here; one made for another Python is not importable."""

    def importable(name: str) -> bool:
        try:
            importlib.import_module(name)
        except ImportError:
            return False
        return True

    return [package for name, package in NEEDED.items() if not importable(name)]


def advance(chosen: argparse.Namespace) -> Iterator[tuple[str, int, Trained, float]]:
    """Method, seed, event and acquisition seconds of every round, those of earlier calls included."""
    from lada_al.events import Bought
    from lada_al.run.config import Config, parse_settings
    from lada_al.run.experiment import run_experiment

    def rounds(method: str, seed: int) -> Iterator[tuple[str, int, Trained, float]]:
        config = Config(
            **{
                "preset": "paper", "method": method, "seed": seed, "dataset": chosen.dataset, "model": chosen.model,
                "data": str(chosen.data), "device": chosen.device, "rounds": chosen.rounds,
                **parse_settings(chosen.set),
            }
        )  # fmt: skip
        acquired = 0.0
        for event in run_experiment(config, chosen.runs / method / f"seed-{seed}", resume=True):
            if isinstance(event, Bought):
                acquired = sum(event.seconds.values())
            else:
                yield method, seed, event, acquired

    for seed in range(1, chosen.seeds + 1):
        running = [rounds(method, seed) for method in METHODS]
        while running:
            for one in list(running):
                done = next(one, None)
                if done is None:
                    running.remove(one)
                else:
                    yield done


def row(method: str, seed: int, event: Trained, acquire: float) -> dict[str, str]:
    train = sum(event.seconds.values())
    values = (method, seed, event.round, event.labelled, f"{event.accuracy:.4f}")
    return dict(zip(COLUMNS, map(str, values), strict=False)) | {
        "acquire_s": f"{acquire:.3f}",
        "train_s": f"{train:.3f}",
        "round_s": f"{acquire + train:.3f}",
    }


def summary(rows: list[dict[str, str]], rounds: int, seeds: int) -> str:
    """Where each method is, what a round costs next to random's, and how long the whole comparison will take."""
    lines = ["| method | rounds done | labels | accuracy [%] | s a round | x random | all of it, projected |"]
    lines.append("|" + "---|" * 7)
    for method in METHODS:
        mine = [r for r in rows if r["method"] == method]
        if mine:
            settled = [r for r in mine if int(r["round"]) >= SETTLED]
            seconds = statistics.median(float(r["round_s"]) for r in settled) if settled else None
            minutes = projected_minutes(settled, rounds, seeds)
            lines.append(
                f"| {method} | {len(mine)} of {seeds * (rounds + 1)} | {mine[-1]['labelled']} | "
                f"{100 * float(mine[-1]['accuracy']):.2f} | {_text(seconds, '.2f')} | "
                f"{_text(ratio_to_random(settled, rows), '.3f')} | {_text(minutes, '.0f')} min |"
            )
    return "\n".join(lines)


def ratio_to_random(mine: list[dict[str, str]], rows: list[dict[str, str]]) -> float | None:
    """Median over the rounds that both have done."""
    random = {(r["seed"], r["round"]): float(r["round_s"]) for r in rows if r["method"] == "random"}
    ratios = [float(r["round_s"]) / random[key] for r in mine if (key := (r["seed"], r["round"])) in random]
    return statistics.median(ratios) if ratios else None


def projected_minutes(mine: list[dict[str, str]], rounds: int, seeds: int) -> float | None:
    """Of all rounds and seeds: a round takes a constant and a time for each label; None before both can be told."""
    if len({r["labelled"] for r in mine}) < 3:
        return None
    slope, constant = statistics.linear_regression(
        [float(r["labelled"]) for r in mine], [float(r["round_s"]) for r in mine]
    )
    first, second = (next(int(r["labelled"]) for r in mine if int(r["round"]) == SETTLED + i) for i in (0, 1))
    labels = [first + (r - SETTLED) * (second - first) for r in range(rounds + 1)]
    return seeds * sum(constant + slope * n for n in labels) / 60


def _text(value: float | None, digits: str) -> str:
    return "-" if value is None else format(value, digits)


def write(out: Path, runs: Path, rows: list[dict[str, str]], text: str) -> None:
    """paper.csv, paper.md, and the journals with their configurations."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "paper.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (out / "paper.md").write_text(text + "\n")
    with tarfile.open(out / "paper-runs.tar.gz", "w:gz") as archive:
        for path in sorted([*runs.glob("*/*/*.json"), *runs.glob("*/*/rounds.jsonl")]):
            archive.add(path, path.relative_to(runs))


def main() -> None:
    chosen = arguments()
    end = time.monotonic() + 60 * chosen.minutes - SECONDS_TO_WRITE
    if chosen.packages:
        sys.path.insert(0, str(chosen.packages.resolve()))
    missing = missing_packages()
    if missing:
        sys.exit(
            f"paper: not installed here: {', '.join(missing)}. Where there is a network, for this machine's Python:\n"
            f"    pip install --target packages --only-binary=:all: {' '.join(missing)}\n"
            "and carry that folder: check.sh paper --packages packages"
        )
    rows = []
    signal.signal(signal.SIGALRM, time_is_up)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(1.0, end - time.monotonic()), 1.0)
        for method, seed, event, acquire in advance(chosen):
            rows.append(row(method, seed, event, acquire))
            print(f"{method}, seed {seed}, round {event.round}: {100 * event.accuracy:.2f}%", flush=True)
    except TimeIsUp:
        signal.setitimer(signal.ITIMER_REAL, 0)
        print("the time is up; another call goes on from here")
    signal.setitimer(signal.ITIMER_REAL, 0)
    text = summary(rows, chosen.rounds, chosen.seeds)
    write(chosen.out, chosen.runs, rows, text)
    print(text)


if __name__ == "__main__":
    main()
