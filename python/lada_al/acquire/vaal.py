"""VAAL: the probability that an instance is unlabelled, by a discriminator over an autoencoder (Section 2.3).

Sinha et al. 2019. The autoencoder learns to reconstruct labelled and unlabelled instances and to hide from the
discriminator which is which; the discriminator learns to tell. Score: P(x in X_U) = 1 - D(x).

The autoencoder encodes what the look-ahead has of every instance, real or virtual: the image (k = 0), or the features
h^k where Mixup acts. The discriminator sees the latent mean and the class probabilities: 64 + 10 inputs make the
301,569 parameters behind the paper's 301K. `vaal_probabilities=False` gives it the latent mean alone, as in VAAL's
own paper.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lada_al.acquire import Acquisition, Occasion
from lada_al.models import Network, SplitModel
from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.run.config import Config

SETTINGS = ("vaal_steps", "vaal_batch", "vaal_lr", "vaal_latent", "vaal_width", "vaal_probabilities")
DEEPEST = 4  # convolutions at most; each halves the map


class Autoencoder(nn.Module):
    """A VAE over maps of any size: up to four convolutions of stride 2 and their mirror image."""

    def __init__(self, shape: tuple[int, ...], width: int, latent: int) -> None:
        super().__init__()
        channels, sizes = [shape[0]], [shape[1:]]
        while len(channels) <= DEEPEST and min(sizes[-1]) > 1:
            channels.append(width * 2 ** (len(channels) - 1))
            sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
        self.sizes = sizes
        encoder: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            encoder += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.encoder = nn.Sequential(*encoder, nn.Flatten())
        self.map = (channels[-1], *sizes[-1])
        self.latent = nn.Linear(channels[-1] * sizes[-1][0] * sizes[-1][1], 2 * latent)
        self.unflatten = nn.Linear(latent, channels[-1] * sizes[-1][0] * sizes[-1][1])
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
            for inputs, outputs in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )

    def encode(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent code, (B, latent) each."""
        mean, log_variance = self.latent(self.encoder(h)).chunk(2, 1)
        return mean, log_variance

    def decode(self, code: Tensor) -> Tensor:
        h = self.unflatten(code).unflatten(1, self.map)
        for layer, size in zip(self.decoder, self.sizes[-2::-1], strict=True):
            h = layer(h.relu(), output_size=list(size))
        return h


class Discriminator(nn.Module):
    """The logit of P(labelled), (B,)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1)
        )

    def forward(self, seen: Tensor) -> Tensor:
        return self.layers(seen).squeeze(1)


class Vaal(Acquisition):
    """Both networks start anew each round, so a round depends on what is labelled and on nothing before it."""

    def __init__(self, config: Config, task: Task) -> None:
        self.config, self.task = config, task

    def networks(self) -> list[Network]:
        """The autoencoder is that of images; the paper's 301K has no room for one."""
        autoencoder = self._autoencoder(self.task.shape)
        return [Network("discriminator", self._discriminator()), Network("autoencoder", autoencoder, in_table=False)]

    def _autoencoder(self, shape: tuple[int, ...]) -> Autoencoder:
        return Autoencoder(shape, self.config.vaal_width, self.config.vaal_latent)

    def _discriminator(self) -> Discriminator:
        return Discriminator(self.config.vaal_latent + (self.task.classes if self.config.vaal_probabilities else 0))

    @torch.enable_grad()
    def prepare(self, occasion: Occasion) -> None:
        config, pool, device = self.config, occasion.pool, occasion.pool.device
        generator = occasion.keys.generator("acquisition batches", occasion.round)
        free = pool.unlabelled()
        with occasion.keys.scope("acquisition weights", occasion.round):
            self.autoencoder = self._autoencoder(occasion.net.shapes(self.task.shape)[occasion.k]).to(device)
            self.discriminator = self._discriminator().to(device)
            self.optimizers = [
                torch.optim.Adam(net.parameters(), lr=config.vaal_lr) for net in (self.autoencoder, self.discriminator)
            ]
            for _ in range(config.vaal_steps):
                labelled, unlabelled = (
                    View(occasion.net, occasion.k, image=pool.pixels(_draw(ids, config.vaal_batch, generator)))
                    for ids in (pool.labelled, free)
                )
                self.step(labelled, unlabelled)
        for net in (self.autoencoder, self.discriminator):
            net.eval().requires_grad_(False)

    def step(self, labelled: View, unlabelled: View) -> tuple[Tensor, Tensor]:
        """One step of the autoencoder (reconstruct, and look labelled), then one of the discriminator (tell).

        Returns:
            The negative evidence bound, and the discriminator's cross entropy.
        """
        autoencoder, discriminator = self.optimizers
        h = torch.cat([labelled.hidden, unlabelled.hidden])
        mean, log_variance = self.autoencoder.encode(h)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        bound = negative_elbo(h, self.autoencoder.decode(code), mean, log_variance)
        seen = self._seen(mean, torch.cat([labelled.logits, unlabelled.logits]))
        guess = self.discriminator(seen)
        autoencoder.zero_grad()
        (bound + F.binary_cross_entropy_with_logits(guess, torch.ones_like(guess))).backward()
        autoencoder.step()

        guess = self.discriminator(seen.detach())
        truth = torch.cat([guess.new_ones(len(labelled)), guess.new_zeros(len(unlabelled))])
        told = F.binary_cross_entropy_with_logits(guess, truth)
        discriminator.zero_grad()
        told.backward()
        discriminator.step()
        return bound.detach(), told.detach()

    def score(self, view: View) -> Tensor:
        mean, _ = self.autoencoder.encode(view.hidden.flatten(0, view.leading - 1))
        labelled = self.discriminator(self._seen(mean, view.logits.flatten(0, -2))).sigmoid()
        return (1 - labelled).unflatten(0, view.hidden.shape[: view.leading])

    def _seen(self, mean: Tensor, logits: Tensor) -> Tensor:
        return torch.cat([mean, logits.softmax(1)], 1) if self.config.vaal_probabilities else mean


def negative_elbo(h: Tensor, reconstructed: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Squared error and KL divergence, both summed over an instance, then averaged over the batch.

    A mean of one and a sum of the other would let the divergence win, and the code would say nothing.
    """
    error = (h - reconstructed).square().flatten(1).sum(1)
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
    return (error / 2 + divergence).mean()


def _draw(ids: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the ids with replacement, so that 20 labels fill a batch as well as 20,000 do."""
    return ids[torch.randint(len(ids), (count,), generator=generator)]


def make(config: Config, task: Task, net: SplitModel) -> Vaal:
    del net
    return Vaal(config, task)
