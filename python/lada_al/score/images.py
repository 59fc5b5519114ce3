"""Scores of images: worker processes decode them into pinned uint8 batches, the network takes them from there.

On a CPU, the bits of a network's output depend on which images are in a batch. So there it always sees STEP images
together, those whose positions begin at a multiple of STEP; batches, workers and shards are made of whole steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import lada_ext
from lada_al.errors import UsageError
from lada_al.load_model import Loaded
from lada_al.pools import Id, ImageSpec, Source, UnreadableError
from lada_al.pools.decode import WHITE, decode
from lada_al.score import methods
from lada_al.score.methods import STEP
from lada_al.score.run import Show
from lada_al.wrap import logits_of, taking_images


@dataclass(frozen=True)
class Batch:
    """Images next to each other in the pool; those that cannot be decoded are blank and have a reason."""

    first: int
    """Position in the pool of the first."""
    ids: list[Id]
    pixels: Tensor
    """(B, height, width, channels) uint8."""
    errors: list[str | None]

    def pin_memory(self) -> Batch:
        return Batch(self.first, self.ids, self.pixels.pin_memory(), self.errors)


class Batches(Dataset[Batch]):
    """Ranges of the pool, decoded; a worker process decodes one at a time."""

    def __init__(self, pool: Source, spec: ImageSpec, ranges: list[tuple[int, int]]) -> None:
        self.pool, self.spec, self.ranges = pool, spec, ranges

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, number: int) -> Batch:
        start, stop = self.ranges[number]
        spec = self.spec
        pixels = np.zeros((stop - start, spec.height, spec.width, spec.channels), np.uint8)
        ids: list[Id] = []
        errors: list[str | None] = []
        for place, item in zip(pixels, self.pool.read(start, stop), strict=True):
            ids.append(item.id)
            try:
                place[:] = decode(item.stored, spec, self.pool.limits)
                errors.append(None)
            except UnreadableError as error:
                errors.append(str(error))
        return Batch(start, ids, torch.from_numpy(pixels), errors)


class ImageScores:
    """A network over a pool. `batch` is rounded up to whole steps.

    Raises:
        UsageError: the network does not take the images, or returns no logits of them, or NaN.
    """

    def __init__(
        self, pool: Source, model: Loaded, method: str, device: torch.device, batch: int, workers: int
    ) -> None:
        self.pool, self.spec, self.method, self.device, self.workers = pool, model.spec, method, device, workers
        self.module = model.module.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch = -(-batch // STEP) * STEP
        with taking_images(self.spec.shape, "--model, whose factory may return (module, ImageSpec)"):
            self._try_out()

    def __len__(self) -> int:
        return len(self.pool)

    def about(self) -> dict[str, object]:
        spec = {"shape": list(self.spec.shape), "mean": list(self.spec.mean), "std": list(self.spec.std)}
        about: dict[str, object] = {
            "fingerprint": self.pool.fingerprint(),
            "weights": _digest(self.module),
            "images": spec,
        }
        white = self.pool.limits.white
        return about if white == WHITE else {**about, "white": white}

    def shards(self, ranges: list[tuple[int, int]], show: Show | None = None) -> Iterator[pa.Table]:
        cut = [
            [(first, min(first + self.batch, stop)) for first in range(start, stop, self.batch)]
            for start, stop in ranges
        ]
        batches = iter(
            DataLoader(
                Batches(self.pool, self.spec, [part for parts in cut for part in parts]),
                batch_size=None,
                num_workers=self.workers,
                pin_memory=self.device.type == "cuda",
            )
        )
        for parts in cut:
            tables = []
            for first, stop in parts:
                tables.append(self._scored(next(batches)))
                if show is not None:
                    show(stop - first)
            yield pa.concat_tables(tables)

    def _try_out(self) -> None:
        """Runs the network on noise: on two images, and on one, as the last batch of a pool may hold."""
        channels, height, width = self.spec.shape
        noise = torch.randint(256, (2, height, width, channels), generator=torch.Generator().manual_seed(0))
        pixels = noise.to(torch.uint8)
        logits = self.logits(pixels)
        self.logits(pixels[:1])
        if lada_ext.entropy(logits).isnan().all():
            raise UsageError("model: its logits of images of noise are NaN, which no score can be made of")

    def _scored(self, batch: Batch) -> pa.Table:
        size = STEP if self.device.type == "cpu" else len(batch.ids)
        logits = [
            self._logits_of(ids, pixels)
            for ids, pixels in zip(_split(batch.ids, size), batch.pixels.split(size), strict=True)
        ]
        ids = pa.array(batch.ids, self.pool.id_type)
        return methods.table(self.method, batch.first, ids, torch.cat(logits), batch.errors)

    def _logits_of(self, ids: list[Id], pixels: Tensor) -> Tensor:
        """`logits`; where the network fails, the error names the images."""
        try:
            return self.logits(pixels)
        except Exception as error:  # it is the user's own code
            images = f"on these {len(ids)} images: {', '.join(map(str, ids))}"
            if isinstance(error, UsageError):
                raise UsageError(f"{error}, {images}") from error
            raise RuntimeError(f"model: the network failed {images}") from error

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """Of (B, height, width, channels) uint8; on CUDA in bfloat16 where the GPU is made for it."""
        pixels = pixels.to(self.device, non_blocking=True)
        if self.device.type == "cpu":
            return self._run(pixels)
        with torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_bf16_supported(including_emulation=False)):
            return self._run(pixels)

    def _run(self, pixels: Tensor) -> Tensor:
        return logits_of(self.module(self.spec.normalised(pixels)), len(pixels))


def _split(ids: list[Id], size: int) -> list[list[Id]]:
    return [ids[first : first + size] for first in range(0, len(ids), size)]


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
