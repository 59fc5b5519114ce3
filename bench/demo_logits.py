"""Logits of a net trained on the demo's images, for pools of any size: confident about most, unsure about a few.

Independent normals would have no such few, and a search that skips what cannot be best would look better or worse on
them than on a real pool.
"""

from __future__ import annotations

import functools

import torch
from lada_al import data, models
from lada_al.models import SplitModel
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import lada_ext

EPOCHS, BATCH, LABELLED = 20, 50, 500
MOST_IMAGES, NOISE = 20_000, 0.1


@functools.cache
def demo_images() -> tuple[Tensor, Tensor]:
    """The 4,000 images of the demo's pool, normalised, and their labels."""
    pool = data.load("mnist5k", None)
    images = pool.train_images.float().div(255)
    mean, std = torch.tensor(pool.mean), torch.tensor(pool.std)
    return (images - mean[:, None, None]) / std[:, None, None], pool.train_labels


@functools.cache
def trained_net(labelled: int = LABELLED) -> SplitModel:
    """The demo's model after EPOCHS passes over `labelled` images of its pool."""
    images, labels = demo_images()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:labelled]
    images, labels = images[chosen], labels[chosen]
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        net = models.small(1, (28, 28), 10)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(EPOCHS):
            for batch in torch.randperm(labelled).split(min(BATCH, labelled)):
                loss = F.cross_entropy(net(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return net.eval().requires_grad_(False)


@functools.cache
def trained_logits(rows: int) -> Tensor:
    """(rows, 10) logits of the demo's images; if they are too few also distorted at random, up to MOST_IMAGES, and from
    there on with normal noise of deviation NOISE on the logits, since running the net on a million takes minutes."""
    net, images = trained_net(), demo_images()[0]
    random = torch.Generator().manual_seed(0)
    parts = []
    for batch in torch.arange(min(rows, MOST_IMAGES)).split(2000):
        chosen = images[batch % len(images)]
        if rows > len(images):
            theta = torch.eye(2, 3) + 0.15 * torch.randn(len(batch), 2, 3, generator=random)
            chosen = lada_ext.affine_sample(chosen, theta)
        parts.append(net(chosen))
    logits = torch.cat(parts)
    if rows <= MOST_IMAGES:
        return logits
    return logits[torch.arange(rows) % MOST_IMAGES] + NOISE * torch.randn(rows, 10, generator=random)
