"""What the loop adds to the bare network while it trains: `Learner.fit` against the passes alone.

    python -m bench.train_cost [--labels 500] [--epochs 2] [--model small] [--device cpu]

The bare passes are those that any training makes (forward, cross entropy, backward, the optimiser's step) over batches
that lie ready. Both take short turns, so that a slow phase of the machine meets both; the ratio is that of medians.
"""

from __future__ import annotations

import argparse

from lada_al import Config
from lada_al.keys import Keys
from lada_al.timing import NoMeter
from torch.nn import functional as F  # noqa: N812

from bench.stack_seeds import medians_in_turn, replicas

TURNS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--model", default="small")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    config = Config(method="random", epochs=chosen.epochs, model=chosen.model, device=chosen.device)
    (replica,) = replicas(config, 1, chosen.labels)
    learner, pool = replica.learner, replica.pool
    crops = Keys(1).key("training crops", 0, 0, pool.device)
    ids = list(pool.labelled.split(config.batch))
    ready = list(pool.training_batches(ids, crops))

    def bare() -> None:
        learner.begin()
        for _ in range(config.epochs):
            for image, target in ready:
                learner.optimizer.zero_grad()
                F.cross_entropy(learner.net(image), target).backward()
                learner.optimizer.step()

    ways = {"bare": bare, "loop": lambda: learner.fit(pool, replica.bought, replica.keys, NoMeter())}
    medians = medians_in_turn(ways, pool.device, TURNS)
    for name, median in medians.items():
        step = median / (config.epochs * len(ids))
        print(f"{name} {median:.3f} s, {1e3 * step:.3f} ms a step, {100 * (median / medians['bare'] - 1):+.1f}%")


if __name__ == "__main__":
    main()
