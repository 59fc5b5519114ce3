"""The layers over affine_sample; above all, that a bounded STN cannot be driven to blank padding."""

from __future__ import annotations

import pytest
import torch
from samples import generator
from torch import Tensor, nn

import lada_ext
from lada_ext.nn import STN, AffineSample

SIDE = 12


def localisation(maps: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 16), nn.ReLU(), nn.Linear(16, 6 * maps))


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, SIDE, SIDE, generator=generator("images")) + 0.5


class Unbounded(nn.Module):
    """A spatial transformer as it is usually written."""

    def __init__(self) -> None:
        super().__init__()
        self.localisation = localisation()
        nn.init.zeros_(self.localisation[-1].weight)
        nn.init.zeros_(self.localisation[-1].bias)

    def theta(self, image: Tensor) -> Tensor:
        return torch.eye(2, 3) + self.localisation(image).view(-1, 2, 3)

    def forward(self, image: Tensor) -> Tensor:
        return lada_ext.affine_sample(image, self.theta(image))


def covered_area(theta: Tensor) -> Tensor:
    """Of each map, the part of the output whose pixels read from inside the image."""
    grid = torch.nn.functional.affine_grid(theta.reshape(-1, 2, 3), [theta[..., 0, 0].numel(), 1, 200, 200], False)
    return (grid.abs() <= 1).all(-1).double().mean((1, 2))


def seek_entropy(stn: nn.Module) -> Tensor:
    """Covered areas after the maps were moved to where a classifier without bias is least certain: a blank image."""
    classifier = 0.3 * torch.randn(SIDE * SIDE, 5, generator=generator("classifier"))
    optimiser = torch.optim.Adam(stn.parameters(), lr=0.03)
    for _ in range(150):
        optimiser.zero_grad()
        (-lada_ext.entropy(stn(images()).flatten(1) @ classifier).mean()).backward()
        optimiser.step()
    with torch.no_grad():
        return covered_area(stn.theta(images()))


class TestBound:
    def test_an_entropy_seeker_without_a_bound_goes_to_blank_padding(self) -> None:
        assert seek_entropy(Unbounded()).mean() < 0.05

    @pytest.mark.parametrize("bound", [0.1, 0.25, 0.5, 0.8])
    def test_an_entropy_seeker_keeps_the_image_in_sight(self, bound: float) -> None:
        area = seek_entropy(STN(localisation(), bound))
        assert area.mean() >= bound
        assert area.mean() < 1  # it did move

    @pytest.mark.parametrize("bound", [0.04, 0.25, 0.5, 0.9])
    def test_the_middle_is_always_filled(self, bound: float) -> None:
        """Of whatever numbers, also where every one is at its end."""
        stn = STN(localisation(), bound)
        g = generator("raw")
        stn.localisation = nn.Identity()
        raw = torch.cat([s * torch.randn(3000, 6, generator=g) for s in (0.3, 3.0, 1e6)])
        theta = stn.theta(raw)
        assert (covered_area(theta[::20]) >= bound - 0.01).all()
        corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)])
        corners[:, :2] *= bound**0.5
        assert (theta @ corners.T).abs().max() <= 1 + 1e-6

    def test_entries_end_where_the_docs_say(self) -> None:
        stn = STN(localisation())
        stn.localisation = nn.Identity()
        theta = stn.theta(1e6 * torch.tensor([[1.0, 1, 1, 1, 1, 1], [-1, -1, -1, -1, -1, -1]]))
        torch.testing.assert_close(theta[0], torch.tensor([[1.5, 0.5, 0], [0.5, 1.5, 0]]))
        torch.testing.assert_close(theta[1], torch.tensor([[0.5, -0.5, -0.5], [-0.5, 0.5, -0.5]]))


class TestStn:
    def test_it_starts_at_the_identity(self) -> None:
        stn = STN(localisation())
        assert torch.equal(stn.theta(images()), torch.eye(2, 3).expand(6, 2, 3))
        torch.testing.assert_close(stn(images()), images(), rtol=0, atol=3e-6)

    def test_several_maps_of_an_image(self) -> None:
        stn = STN(localisation(maps=3), sample=AffineSample(size=(5, 7), mode="bicubic"))
        assert stn.theta(images()).shape == (6, 3, 2, 3)
        assert stn(images()).shape == (6, 3, 1, 5, 7)

    def test_maps_keep_their_digits_under_autocast(self) -> None:
        """In bfloat16 the middle of the output would reach beyond the image."""
        stn = STN(nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 6)))
        nn.init.normal_(stn.localisation[1].weight)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            raw, theta = stn.localisation(images()), stn.theta(images())
        assert raw.dtype == torch.bfloat16
        stn.localisation = nn.Identity()
        assert torch.equal(theta, stn.theta(raw.float()))
        assert theta.dtype == torch.float32
        assert stn.double().theta(raw.double()).dtype == torch.float64

    def test_every_parameter_learns(self) -> None:
        stn = STN(localisation())
        optimiser = torch.optim.SGD(stn.parameters(), lr=1e-3)
        before = [p.detach().clone() for p in stn.parameters()]
        for _ in range(2):  # in the first step only the last layer moves away from zero
            optimiser.zero_grad()
            stn(images()).square().sum().backward()
            optimiser.step()
        assert all((p != b).any() for p, b in zip(stn.parameters(), before, strict=True))

    def test_errors(self) -> None:
        for bound in (0.0, 1.0, -0.5):
            with pytest.raises(ValueError, match="bound must lie between 0 and 1"):
                STN(localisation(), bound)
        with pytest.raises(ValueError, match=r"nn.Linear of 6 outputs for each map, ends in Linear.*out_features=5"):
            STN(nn.Sequential(nn.Flatten(), nn.Linear(4, 5)))
        with pytest.raises(ValueError, match="ends in None"):
            STN(nn.Flatten())
        normalised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
        for last in (normalised, nn.LazyLinear(6)):
            with pytest.raises(ValueError, match=r"last nn\.Linear .* plain parameter"):
                STN(nn.Sequential(nn.Flatten(), last))


class TestAffineSample:
    def test_it_is_the_function(self) -> None:
        theta = torch.eye(2, 3) + 0.2 * torch.randn(6, 2, 3, generator=generator("theta"))
        layer = AffineSample((5, 7), "bicubic", "border", True, normalize=([0.2], [0.4]))
        expected = lada_ext.affine_sample(images(), theta, (5, 7), "bicubic", "border", True, ([0.2], [0.4]))
        assert torch.equal(layer(images(), theta), expected)
        assert not layer.state_dict()
        assert "bicubic" in repr(layer)

    def test_errors(self) -> None:
        for normalize, message in (
            (0.5, r"AffineSample: normalize must be a pair \(mean, std\), got float"),
            (([0.5], [0.5], [1.0]), r"AffineSample: normalize must be a pair \(mean, std\), got tuple of 3"),
        ):
            with pytest.raises(TypeError, match=message):
                AffineSample(normalize=normalize)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"AffineSample: mean must have shape \(channels,\), got \[\]"):
            AffineSample(normalize=(0.5, 0.5))  # type: ignore[arg-type]

    def test_statistics_move_along(self) -> None:
        layer = AffineSample(normalize=([0.2], torch.tensor([0.4], dtype=torch.float64))).double()
        assert layer.mean.dtype == layer.std.dtype == torch.float64
        assert (layer.mean.item(), layer.std.item()) == (0.2, 0.4)

    @pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
    def test_statistics_are_made_in_full_precision(self, default: torch.dtype) -> None:
        torch.set_default_dtype(default)
        try:
            layer = AffineSample(normalize=([0.1307], [0.3081]))
        finally:
            torch.set_default_dtype(torch.float32)
        expected = torch.float64 if default == torch.float64 else torch.float32
        assert torch.equal(layer.mean, torch.tensor([0.1307], dtype=expected))
        assert layer.mean.dtype == layer.std.dtype == expected

    def test_statistics_are_not_lost(self) -> None:
        """In half precision they would be rounded, and without memory forgotten."""
        expected = AffineSample(normalize=([0.1307], [0.3081]))
        with torch.device("meta"):
            empty = AffineSample(normalize=([0.1307], [0.3081]))
        for layer in (AffineSample(normalize=([0.1307], [0.3081])).half(), empty.to_empty(device="cpu")):
            assert torch.equal(layer.mean, expected.mean)
            assert torch.equal(layer.std, expected.std)
