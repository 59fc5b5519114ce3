"""The pictures of docs/beta_mix.md: what torch.distributions.Beta draws and differentiates, and what lada_ext does.

    python -m bench.plot_beta_mix

writes docs/images/beta-density.png and beta-gradient.png, and prints the figures that the text quotes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import scipy.stats
import torch
from torch import Tensor

import lada_ext
from bench.results import ROOT

mpl.use("Agg")
from matplotlib import pyplot as plt

IMAGES = ROOT / "docs" / "images"
TABLE = ROOT / "tests" / "beta_grad_reference.csv"
TAUS = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 100.0]
DRAWS, BINS = 10_000_000, 49  # an odd number: 1/2 lies within a bin
TORCH, OURS = "torch.distributions.Beta", "lada_ext"
COLOURS = {TORCH: "#d1602c", OURS: "#1f6fb4"}


def drawn_by_torch(tau: float) -> Tensor:
    torch.manual_seed(0)
    return torch.distributions.Beta(tau, tau).sample((DRAWS,))


def drawn_by_us(tau: float) -> Tensor:
    return lada_ext.beta_sample(tau, DRAWS, lada_ext.make_key(0))[0]


def plot_densities() -> None:
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    edges = np.linspace(0, 1, BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    for axis, tau in zip(axes.flat, TAUS, strict=True):
        truth = np.diff(scipy.stats.beta.cdf(edges, tau, tau)) * BINS
        highest = truth.max()
        axis.stairs(truth, edges, color="0.3", label="exact", linewidth=1.2)
        for name, draw, marker in ((TORCH, drawn_by_torch, "x"), (OURS, drawn_by_us, ".")):
            lam = draw(tau)
            density = torch.histc(lam, BINS, 0, 1).double().numpy() * BINS / DRAWS
            seen = density > 0
            highest = max(highest, density.max())
            axis.plot(centres[seen], density[seen], marker, color=COLOURS[name], label=name, markersize=5)
            middle = ((lam > 0.4) & (lam < 0.6)).double().mean().item()
            exact = 1 - 2 * scipy.stats.beta.cdf(0.4, tau, tau)
            one_half = (lam == 0.5).double().mean().item()
            print(f"tau {tau:g}, {name}: {middle:.3g} in (0.4, 0.6), exact {exact:.3g}; {one_half:.3g} are exactly 1/2")
        axis.set(yscale="log", title=f"tau = {tau:g}", xlim=(0, 1))
        axis.set_ylim(max(1e-6, truth[truth > 0].min() / 5), 3 * highest)
    for axis in axes[1]:
        axis.set_xlabel("lam")
    for axis in axes[:, 0]:
        axis.set_ylabel("density")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(IMAGES / "beta-density.png", dpi=110)


def reference_rows() -> tuple[Tensor, Tensor, Tensor]:
    """x = logit(lam), tau and dx/dtau of mpmath; of the rows with lam in float32's range, without x = 0."""
    with TABLE.open() as file:
        rows = [
            [float(row[c]) for c in ("logit_f32exact", "tau_f32exact", "dlogit_dtau")] for row in csv.DictReader(file)
        ]
    x, tau, exact = torch.tensor(rows, dtype=torch.float64).unbind(1)
    inside = (x != 0) & (x.abs() < 87)
    return x[inside], tau[inside], exact[inside]


def gradient_of_torch(x: Tensor, tau: Tensor) -> Tensor:
    """dx/dtau as Beta.rsample's backward pass has it: dlam/dtau, here divided by dlam/dx = lam mu."""
    lam_mu = torch.stack([x.sigmoid(), (-x).sigmoid()], -1)
    concentration = torch.stack([tau, tau], -1)
    parts = torch._dirichlet_grad(lam_mu, concentration, concentration.sum(-1, keepdim=True).expand_as(lam_mu))
    lam, mu = lam_mu.double().unbind(-1)
    return (mu * parts[..., 0] - lam * parts[..., 1]) / (lam * mu)


def plot_gradients() -> None:
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    x, tau, exact = reference_rows()
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        TORCH: gradient_of_torch,
        OURS: lada_ext.beta_logit_grad,
    }
    for name, gradient in functions.items():
        for dtype, line in ((torch.float32, "-"), (torch.float64, "--")):
            actual = gradient(x.to(dtype), tau.to(dtype)).double()
            error = ((actual - exact) / exact).abs().clamp_min(1e-17)
            taus = tau.unique()
            worst = torch.stack([error[tau == t].max() for t in taus])
            label = f"{name}, {str(dtype).removeprefix('torch.')}"
            axis.plot(taus, worst, line, color=COLOURS[name], marker="o", markersize=3, label=label)
            print(f"{label}: worst relative error {worst.max():.2g}, median {error.median():.2g}")
    axis.set(
        xscale="log", yscale="log", xlabel="tau", ylabel="worst relative error of the gradient to tau", ylim=(1e-17, 2)
    )
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(IMAGES / "beta-gradient.png", dpi=110)


if __name__ == "__main__":
    plot_densities()
    plot_gradients()
