"""How far curves of a pair's mixtures are from what they stand for, by what they are of and how they are read.

    python -m bench.curve_errors [--model resnet18] [--epochs 8] [--pairs 50] [--csv FILE]

Trains the network on 500 labels and evaluates the logits of the mixtures of some pairs at 337 lam. Of these, curves get
a few. For each kind of curve it prints the error of the entropy between the nodes in bits, and that of its derivative
in parts of the derivative's own size, both as root mean squares over all lam and pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from lada_al import Config
from lada_al.curves import Curves
from lada_al.folding import folded
from lada_al.models import SplitModel, frozen
from lada_al.pool import Pool
from lada_al.run import build
from scipy.interpolate import CubicHermiteSpline
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext
from bench import study

FINE = 337
LABELS = 500


def trained(net: SplitModel, image: Tensor, label: Tensor, config: Config, epochs: int) -> SplitModel:
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
    for _ in range(epochs):
        for ids in torch.randperm(len(label)).split(config.batch):
            optimizer.zero_grad()
            F.cross_entropy(net(image[ids]), label[ids]).backward()
            optimizer.step()
    return net.eval()


def mixed_logits(net: SplitModel, image: Tensor, k: int, pairs: int) -> Tensor:
    """(pairs, FINE, C) in float64, lam evenly spaced."""
    a, b = net.features(image[: 2 * pairs], k).split(pairs)
    lam = torch.linspace(0, 1, FINE).view(-1, 1, 1, 1)
    return torch.stack([net.head(torch.lerp(y, x, lam), k) for x, y in zip(a, b, strict=True)]).double()


def score_by_local_cubic(logits: Tensor, nodes: Tensor, lam: Tensor) -> Tensor:
    """As the slopes at a node those of the parabola through its neighbours."""
    x, values = lam[nodes].numpy(), lada_ext.entropy(logits[:, nodes]).numpy()
    slopes = np.gradient(values, x, axis=1, edge_order=2)
    return torch.from_numpy(CubicHermiteSpline(x, values, slopes, axis=1)(lam.numpy()))


def score_by_spline(logits: Tensor, nodes: Tensor, lam: Tensor) -> Tensor:
    values = lada_ext.entropy(logits[:, nodes])[..., None]
    return Curves.through(values, of_logits=False).at(lam.expand(len(logits), -1)).squeeze(2)


def logits_by_spline(logits: Tensor, nodes: Tensor, lam: Tensor) -> Tensor:
    return lada_ext.entropy(Curves.through(logits[:, nodes], of_logits=True).at(lam.expand(len(logits), -1)))


KINDS = {
    "score, local cubic": score_by_local_cubic,
    "score, natural spline": score_by_spline,
    "logits, natural spline": logits_by_spline,
}


def errors(read: Tensor, exact: Tensor) -> tuple[float, float]:
    apart, change = torch.gradient(read - exact, dim=1)[0], torch.gradient(exact, dim=1)[0]
    return float((read - exact).square().mean().sqrt()), float((apart.square().mean() / change.square().mean()).sqrt())


def main() -> None:
    options, file = study.options(__doc__, model="resnet18", epochs=8, pairs=50)
    config = Config(method="lada-ent-mix", device="cpu", model=options["model"])
    dataset = build.load_data(config)
    torch.manual_seed(0)
    net = build.make_net(config, dataset)
    pool = Pool(dataset, torch.device("cpu"))
    image = pool.normalised(pool.images)
    trained(net, image[:LABELS], dataset.train_labels[:LABELS], config, options["epochs"])
    lam = torch.linspace(0, 1, FINE, dtype=torch.float64)
    table: list[dict[str, object]] = []
    for k in config.layers:
        with frozen(net), torch.no_grad():
            logits = mixed_logits(folded(net), image[2 * LABELS :], k, options["pairs"])
        for count in (5, 8, 9, 17):  # whose nodes are among the fine ones
            nodes = torch.arange(0, FINE, (FINE - 1) // (count - 1))
            for name, kind in KINDS.items():
                value, slope = errors(kind(logits, nodes, lam), lada_ext.entropy(logits))
                table.append({"k": k, "curve": name, "nodes": count, "bits": f"{value:.1e}", "slope": f"{slope:.0%}"})
                print("k = {k}   {curve:22}   {nodes:2} nodes   {bits} bits   derivative {slope}".format(**table[-1]))
    study.record(file, table, options)


if __name__ == "__main__":
    main()
