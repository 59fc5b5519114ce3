"""The picture of docs/scores.md: how good the best pairs of a random matching are, and the best of all pairs.

    python -m bench.plot_pairs

writes docs/images/pairs.png and prints the figures that the text quotes. Both kinds are scored alike, by Eq. 13 with
lam integrated by quadrature, so that no luck of the draws is in the comparison.
"""

from __future__ import annotations

import math

import matplotlib as mpl
import torch
from torch import Tensor

import lada_ext
from bench.demo_logits import demo_images, trained_net
from bench.results import ROOT

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

TAU, NODES, BOUGHT = 2.0, 5, 5
MATCHINGS, CANDIDATES = 200, 2000
LABELS = [20, 100, 500]
SIZES = [50, 100, 200, 500, 1000, 2000, 4000]
COLOURS = {"random": "#d1602c", "all": "#1f6fb4"}


def scores_of(logits: Tensor, pairs: Tensor) -> Tensor:
    """Eq. 13 of these pairs by quadrature."""
    lam, weights = (values.float() for values in lada_ext.beta_nodes(TAU, NODES))
    a, b = logits[pairs].unbind(1)
    mixed = lada_ext.entropy(lam[:, None] * a[:, None] + (1 - lam[:, None]) * b[:, None])
    return lada_ext.entropy(a) + lada_ext.entropy(b) + mixed @ weights


def random_matchings(logits: Tensor, best: int) -> Tensor:
    """(MATCHINGS, best) scores of the best pairs of each."""
    random = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(MATCHINGS):
        pairs = torch.randperm(len(logits), generator=random)[: len(logits) // 2 * 2].view(-1, 2)
        rows.append(scores_of(logits, pairs).topk(best).values)
    return torch.stack(rows)


def all_pairs(logits: Tensor, best: int) -> Tensor:
    """Scores of the best disjoint pairs of all."""
    return lada_ext.top_pairs(logits, best, TAU, NODES, disjoint=True).scores


def plot_ranks(axis: Axes, logits: Tensor, ranks: int = 25) -> None:
    matched, best = random_matchings(logits, ranks), all_pairs(logits, ranks)
    rank = range(1, ranks + 1)
    low, high = matched.quantile(torch.tensor([0.05, 0.95]), 0)
    axis.fill_between(rank, low, high, color=COLOURS["random"], alpha=0.25, linewidth=0)
    axis.plot(rank, matched.mean(0), color=COLOURS["random"], label="random matching (5 to 95% of 200)")
    axis.plot(rank, best, color=COLOURS["all"], label="all pairs, no image twice")
    axis.axhline(3 * math.log2(10), color="0.6", linestyle=":", linewidth=1)
    axis.annotate("3 log2 10, the most there is", (ranks, 9.93), ha="right", va="top", fontsize=8, color="0.4")
    axis.set(xlabel="rank of the pair", ylabel="score by Eq. 13 [bits]")
    axis.legend(frameon=False, loc="lower left", fontsize=8)


def plot_sizes(axis: Axes, images: Tensor) -> None:
    """What all pairs gain over the mean of the random matchings, by the number of candidates."""
    for labels, style in zip(LABELS, (":", "--", "-"), strict=True):
        logits = trained_net(labels)(images)
        gains = []
        for size in SIZES:
            matched, best = random_matchings(logits[:size], BOUGHT), all_pairs(logits[:size], BOUGHT)
            gains.append(float(best.mean() - matched.mean()))
            print(
                f"{labels} labels, {size} candidates: the {BOUGHT} best of all pairs {float(best.mean()):.3f} bits, "
                f"of a random matching {float(matched.mean()):.3f}, of the luckiest of {MATCHINGS} "
                f"{float(matched.mean(1).max()):.3f}"
            )
        axis.plot(SIZES, gains, style, marker=".", color=COLOURS["all"], label=f"net trained on {labels} labels")
    axis.set(xscale="log", xlabel="candidates", ylabel=f"gain in the mean score of {BOUGHT} pairs [bits]")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8)


def main() -> None:
    images = demo_images()[0]
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(1))]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    plot_ranks(left, trained_net(100)(images[:CANDIDATES]))
    left.set_title(f"{CANDIDATES} candidates, net trained on 100 labels", fontsize=10)
    plot_sizes(right, images)
    right.set_title("what all pairs gain over a random matching", fontsize=10)
    figure.savefig(ROOT / "docs" / "images" / "pairs.png", dpi=110)


if __name__ == "__main__":
    main()
