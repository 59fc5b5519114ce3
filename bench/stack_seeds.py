"""What `lada compare --stack-seeds` saves: the training of five seeds one after another, and at once.

python -m bench.stack_seeds [--seeds 5] [--labels 500] [--epochs 4] [--model small] [--device cpu] [--csv FILE]
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import torch
from lada_al import Bought, Config, stack
from lada_al.keys import Keys
from lada_al.pool import Pool
from lada_al.run.build import load_data, make_learner
from lada_al.stack import Replica
from lada_al.timing import Clock, NoMeter

from bench import study

REPEATS = 5


def replicas(config: Config, seeds: int, labels: int) -> list[Replica]:
    dataset, device = load_data(config), torch.device(config.device)
    found = []
    for seed in range(1, seeds + 1):
        pool = Pool(dataset, device)
        ids = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:labels]
        bought = Bought(0, ids.tolist(), dataset.train_labels[ids].tolist())
        pool.add(bought.ids, bought.labels)
        found.append(Replica(make_learner(config, dataset, Keys(seed), device), pool, bought, Keys(seed)))
    return found


def medians_in_turn(
    ways: Mapping[str, Callable[[], object]], device: torch.device, repeats: int = REPEATS
) -> dict[str, float]:
    """Median seconds of each way to train, the ways taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):  # the first is to warm up
        for name, way in ways.items():
            clock = Clock(device)
            with clock("train"):
                way()
            seconds[name].append(clock.seconds["train"])
    return {name: statistics.median(every[1:]) for name, every in seconds.items()}


def main() -> None:
    options, file = study.options(__doc__, seeds=5, labels=500, epochs=4, model="small", device="cpu")
    config = Config(method="random", epochs=options["epochs"], model=options["model"], device=options["device"])
    group = replicas(config, options["seeds"], options["labels"])
    ways = {
        "one after another": lambda: [r.learner.fit(r.pool, r.bought, r.keys, NoMeter()) for r in group],
        "at once": lambda: stack.fit(group, NoMeter()),
    }
    medians = medians_in_turn(ways, torch.device(config.device))
    first = medians["one after another"]
    table = [
        {"way": way, "seconds": f"{median:.3f}", "times as fast": f"{first / median:.2f}"}
        for way, median in medians.items()
    ]
    study.report("{way:<18} {seconds:>7} s  {times as fast:>5} x", file, table, options)


if __name__ == "__main__":
    main()
