"""What torchrun starts in test_ranks.py: `together.py OUT DATA`. At its end one process is killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lada_al import Config, cli, data, ranks, run_experiment, train
from lada_al.events import Bought
from lada_al.keys import Keys
from lada_al.models import SplitModel
from lada_al.pool import Pool
from lada_al.run.build import make_learner
from lada_al.timing import NoMeter
from tiny import TINY_SETTINGS
from torch import Tensor, nn

# Each has another term in the loss, another policy, or other networks that are trained along; official has steps of two gradients.
METHODS: dict[str, dict[str, Any]] = {
    "lada-ent-stn": {},
    "ent+adamixup": {},
    "lada-ll4al-mix": {},
    "pi+entropy": {},
    "lada-var-mix": {"preset": "official", "stale_gradient": False},
}
# 6, 10 and 14 labels in batches of 5: the last batches of some epochs are 1 image, which leaves a process without any.
SETTINGS = {**TINY_SETTINGS, "batch": 5, "policy_batch": 11, "policy_epochs": 1}


def run_command(out: Path, folder: str, *, rounds: int, resume: bool = False) -> None:
    """`lada run`, by its command line."""
    settings = {**SETTINGS, "data": folder, "rounds": rounds}
    options = [f"--set={name}={value}" for name, value in settings.items()]
    sys.argv = ["lada", "run", "--out", str(out), *options, *(["--resume"] if resume else [])]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise


def trained_without_batch_norm(folder: str) -> dict[str, Tensor]:
    """Weights, last gradients and loss after two rounds of training of a net that has no BatchNorm."""
    dataset = data.load("fashion", Path(folder))
    config = Config(**{**SETTINGS, "data": folder, "method": "pi+ent+manifold-mixup", "epochs": 2, "pi_batch": 7})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = SplitModel(
            [
                nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(4)),
                nn.Flatten(),
                nn.Linear(100, 3),
            ]
        )
    learner = make_learner(config, dataset, Keys(3), torch.device("cpu"), net)
    pool = Pool(dataset, torch.device("cpu"))
    for round, ids in enumerate([[3, 1, 4, 5, 9], [2, 6, 8, 7, 10, 11]]):
        bought = Bought(round, ids, dataset.train_labels[ids].tolist(), k=1)
        pool.add(bought.ids, bought.labels)
        loss = learner.fit(pool, bought, Keys(3), NoMeter())
    gradients = {f"gradient of {name}": value.grad for name, value in net.named_parameters() if value.grad is not None}
    return {"loss": torch.tensor(loss), **net.state_dict(), **gradients}


def normalised(parts: list[int], rank: int = 0) -> list[Tensor]:
    """Output, running statistics and gradients of a BatchNorm in float64; parts[r] images belong to process r."""
    generator = torch.Generator().manual_seed(1)
    images, slope = 30 + torch.randn(2, sum(parts), 3, 4, 5, generator=generator, dtype=torch.float64)
    mine = slice(sum(parts[:rank]), sum(parts[: rank + 1]))
    norm = ranks.synchronise(nn.BatchNorm2d(3).double())
    x = images[mine].requires_grad_()
    out = norm(x)
    (out * slope[mine]).sum().backward()
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    gradients = [ranks.ours().sum(gradient) for gradient in (norm.weight.grad, norm.bias.grad)]
    assert x.grad is not None
    return [out.detach(), x.grad, norm.running_mean, norm.running_var, norm.num_batches_tracked, *gradients]


def main(out: Path, folder: str) -> None:
    with ranks.ranks() as ours:
        run_command(out / "resumed", folder, rounds=1)
        run_command(out / "resumed", folder, rounds=2, resume=True)
        for name, changes in METHODS.items():
            config = Config(**{**SETTINGS, "data": folder, "method": name, **changes})
            for _ in run_experiment(config, out / name):
                pass
        torch.save(trained_without_batch_norm(folder), out / f"weights-{ours.rank}.pt")
        for parts in [[5, 2], [0, 3]]:
            torch.save(normalised(parts, ours.rank), out / f"normalised-{parts[0]}-{ours.rank}.pt")
        die(out, folder)


def die(out: Path, folder: str) -> None:
    """The second process is killed while it evaluates round 1."""
    accuracy, calls = train.accuracy, []

    def deadly(*args: Any) -> float:
        calls.append(args)
        if len(calls) == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return accuracy(*args)

    train.accuracy = deadly
    run_command(out / "killed", folder, rounds=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
