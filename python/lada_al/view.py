"""View: a batch of real or virtual instances and what the network knows of them, each computed at most once.

It is what makes f_integ = f_acq o f_aug literal: an acquisition function takes a view and returns scores, an
augmentation takes views and returns a view. A real view starts from images, a mixed one from features at layer k.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from lada_al.models import SplitModel


class View:
    """Instances with `leading` batch axes: (B,), or (P, N) for N mixtures of P pairs.

    Exactly one of `image` and `hidden` is given; the rest is computed when first asked for. `ids` name real instances
    in the pool and in the random streams. `target` holds label distributions, (..., C), where they are known. The
    weights must not change while a view is in use: `train.fit` raises the network's version, and an old view then
    refuses.
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
    ) -> None:
        if (image is None) == (hidden is None):
            raise ValueError("View: give exactly one of image and hidden")
        self.net, self.k, self.leading, self.ids, self.target = net, k, leading, ids, target
        self._version = net.version
        if image is not None:
            self.image = image
        if hidden is not None:
            self.hidden = hidden

    def __len__(self) -> int:
        return len(self.image if "image" in self.__dict__ else self.hidden)

    def __getitem__(self, index: Tensor | slice) -> View:
        """A part of the view, which shares what is already known."""
        known = {name: self.__dict__[name] for name in ("image", "hidden", "logits") if name in self.__dict__}
        part = View.__new__(View)
        part.net, part.k, part.leading, part._version = self.net, self.k, self.leading, self._version
        part.ids = None if self.ids is None else self.ids[index]
        part.target = None if self.target is None else self.target[index]
        part.__dict__.update({name: value[index] for name, value in known.items()})
        return part

    @cached_property
    def image(self) -> Tensor:
        """The images, where there are any: instances mixed behind layer 0 have none."""
        raise ValueError(f"View: instances mixed at layer {self.k} have no image")

    @cached_property
    def hidden(self) -> Tensor:
        """h^k, Eq. 8."""
        return self._compute(lambda: self.net.features(self.image, self.k))

    @cached_property
    def logits(self) -> Tensor:
        """f^{k:K}(h^k), (..., C)."""

        def head() -> Tensor:
            flat = self.hidden.flatten(0, self.leading - 1)
            return self.net.head(flat, self.k).unflatten(0, self.hidden.shape[: self.leading])

        return self._compute(head)

    def computed(self, batch: int) -> View:
        """The same view with features and logits computed, `batch` instances at a time."""
        parts = [self[start : start + batch] for start in range(0, len(self), batch)]
        self.logits = torch.cat([part.logits for part in parts])
        self.hidden = torch.cat([part.hidden for part in parts])
        return self

    def _compute(self, f: Callable[[], Tensor]) -> Tensor:
        """Records gradients even if first asked for under no_grad, since the result is kept; if nothing needs a
        gradient, as under `frozen`, there is nothing to record."""
        if self._version != self.net.version:
            raise RuntimeError("View: the network was trained after this view was made; make a new one")
        with torch.enable_grad():
            return f()
