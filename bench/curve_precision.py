"""What learning a policy on curves changes: tau and the purchases, beside a policy that evaluates each draw.

    python -m bench.curve_precision [--model small] [--layer 1] [--candidates 2000] [--epochs 10] [--csv FILE]

Runs the same rounds of lada-ent-mix with curves of several numbers of nodes and without (curve=0). For each it prints
the largest difference of tau over the pairs that both bought, how many images of each round's purchase are the same,
and the median seconds of the policy.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from lada_al import Bought, Config, run_experiment

from bench import study

NODES = (0, 5, 8, 17, 33)


def purchases(config: Config) -> list[Bought]:
    """Of each round but the initial one."""
    with tempfile.TemporaryDirectory() as folder:
        events = list(run_experiment(config, Path(folder) / "run"))
    return [event for event in events if isinstance(event, Bought) and event.round > 0]


def taus(rounds: list[Bought]) -> dict[tuple[int, int, int], float]:
    """By round and pair."""
    return {
        (bought.round, bought.ids[2 * i], bought.ids[2 * i + 1]): tau
        for bought in rounds
        for i, tau in enumerate(bought.tau or [])
    }


def row(nodes: int, rounds: list[Bought], exact: list[Bought]) -> dict[str, Any]:
    ours, theirs = taus(rounds), taus(exact)
    apart = max((abs(ours[pair] - theirs[pair]) for pair in ours.keys() & theirs.keys()), default=float("nan"))
    same = sum(len(set(a.ids) & set(b.ids)) for a, b in zip(rounds, exact, strict=True))
    return {
        "curve": nodes,
        "largest difference of tau": f"{apart:.1e}",
        "purchases the same": f"{same}/{sum(len(bought.ids) for bought in rounds)}",
        "policy [s]": f"{statistics.median(bought.seconds['policy'] for bought in rounds):.2f}",
    }


def main() -> None:
    options, file = study.options(__doc__, model="small", layer=1, initial=500, candidates=2000, epochs=10, rounds=2)
    settings = {name: value for name, value in options.items() if name != "layer"}
    config = Config(method="lada-ent-mix", device="cpu", layers=(options["layer"],), **settings)
    found = {nodes: purchases(config.model_copy(update={"curve": nodes})) for nodes in NODES}
    rows = [row(nodes, rounds, found[0]) for nodes, rounds in found.items()]
    for one in rows:
        print("   ".join(f"{name} {value}" for name, value in one.items()))
    study.record(file, rows, options | {"device": "cpu"})


if __name__ == "__main__":
    main()
