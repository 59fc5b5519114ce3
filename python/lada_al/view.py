"""View: a batch of real or virtual instances and what the network knows of them, each computed at most once.

It is what makes f_integ = f_acq o f_aug literal: an acquisition function takes a view and returns scores, an
augmentation takes views and returns a view. A real view starts from images, a mixed one from features at layer k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lada_al.models import SplitModel


class View:
    """Instances with `leading` batch axes: (B,), or (P, N) for N mixtures of P pairs.

    Exactly one of `image` and `hidden` is given; the rest is computed when first asked for. `ids` name real instances
    in the pool and in the random streams. `target` holds label distributions, (..., C), where they are known. `parents`
    are the real instances that virtual ones were made of. The weights must not change while a view is in use:
    `train.fit` raises the network's version, and an old view then refuses.
    """

    def __init__(
        self,
        net: SplitModel,
        k: int,
        *,
        image: Tensor | None = None,
        hidden: Tensor | None = None,
        leading: int = 1,
        ids: Tensor | None = None,
        target: Tensor | None = None,
        parents: tuple[View, ...] = (),
    ) -> None:
        if (image is None) == (hidden is None):
            raise ValueError("View: give exactly one of image and hidden")
        self.net, self.k, self.leading, self.ids, self.target, self.parents = net, k, leading, ids, target, parents
        self._version = net.version
        self._known: dict[int, Tensor] = {}
        if image is not None:
            self._known[0] = image
        if hidden is not None:
            self._known[k] = hidden

    def __len__(self) -> int:
        return len(next(iter(self._known.values())))

    def __getitem__(self, index: Tensor | slice) -> View:
        """A part of the view, which shares what is already known."""
        part = View.__new__(View)
        part.net, part.k, part.leading, part._version = self.net, self.k, self.leading, self._version
        part.ids = None if self.ids is None else self.ids[index]
        part.target = None if self.target is None else self.target[index]
        part.parents = tuple(parent[index] for parent in self.parents)
        part._known = {j: value[index] for j, value in self._known.items()}
        return part

    def split(self, batch: int) -> Iterator[View]:
        """Consecutive parts of `batch` instances; the last may be smaller."""
        return (self[start : start + batch] for start in range(0, len(self), batch))

    def stage(self, j: int) -> Tensor:
        """h^j: the images at j = 0, the logits at j = K. A view that begins at layer k has none before it."""
        if j not in self._known:
            if not any(i < j for i in self._known):
                what = "image" if j == 0 else f"features at layer {j}"
                raise ValueError(f"View: instances mixed at layer {self.k} have no {what}")
            before = self.stage(j - 1)
            self._known[j] = self._compute(lambda: self._apply(j - 1, before))
        return self._known[j]

    @property
    def image(self) -> Tensor:
        """The images, where there are any: instances mixed behind layer 0 have none."""
        return self.stage(0)

    @property
    def hidden(self) -> Tensor:
        """h^k, Eq. 8."""
        return self.stage(self.k)

    @property
    def penultimate(self) -> Tensor:
        """h^(K-1): what the last layer sees, (..., D)."""
        return self.stage(self.net.depth - 1)

    @property
    def logits(self) -> Tensor:
        """f^{k:K}(h^k), (..., C)."""
        return self.stage(self.net.depth)

    def computed(self, batch: int, *stages: int) -> View:
        """The same view with these h^j computed, `batch` instances at a time; by default h^k and the logits."""
        wanted = [j for j in stages or (self.k, self.net.depth) if j not in self._known]
        parts = [[part.stage(j) for j in wanted] for part in self.split(batch)]
        for j, values in zip(wanted, zip(*parts, strict=True), strict=False):
            self._known[j] = torch.cat(values)
        return self

    def remember(self, j: int, value: Tensor) -> None:
        """Keeps an h^j that was computed part by part."""
        self._known[j] = value

    def _apply(self, stage: int, h: Tensor) -> Tensor:
        flat: Tensor = self.net.stages[stage](h.flatten(0, self.leading - 1))
        return flat.unflatten(0, h.shape[: self.leading])

    def _compute(self, f: Callable[[], Tensor]) -> Tensor:
        """Records gradients even if first asked for under no_grad, since the result is kept; if nothing needs a
        gradient, as under `frozen`, there is nothing to record."""
        if self._version != self.net.version:
            raise RuntimeError("View: the network was trained after this view was made; make a new one")
        with torch.enable_grad():
            return f()
