"""From an image as it is stored to the pixels that a network takes, with limits on what is decoded at all."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lada_al.errors import UsageError

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm"}
WHITE = 65535  # in 16 bits
# Modes that Pillow does not make grey, or warns of because of their alpha, and what it makes of them first.
LESS_USUAL = {"La": "LA", "LAB": "RGB", "P": "RGBA", "PA": "RGBA"}
# By EXIF's orientation, what brings an image the right way up.
TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableError(ValueError):
    """An item of a pool that cannot be decoded, or that is too large to be."""


@dataclass(frozen=True)
class Limits:
    """What is too large to be decoded, for a small file can hold an image that fills the memory; and how large the
    values of pixels get."""

    bytes: int = 200_000_000
    pixels: int = 50_000_000
    white: int = WHITE
    """The value of white in grey images of 16 bits: 4095 where 12 of them are used."""

    def __post_init__(self) -> None:
        if not 0 < self.white <= WHITE:
            raise UsageError(f"white must be from 1 to {WHITE}, got {self.white}")


@dataclass(frozen=True)
class ImageSpec:
    """Images as a network takes them: channels, size, and the statistics by which pixels in [0, 1] are normalised."""

    channels: int = 3
    height: int = 224
    width: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    _constants: dict[torch.device, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or min(self.height, self.width) < 1:
            raise ValueError(f"ImageSpec: expected 1 or 3 channels and a positive size, got {self.shape}")
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ValueError(f"ImageSpec: mean and std must have {self.channels} values, and those of std be positive")
        for name in ("mean", "std"):  # of lists, that equal specs are equal
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def pixels(self, image: Image.Image | np.ndarray | Tensor) -> np.ndarray:
        """(height, width, channels) uint8: scaled until it covers the size, then cut to it around the centre.

        Raises:
            UnreadableError: an array is not uint8 or has not the shape of an image, or the image is of floating pixels.
        """
        if not isinstance(image, Image.Image):
            array = as_hwc(np.asarray(image))
            if array.shape == (self.height, self.width, self.channels):
                return array
            image = Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)
        image = eight_bits(image).convert("L" if self.channels == 1 else "RGB")
        if image.size != (self.width, self.height):
            image = ImageOps.fit(image, (self.width, self.height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def normalised(self, pixels: Tensor) -> Tensor:
        """(B, height, width, channels) uint8 to float32 (B, channels, height, width) in channels_last, in one pass."""
        if pixels.device not in self._constants:
            mean, std = (torch.tensor(v, device=pixels.device) for v in (self.mean, self.std))
            self._constants[pixels.device] = (-mean / std, 1 / (255 * std))
        shift, scale = self._constants[pixels.device]
        return torch.addcmul(shift, pixels, scale).permute(0, 3, 1, 2)


def open_image(stored: bytes, limits: Limits, wanted: ImageSpec | None = None) -> Image.Image:
    """The image in the bytes of a file, the right way up, in a mode that can be made L and RGB; a JPEG file may come
    scaled down to no less than `wanted`.

    Raises:
        UnreadableError: it is no image, is cut short, has floating pixels, or exceeds the limits.
    """
    if len(stored) > limits.bytes:
        raise UnreadableError(f"{len(stored)} bytes, more than {limits.bytes}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, larger limit; odd but harmless metadata
            image = Image.open(io.BytesIO(stored), formats=FORMATS)
            if image.width * image.height > limits.pixels:
                raise UnreadableError(f"{image.width} x {image.height} pixels, more than {limits.pixels}")
            if wanted is not None:
                side = max(wanted.height, wanted.width)
                image.draft("RGB" if wanted.channels == 3 else "L", (side, side))
            return eight_bits(_upright(image), limits.white)
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:  # its text names an address in memory
        raise UnreadableError(f"no image in any of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow raises almost anything where a file is malformed
        raise UnreadableError(_short(error)) from error


def decode(stored: Any, spec: ImageSpec, limits: Limits) -> np.ndarray:
    """An item's pixels (height, width, channels) uint8.

    Raises:
        UnreadableError: with the reason.
    """
    if isinstance(stored, UnreadableError):
        raise stored
    if isinstance(stored, bytes):
        stored = open_image(stored, limits, spec)
    if isinstance(stored, Image.Image | np.ndarray | Tensor):
        try:
            return spec.pixels(eight_bits(stored, limits.white) if isinstance(stored, Image.Image) else stored)
        except (OSError, SyntaxError, ValueError) as error:
            raise UnreadableError(_short(error)) from error
    raise UnreadableError(f"expected an image, got {type(stored).__name__}")


def as_hwc(image: np.ndarray) -> np.ndarray:
    """(H, W), (1 or 3, H, W) or (H, W, 1 or 3), uint8, to (H, W, channels)."""
    if image.dtype != np.uint8:
        raise UnreadableError(f"expected uint8 pixels, got {image.dtype}")
    if image.ndim == 2:
        return image[:, :, None]
    if image.ndim == 3 and image.shape[2] in (1, 3):
        return image
    if image.ndim == 3 and image.shape[0] in (1, 3):
        return np.ascontiguousarray(image.transpose(1, 2, 0))
    raise UnreadableError(f"expected an image of 1 or 3 channels, got shape {image.shape}")


def eight_bits(image: Image.Image, white: int = WHITE) -> Image.Image:
    """The image with eight bits a channel, in a mode that can be made L and RGB: of 16 bits, the upper eight of those
    that `white` needs.

    Raises:
        UnreadableError: it has floating pixels.
    """
    if image.mode == "F":
        raise UnreadableError("floating pixels, expected whole numbers of 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, white).astype(np.int64)
        return Image.fromarray((values * 256 // (white + 1)).astype(np.uint8))
    return image.convert(LESS_USUAL[image.mode]) if image.mode in LESS_USUAL else image


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data say, or as it is stored where they cannot be read."""
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # as in open_image: Pillow raises almost anything
        turn = None
    return image if turn is None else image.transpose(turn)


def _short(error: BaseException) -> str:
    text = str(error).splitlines()
    return text[0][:200] if text else type(error).__name__
