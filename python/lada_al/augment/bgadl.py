"""BGADL's VAE-ACGAN: a generator, trained each round on all labelled images, that makes siblings of what was bought.

Tran et al. 2019, Section 2.4. An encoder E and a class-conditional generator G form a variational autoencoder; G also
plays against a discriminator D, and its images are to be classified right by the classifier itself. For each bought
image x with label y the classifier then trains on G(E(x), y) and on G(z, y), z ~ N(0, I).

G and D have the layers and the 6,689,345 and 6,559,169 parameters of the public code at 1 x 28 x 28; with E they are
the paper's 13M. A batch is at most the labelled set, so 20 labels train it too.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lada_al.augment import Augmentation, FixedTau
from lada_al.models import Network, SplitModel, frozen
from lada_al.view import View

if TYPE_CHECKING:
    from lada_al.data import Task
    from lada_al.pool import Pool
    from lada_al.run.config import Config

ARITY = 1
PIPELINE = "bgadl"
LEARNABLE = False
LOOK_AHEAD = False  # a virtual instance needs its label
WHOLE_BATCHES = True
SETTINGS = ("bgadl_width", "bgadl_batch")
LATENT = 100
RECONSTRUCTION = 0.75  # weight of the squared error in the generator's loss
HALVING = 8  # epochs between halvings of the learning rate


class Encoder(nn.Module):
    """E: mean and log variance of the latent code."""

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, height, width_ = shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width // 2, 4, 2, 1), nn.BatchNorm2d(width // 2), nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, width, 4, 2, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(width * (height // 4) * (width_ // 4), 2 * LATENT),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.layers(pixels).chunk(2, 1)
        return mean, log_variance


class Generator(nn.Module):
    """G: pixels in (0, 1) of a latent code and a label."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        channels, self.height, self.width = shape
        map_ = (2 * width, -(-self.height // 4), -(-self.width // 4))
        entries = map_[0] * map_[1] * map_[2]
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Linear(LATENT + classes, 16 * width), nn.BatchNorm1d(16 * width), nn.ReLU(),
            nn.Linear(16 * width, entries), nn.BatchNorm1d(entries), nn.ReLU(), nn.Unflatten(1, map_),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, code: Tensor, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, self.classes).to(code.dtype)
        return self.layers(torch.cat([code, one_hot], 1))[..., : self.height, : self.width]


class Discriminator(nn.Module):
    """D: the logit of an image being real."""

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, height, width_ = shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(2 * width * (height // 4) * (width_ // 4), 16 * width),
            nn.BatchNorm1d(16 * width), nn.LeakyReLU(0.2), nn.Linear(16 * width, 1),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels).squeeze(1)


class VaeAcgan(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        if min(shape[1:]) < 4:
            raise ValueError(f"VaeAcgan: images must be at least 4 x 4, got {shape[1]} x {shape[2]}")
        self.encoder, self.generator = Encoder(shape, width), Generator(shape, classes, width)
        self.discriminator = Discriminator(shape, width)

    def siblings(self, pixels: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """G(E(x), y) and G(z, y), and the mean and log variance that E gives; noise is (2, B, LATENT)."""
        mean, log_variance = self.encoder(pixels)
        code = mean + noise[0] * (log_variance / 2).exp()
        return self.generator(code, labels), self.generator(noise[1], labels), mean, log_variance


class Bgadl(Augmentation):
    arity = ARITY

    def __init__(self, task: Task, width: int, batch: int) -> None:
        self.task, self.width, self.batch = task, width, batch

    def networks(self, *, learn: bool) -> list[Network]:
        del learn
        return [Network("encoder, generator and discriminator", self._new())]

    def _new(self) -> VaeAcgan:
        return VaeAcgan(self.task.shape, self.task.classes, self.width)

    def policy(self, *views: View, learn: bool) -> nn.Module:
        del views, learn
        return FixedTau(1.0)

    def adapt(self, net: SplitModel, pool: Pool, epoch: int, epochs: int) -> None:
        """One pass of E, G and D over the labelled set; they start anew with each round's first epoch."""
        del epochs
        if epoch == 0:
            self.nets = self._new().to(pool.device)
            self.optimizers = [
                torch.optim.Adadelta(part.parameters(), lr=1.0, rho=0.9, eps=1e-6) for part in self.nets.children()
            ]
        for group in chain.from_iterable(optimizer.param_groups for optimizer in self.optimizers):
            group["lr"] = 0.5 ** (epoch // HALVING)
        self.nets.train()
        order = pool.labelled[torch.randperm(len(pool.labelled))]
        with frozen(net):
            for ids in order.tensor_split(-(-len(order) // self.batch)):  # near-equal: BatchNorm needs more than one
                self.step(net, self.task.to_pixels(pool.pixels(ids)), pool.targets(ids).argmax(1))
        self.nets.eval()

    def step(self, net: SplitModel, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of E, G and D on a batch; returns the loss of each."""
        nets = self.nets
        noise = torch.randn(2, len(pixels), LATENT, device=pixels.device)

        with torch.no_grad():
            reconstructed, generated, _, _ = nets.siblings(pixels, labels, noise)
        judged = [nets.discriminator(x) for x in (pixels, reconstructed, generated)]
        truth = [torch.ones_like(judged[0]), torch.zeros_like(judged[0]), torch.zeros_like(judged[0])]
        caught = F.binary_cross_entropy_with_logits(torch.cat(judged), torch.cat(truth))

        reconstructed, generated, mean, log_variance = nets.siblings(pixels, labels, noise)
        error = (reconstructed - pixels).square().mean()
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2 / pixels[0].numel()
        made = torch.cat([reconstructed, generated])
        judged_made = nets.discriminator(made)
        fooled = F.binary_cross_entropy_with_logits(judged_made, torch.ones_like(judged_made))
        recognised = F.cross_entropy(net(self.task.normalised(made)), torch.cat([labels, labels]))

        losses = {
            "discriminator": caught,
            "encoder": error + divergence,
            "generator": fooled + recognised + RECONSTRUCTION * error,
        }
        self._descend(losses)
        return {name: loss.detach() for name, loss in losses.items()}

    def _descend(self, losses: dict[str, Tensor]) -> None:
        """Each network goes down its own loss, which others share parts of."""
        for name, loss in losses.items():
            parameters = list(self.nets.get_submodule(name).parameters())
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        for optimizer in self.optimizers:
            optimizer.step()

    def __call__(self, *views: View, tau: Tensor, key: Tensor, samples: int = 1) -> View:
        """Two virtual instances of each labelled one, (B, 2): its reconstruction, and one of its class."""
        del tau, samples
        (view,) = views
        assert view.target is not None
        generator = torch.Generator().manual_seed(int(key[0]) & (2**63 - 1))
        noise = torch.randn(2, len(view), LATENT, generator=generator).to(view.device)
        with torch.no_grad():
            siblings = self.nets.siblings(self.task.to_pixels(view.image), view.target.argmax(1), noise)
        image = self.task.normalised(torch.stack(siblings[:2], 1))
        return View(view.net, 0, image=image, leading=2, target=view.target[:, None].expand(-1, 2, -1), parents=(view,))


def make(config: Config, task: Task, net: SplitModel) -> Bgadl:
    del net
    return Bgadl(task, config.bgadl_width, config.bgadl_batch)
