"""The pictures of docs/affine_sample.md: transforms of a digit, and what InfoSTN makes of digits.

    python -m bench.plot_affine_sample

writes docs/images/affine-sample.png and infostn.png. The first shows transforms of one MNIST digit, from bytes. The
second trains a classifier and its STN on 200 digits for two rounds (one round of plain training, one with virtual
instances), learns InfoSTN on 300 unlabelled digits, and shows digits that were not among them: as they are, as the
classifier's STN has them, and as InfoSTN's policy has them.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import torch
from lada_al import Bought, Config, View, acquire, augment, data, models
from lada_al.keys import Keys
from lada_al.models import frozen
from lada_al.policy import learn_policy
from lada_al.pool import Pool
from lada_al.round import Round
from lada_al.timing import Clock, NoMeter
from lada_al.train import Learner
from matplotlib import pyplot as plt
from torch import Tensor

import lada_ext
from bench.results import ROOT

FOLDER = ROOT / "docs" / "images"
LABELLED, CANDIDATES, SHOWN = 200, 300, 8


def turned(degrees: float, scale: float = 1.0) -> list[list[float]]:
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return [[c, -s, 0.0], [s, c, 0.0]]


MAPS = {
    "identity": turned(0),
    "rotated": turned(30),
    "moved": [[1, 0, 0.3], [0, 1, 0.15]],
    "enlarged": turned(0, 0.6),
    "reduced": turned(0, 1.7),
    "sheared": [[1, 0.5, 0], [0, 1, 0]],
    "mirrored": [[-1, 0, 0], [0, 1, 0]],
    "singular": [[0.5, 0.5, 0], [0.5, 0.5, 0]],
}
ROWS = {
    "bilinear, zeros": ("bilinear", "zeros"),
    "nearest, border": ("nearest", "border"),
    "bicubic, reflection": ("bicubic", "reflection"),
}


def draw(rows: dict[str, list[tuple[str, Tensor]]], path: Path) -> None:
    """Rows of titled grey images."""
    columns = max(map(len, rows.values()))
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.15 * columns, 1.35 * len(rows)), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=8)
        for axis, (title, image) in zip(line, images, strict=True):
            axis.imshow(image.detach().numpy(), cmap="gray", interpolation="nearest")
            axis.set_title(title, fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def transforms(image: Tensor) -> dict[str, list[tuple[str, Tensor]]]:
    """`image`: (1, 28, 28) bytes."""
    theta = torch.tensor(list(MAPS.values()))
    rows = {}
    for name, (mode, padding) in ROWS.items():
        out = lada_ext.affine_sample(image[None], theta[None], (84, 84), mode, padding)
        rows[name] = list(zip(MAPS, out[0, :, 0].clamp(0, 1), strict=True))
    return rows


def infostn(digits: data.Dataset) -> dict[str, list[tuple[str, Tensor]]]:
    config = Config(method="lada-ent-stn", epochs=12, policy_epochs=10, device="cpu", seed=1)
    keys = Keys(config.seed)
    with keys.scope("network weights", 0):
        net = models.small(1, (28, 28), 10)
        f_acq = acquire.load("entropy").make(config, digits.task, net)
        f_aug = augment.load("stn").make(config, digits.task, net)
    learner, pool = Learner(net, f_acq, f_aug, config), Pool(digits, torch.device("cpu"))
    ids = torch.randperm(len(digits.train_images), generator=torch.Generator().manual_seed(1))
    bought, seen, shown = ids[:LABELLED], ids[LABELLED : LABELLED + CANDIDATES], ids[-SHOWN:]
    for r, part in enumerate(bought.split(LABELLED // 2)):
        pool.add(part, digits.train_labels[part])
        learner.fit(pool, Bought(r, part.tolist(), digits.train_labels[part].tolist()), keys, NoMeter())

    def view(ids: Tensor) -> View:
        with torch.no_grad():
            return View(net, 0, image=pool.pixels(ids), ids=ids).computed(len(ids), *range(net.depth + 1))

    rows: dict[str, list[tuple[str, Tensor]]] = {"as it is": []}
    with frozen(net):
        policies = {"STN": f_aug.policy(view(seen), learn=False), "InfoSTN": f_aug.policy(view(seen), learn=True)}
        now = Round(2, config, keys, f_acq, f_aug, NoMeter(), Clock(pool.device))
        learn_policy(policies["InfoSTN"], [view(seen)], now)
        images = {"as it is": view(shown).image}
        for name, policy in policies.items():
            images[name] = f_aug(view(shown), tau=policy(view(shown)), key=keys.key("score samples", 2)).image
        for name, image in images.items():
            bits = lada_ext.entropy(net(image)).detach()
            titles = [f"{b:.2f} bits" for b in bits.tolist()]
            rows[name] = list(zip(titles, image[:, 0], strict=True))
            print(f"{name}: mean entropy {float(bits.mean()):.3f} bits")
    return rows


if __name__ == "__main__":
    digits = data.load("mnist5k")
    draw(transforms(digits.train_images[0]), FOLDER / "affine-sample.png")
    draw(infostn(digits), FOLDER / "infostn.png")
