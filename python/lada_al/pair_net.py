"""The network that looks at a pair of feature maps: pi_phi of InfoMixup, and AdaMixup's policy."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from lada_ext.nn import ConvReluPool


class PairNet(nn.Module):
    """Features of both, (channels, H, W) each, to one number (InfoMixup) and to three (AdaMixup) for each pair.

    Layers and sizes are those of the authors' code: 77,246 parameters for 64-channel maps of 28 x 28. Each method reads
    one of the two heads; both are kept because the paper counts both.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        # Maps under 12 pixels would vanish; their second convolution keeps its borders.
        padding = 0 if min(size) >= 12 else 2
        self.convolutions = nn.Sequential(
            OrderedDict(
                [
                    ("0", ConvReluPool(2 * channels, 6, 5, padding=2)),
                    ("3", ConvReluPool(6, 16, 5, padding=padding)),  # as checkpoints name them
                    ("6", nn.Flatten()),
                ]
            )
        )
        height, width = ((s // 2 - 4 + 2 * padding) // 2 for s in size)
        self.trunk = nn.Sequential(nn.Linear(16 * height * width, 120), nn.Tanh(), nn.Linear(120, 60), nn.Tanh())
        self.concentration = nn.Linear(60, 1)
        self.region = nn.Linear(60, 3)

    def forward(self, h: Tensor, pairs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (P,) of the concentration, and (P, 3) of the region, of features (P, 2 channels, H, W) that lie side
        by side, or of pairs (P, 2) of features (B, channels, H, W)."""
        first, *rest = self.convolutions
        h = first(h, pairs)
        for layer in rest:
            h = layer(h)
        h = self.trunk(h)
        return self.concentration(h).squeeze(1), self.region(h)
