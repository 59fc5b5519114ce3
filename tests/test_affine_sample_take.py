"""take_images: against the reference, the law of its windows, independence of the batch, and its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import TAKEN, cast, generator
from torch import Tensor

import lada_ext
from lada_ext import reference


def arguments(name: str, device: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    sample = cast(TAKEN[name](generator(name)), torch.float32, device)
    tone = (sample["mean"], sample["std"])
    options = {"padding": sample["padding"], "mirror": sample["mirror"]}
    return (
        (sample["images"], sample["index"], sample["key"]),
        {**options, "normalize": None if tone[0] is None else tone},
    )


@pytest.mark.parametrize("name", TAKEN)
def test_reference(name: str, device: str) -> None:
    taken, options = arguments(name, device)
    got, expected = lada_ext.take_images(*taken, **options), reference.take_images(*taken, **options)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=3e-7, atol=3e-7)
    images = taken[0]
    if images.is_contiguous(memory_format=torch.channels_last) and got.numel():
        assert got.is_contiguous(memory_format=torch.channels_last)


def pool(count: int = 6, side: int = 8, device: str = "cpu") -> Tensor:
    """Images whose pixels all differ, none of them black."""
    pixels = torch.arange(1, side * side + 1, dtype=torch.uint8).view(1, 1, side, side)
    return (pixels + 100 * (torch.arange(count, dtype=torch.uint8) % 2)[:, None, None, None]).to(device)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 16), (3, 37, 41), (2, 5, 1030)], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["planes", "pixels"])
def test_whole_images_are_torchs_arithmetic(
    shape: tuple[int, int, int], memory_format: torch.memory_format, device: str
) -> None:
    """What a pool normalised by itself, bit for bit on the CPU, so that one op can take the place of the other."""
    images = torch.randint(256, (9, *shape), dtype=torch.uint8, generator=generator("images")).to(device)
    mean, std = (torch.tensor(v[: shape[0]], device=device) for v in ([0.49, 0.48, 0.45], [0.25, 0.24, 0.26]))
    index = torch.tensor([8, 0, 3, 3], device=device)
    expected = (images[index].float() / 255 - mean[:, None, None]) / std[:, None, None]
    taken = lada_ext.take_images(images.contiguous(memory_format=memory_format), index, normalize=(mean, std))
    torch.testing.assert_close(taken, expected, rtol=0, atol=0 if device == "cpu" else 5e-7)  # nvcc fuses


def test_a_window_depends_on_key_and_row_alone(device: str) -> None:
    images, key = pool(device=device), lada_ext.make_key(5, device)
    index = torch.tensor([3, 0, 5, 3, 1], device=device)
    whole = lada_ext.take_images(images, index, key, padding=3, mirror=True)
    assert torch.equal(whole[0], whole[3])
    for place, row in enumerate(index):
        assert torch.equal(lada_ext.take_images(images, row[None], key, padding=3, mirror=True)[0], whole[place])
    assert not torch.equal(lada_ext.take_images(images, index, key + 1, padding=3, mirror=True), whole)


@pytest.mark.heavy
def test_every_window_is_equally_likely(device: str) -> None:
    """Places, and sides, of 36,000 windows of one image: 2 x 3 x 3 outcomes, by a chi-squared test."""
    from scipy import stats

    side, draws = 4, 36_000
    images = pool(1, side, device).expand(draws, 1, side, side)
    index = torch.arange(draws, device=device)
    taken = lada_ext.take_images(images, index, lada_ext.make_key(1, device), padding=1, mirror=True)
    corners = (taken[:, 0, :: side - 1, :: side - 1] * 255).round().flatten(1).cpu()
    _, counts = corners.unique(dim=0, return_counts=True)
    assert len(counts) == 18
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


class TestErrors:
    images, index, key = pool(), torch.tensor([0, 1]), lada_ext.make_key(1)

    def test_types(self) -> None:
        with pytest.raises(TypeError, match="take_images: images must have dtype uint8, got Float"):
            lada_ext.take_images(self.images.float(), self.index)
        with pytest.raises(TypeError, match="take_images: index must have dtype int64, got Int"):
            lada_ext.take_images(self.images, self.index.int())
        with pytest.raises(TypeError, match="take_images: key must have dtype int64, got Float"):
            lada_ext.take_images(self.images, self.index, torch.ones(2))

    def test_shapes(self) -> None:
        with pytest.raises(
            ValueError, match=r"take_images: images must have shape \(M, channels, H, W\), got \[1, 8, 8\]"
        ):
            lada_ext.take_images(self.images[0], self.index)
        with pytest.raises(ValueError, match=r"take_images: index must have shape \(B,\), got \[1, 2\]"):
            lada_ext.take_images(self.images, self.index[None])
        with pytest.raises(ValueError, match=r"take_images: key must have shape \[2\], got \[3\]"):
            lada_ext.take_images(self.images, self.index, torch.arange(3))
        with pytest.raises(ValueError, match=r"take_images: mean must have shape \[1\], got \[3\]"):
            lada_ext.take_images(self.images, self.index, normalize=([0.0] * 3, [1.0]))

    def test_sizes(self) -> None:
        huge = torch.zeros((), dtype=torch.uint8).expand(1, 1, 2**16, 2**15)
        with pytest.raises(ValueError, match="take_images: an image must have fewer than 2\\^31 - 1 values"):
            lada_ext.take_images(huge, torch.tensor([0]))

    @pytest.mark.parametrize("bad", [-1, 6])
    def test_rows(self, bad: int) -> None:
        with pytest.raises(ValueError, match=rf"take_images: index must lie in \[0, 6\), got index\[1\] = {bad}"):
            lada_ext.take_images(self.images, torch.tensor([0, bad]))

    def test_options(self) -> None:
        for options in ({"padding": 1}, {"mirror": True}):
            with pytest.raises(ValueError, match="take_images: padding and mirror are drawn from a key"):
                lada_ext.take_images(self.images, self.index, **options)
        with pytest.raises(ValueError, match=r"take_images: padding must lie in \[0, 2\^30\), got -1"):
            lada_ext.take_images(self.images, self.index, self.key, padding=-1)
        for bad in (0.0, float("nan")):
            with pytest.raises(ValueError, match=rf"take_images: std must be positive, got std\[0\] = {bad:g}"):
                lada_ext.take_images(self.images, self.index, normalize=([0.5], [bad]))
        with pytest.raises(ValueError, match="take_images: mean of normalize is a constant"):
            lada_ext.take_images(self.images, self.index, normalize=(torch.ones(1, requires_grad=True), [1.0]))


def test_rows_that_do_not_exist_are_nan_where_nobody_looks(device: str) -> None:
    if device == "cpu":
        pytest.skip("the CPU refuses them")
    taken = lada_ext.take_images(pool(device=device), torch.tensor([0, 6, -1], device=device))
    assert taken.isnan().flatten(1).all(1).tolist() == [False, True, True]
