"""What the loop adds to the bare network while it trains: `Learner.fit` against the passes alone.

    python -m bench.train_cost [--labels 500] [--epochs 2] [--model small] [--device cpu] [--csv FILE]

The bare passes are those that any training makes (forward, cross entropy, backward, the optimiser's step) over batches
that lie ready. Both take short turns, so that a slow phase of the machine meets both; the ratio is that of medians.
"""

from __future__ import annotations

from lada_al import Config
from lada_al.keys import Keys
from lada_al.timing import NoMeter
from torch.nn import functional as F  # noqa: N812

from bench import study
from bench.stack_seeds import medians_in_turn, replicas

TURNS = 100


def main() -> None:
    options, file = study.options(__doc__, labels=500, epochs=2, model="small", device="cpu")
    config = Config(method="random", epochs=options["epochs"], model=options["model"], device=options["device"])
    (replica,) = replicas(config, 1, options["labels"])
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
    steps = config.epochs * len(ids)
    table = [
        {"way": way, "ms a step": f"{1e3 * median / steps:.3f}", "over bare": f"{median / medians['bare'] - 1:.1%}"}
        for way, median in medians.items()
    ]
    study.report("{way} {ms a step} ms a step, {over bare} over bare", file, table, options)


if __name__ == "__main__":
    main()
