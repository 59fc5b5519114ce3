"""LADA_EntMix the plain way: Algorithm 1 in eager PyTorch without lada_ext's ops, to measure the loop against.

    python -m bench.plain_lada [--rounds 2] [--initial 500] [--model small] [--candidates 2000] [--csv FILE]

runs the same rounds (same seed, same batches) with lada_al; with lada_al, each draw of lam evaluated (curve=0); by
methods random and lada-ent-stn; plainly (lam from torch.distributions.Beta, all N draws in one batch, features kept on
the device); and "as official", the structure of the authors' code, where Beta is sampled on the CPU, the N draws go
through the network one after another, gradients reach the classifier's weights, and features are copied for every
batch. They take turns round by round; `--ways` picks some. It prints the seconds of each phase and their ratios to the
first way's. With the same lam the plain ways buy what lada_al without curves buys (tests/al/test_plain_lada.py).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lada_al import Bought, Config, run_experiment
from lada_al.keys import Keys
from lada_al.loop import balanced_choice
from lada_al.models import SplitModel
from lada_al.pair_net import PairNet
from lada_al.pool import Pool
from lada_al.run import build
from lada_al.timing import Clock
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bench import study
from lada_ext.nn import ConvReluPool

# (tau (P,), samples, key, index of each pair) -> lam (P, samples), differentiable in tau
Draw = Callable[[Tensor, int, Tensor, Tensor], Tensor]


def torch_draw(tau: Tensor, samples: int, key: Tensor, index: Tensor) -> Tensor:
    """All draws at once, from torch's generator."""
    del key, index
    concentration = tau[:, None].expand(-1, samples)
    return torch.distributions.Beta(concentration, concentration).rsample()


def torch_draw_one_by_one(tau: Tensor, samples: int, key: Tensor, index: Tensor) -> Tensor:
    """As the authors' code draws: each of the N draws on the CPU."""
    del key, index
    draws = [torch.distributions.Beta(tau.cpu(), tau.cpu()).rsample().to(tau.device) for _ in range(samples)]
    return torch.stack(draws, 1)


def bits(logits: Tensor) -> Tensor:
    """Entropy, as everybody writes it but for the logarithm of 0."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1) / torch.log(torch.tensor(2.0))


def in_layers(policy: PairNet) -> PairNet:
    """Its blocks as torch's convolution, ReLU and pooling, without the op that takes their place."""
    for block in policy.modules():
        if isinstance(block, ConvReluPool):
            block.composed = True
    return policy


@dataclass
class PlainLada:
    """The state of one run: network, optimiser, what is labelled. `images` are normalised, on the device."""

    net: SplitModel
    images: Tensor
    labels: Tensor
    classes: int
    config: Config
    draw: Draw
    as_official: bool = False

    def __post_init__(self) -> None:
        self.keys = Keys(self.config.seed)
        self.device = self.images.device
        self.labelled = torch.empty(0, dtype=torch.int64)
        self.initial = {name: value.clone() for name, value in self.net.state_dict().items()}

    def run(self, first_ids: Tensor) -> Iterator[tuple[list[int], dict[str, float]]]:
        """Yields what each round bought and its seconds by phase."""
        for r in range(self.config.rounds + 1):
            clock = Clock(self.device)
            bought, k, tau = (first_ids, 0, None) if r == 0 else self.acquire(r, clock)
            self.labelled = torch.cat([self.labelled, bought])
            with clock("train"):
                self.train(r, bought, k, tau)
            yield bought.tolist(), clock.seconds

    def acquire(self, r: int, clock: Clock) -> tuple[Tensor, int, Tensor]:
        """Lines 2 to 7: the ids of the best pairs, side by side, the layer k and tau of each pair."""
        config, keys, net = self.config, self.keys, self.net
        free = torch.ones(len(self.images), dtype=torch.bool)
        free[self.labelled] = False
        order = torch.randperm(len(free), generator=keys.generator("candidates", r))
        ids = order[free[order]][: config.candidates]
        k = config.layers[int(torch.randint(len(config.layers), (), generator=keys.generator("layer", r)))]
        net.eval().requires_grad_(self.as_official)
        with clock("features"), torch.no_grad():
            hidden = torch.cat([net.features(self.images[part], k) for part in ids.split(config.scoring_batch)])
            logits = torch.cat([net.head(part, k) for part in hidden.split(config.scoring_batch)])
        pairs = len(ids) // 2
        a, b, index = hidden[:pairs], hidden[pairs : 2 * pairs], ids[:pairs].to(self.device)
        with clock("policy"):
            policy = self.learn_policy(r, a, b, index, k)
        with clock("score"), torch.no_grad():
            tau = self.tau_of(policy, a, b)
            scores = torch.cat(
                [
                    bits(logits[part]) + bits(logits[pairs + part]) + self.mixed_entropy(
                        a[part], b[part], tau[part], keys.key("score samples", r, device=self.device), index[part], k
                    )
                    for part in torch.arange(pairs).split(config.scoring_batch // config.samples)
                ]
            )  # fmt: skip
            best = scores.sort(descending=True, stable=True).indices[: config.query // 2].cpu()
        net.train().requires_grad_(True)
        return torch.stack([ids[best], ids[pairs + best]], 1).flatten(), k, tau[best]

    def learn_policy(self, r: int, a: Tensor, b: Tensor, index: Tensor, k: int) -> PairNet:
        config, keys = self.config, self.keys
        with keys.scope("policy weights", r):
            policy = in_layers(PairNet(a.shape[1], (a.shape[2], a.shape[3]))).to(self.device)
        optimizer = torch.optim.Adam(policy.parameters(), lr=config.policy_lr)
        for epoch in range(config.policy_epochs):
            order = torch.randperm(len(a), generator=keys.generator("policy batches", r, epoch))
            key = keys.key("policy samples", r, epoch, self.device)
            for batch in order.split(config.policy_batch):
                part_a, part_b = a[batch], b[batch]
                tau = self.tau_of(policy, part_a, part_b)
                loss = -self.mixed_entropy(part_a, part_b, tau, key, index[batch], k).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return policy

    def tau_of(self, policy: PairNet, a: Tensor, b: Tensor) -> Tensor:
        if self.as_official:
            a, b = a.clone(), b.clone()
        return policy(torch.cat([a, b], 1))[0].sigmoid().clamp_min(1e-6)

    def mixed_entropy(self, a: Tensor, b: Tensor, tau: Tensor, key: Tensor, index: Tensor, k: int) -> Tensor:
        """Mean entropy of N mixtures of each pair, (P,)."""
        lam = self.draw(tau, self.config.samples, key, index)
        if self.as_official:
            return torch.stack([bits(self.net.head(self.mixed(a, b, one)[:, 0], k)) for one in lam.split(1, 1)]).mean(0)
        mixed = self.mixed(a, b, lam)
        return bits(self.net.head(mixed.flatten(0, 1), k)).view_as(lam).mean(1)

    def mixed(self, a: Tensor, b: Tensor, lam: Tensor) -> Tensor:
        weight = lam.view(*lam.shape, *[1] * (a.dim() - 1))
        if self.as_official:
            weight = weight.expand(*lam.shape, *a.shape[1:]).contiguous()
        return weight * a[:, None] + (1 - weight) * b[:, None]

    def train(self, r: int, bought: Tensor, k: int, tau: Tensor | None) -> None:
        """Lines 8 to 11 with Eq. 14."""
        config = self.config
        self.net.load_state_dict(self.initial)
        optimizer = torch.optim.Adam(self.net.parameters(), lr=config.lr)
        self.net.train()
        with self.keys.scope("training batches", r):
            for epoch in range(config.epochs):
                key = self.keys.key("virtual samples", r, epoch, self.device)
                for step, ids in enumerate(self.labelled[torch.randperm(len(self.labelled))].split(config.batch)):
                    optimizer.zero_grad()
                    if tau is not None and step == 0:
                        loss = self.joint_loss(ids, bought, k, tau, key)
                    else:
                        loss = F.cross_entropy(self.net(self.images[ids]), self.labels[ids])
                    loss.backward()
                    optimizer.step()

    def joint_loss(self, ids: Tensor, bought: Tensor, k: int, tau: Tensor, key: Tensor) -> Tensor:
        """Both terms of Eq. 14, of one batch."""
        first, second = bought.view(-1, 2).unbind(1)
        labelled, hidden = self.net.features(self.images[torch.cat([ids, bought])], k).split([len(ids), len(bought)])
        lam = self.draw(tau, 1, key, first.to(self.device)).detach()
        mixed = self.mixed(hidden[::2], hidden[1::2], lam).flatten(0, 1)
        of_labelled, of_mixed = self.net.head(torch.cat([labelled, mixed]), k).split([len(ids), len(mixed)])
        one_hot = [F.one_hot(self.labels[part], self.classes).float() for part in (first, second)]
        target = lam * one_hot[0] + (1 - lam) * one_hot[1]
        return F.cross_entropy(of_labelled, self.labels[ids]) + F.cross_entropy(of_mixed, target)


def plainly(config: Config, draw: Draw, *, as_official: bool = False) -> Iterator[tuple[list[int], dict[str, float]]]:
    """The plain run of a configuration on the CPU, from the same weights and the same initial set as lada_al's."""
    dataset = build.load_data(config)
    keys = Keys(config.seed)
    with keys.scope("network weights", 0):
        net = build.make_net(config, dataset)
    pool = Pool(dataset, torch.device("cpu"))
    images = pool.normalised(pool.images).contiguous()
    run = PlainLada(net, images, dataset.train_labels, pool.classes, config, draw, as_official=as_official)
    generator = keys.generator("initial set", 0)
    return run.run(balanced_choice(dataset.train_labels, pool.classes, config.initial, generator))


def with_the_loop(config: Config, folder: Path) -> Iterator[tuple[list[int], dict[str, float]]]:
    """The same run by lada_al, journal and checkpoints included."""
    for event in run_experiment(config, folder):
        if isinstance(event, Bought):
            bought = event
        else:
            yield bought.ids, {**bought.seconds, "train": event.seconds["train"]}


PHASES = ("features", "policy", "score", "train", "round")


Way = Callable[[Config, Path], Iterator[tuple[list[int], dict[str, float]]]]


def changed(**settings: Any) -> Way:
    return lambda config, folder: with_the_loop(config.model_copy(update=settings), folder)


WAYS: dict[str, Way] = {
    "lada_al": with_the_loop,
    "lada_al, no curves": changed(curve=0),
    "lada_al, random": changed(method="random"),
    "plain": lambda config, _: plainly(config, torch_draw),
    "as official": lambda config, _: plainly(config, torch_draw_one_by_one, as_official=True),
    "lada_al, InfoSTN": changed(method="lada-ent-stn"),
}


def measure(config: Config, names: list[str], folder: Path) -> dict[str, dict[str, float]]:
    """Median seconds of each phase of a round, for each way, the ways taking turns round by round."""
    ways = {name: WAYS[name](config, folder / name) for name in names}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(config.rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            _, seconds = next(way)
            rounds[name].append({**seconds, "round": time.perf_counter() - start})
    return {
        name: {phase: statistics.median(one.get(phase, 0.0) for one in measured[1:]) for phase in PHASES}
        for name, measured in rounds.items()
    }


def main() -> None:
    parser = study.parser(__doc__, rounds=2, initial=500, candidates=2000, model="small", epochs=50)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    options = vars(parser.parse_args())
    file, names = options.pop("csv"), options.pop("ways")
    config = Config(method="lada-ent-mix", device="cpu", **options)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(config, names, Path(folder))
    table = [
        {"way": way, "phase": phase, "seconds": f"{value:.3f}", "x first": f"{value / first:.2f}" if first else "-"}
        for way, phases in seconds.items()
        for phase, value in phases.items()
        if value > 0
        for first in [seconds[names[0]][phase]]
    ]
    study.report("{way:18} {phase:10} {seconds:>9} s {x first:>7} x", file, table, options | {"device": "cpu"})


if __name__ == "__main__":
    main()
