"""View: a batch of real or virtual instances and what the network knows of them, each computed at most once.

It is what makes f_integ = f_acq o f_aug literal: an acquisition function takes a view and returns scores, an
augmentation takes views and returns a view. A real view starts from images. A mixed one starts from features at layer
k, or from the furthest module behind it up to which the network is affine: mixing there is the same, and what runs
before runs once for each real instance instead of once for each mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lada_al import affine_tail
from lada_al.device import at_a_time
from lada_al.models import SplitModel

T = TypeVar("T")


class Known(MutableMapping[int, Tensor]):
    """Tensors of a view by the number of modules that have run; those of a part are taken out of the whole's when they
    are asked for, since most never are."""

    def __init__(self, whole: Known | None = None, index: Tensor | slice | None = None) -> None:
        self._own: dict[int, Tensor] = {}
        self._whole, self._index = whole, index
        self._inherited = frozenset(whole or ())  # what the whole comes to know later is computed for it, not for us

    def __getitem__(self, step: int) -> Tensor:
        if step not in self._own and step in self._inherited:
            with torch.enable_grad():  # kept, as what a view computes
                values, places = self.source(step)
                self._own[step] = values if places is None else _rows(values, places)
        return self._own[step]

    def source(self, step: int) -> tuple[Tensor, Tensor | None]:
        """A tensor that holds the instances, and their places in it; None if they are all that it holds."""
        if step in self._own or self._whole is None:
            return self._own[step], None
        values, places = self._whole.source(step)
        if isinstance(self._index, Tensor):
            index = self._index.to(values.device)
            return values, index if places is None else places[index]
        return (values[self._index], None) if places is None else (values, places[self._index])

    @property
    def device(self) -> torch.device:
        if self._own or self._whole is None:
            return next(iter(self._own.values())).device
        return self._whole.device

    def __setitem__(self, step: int, value: Tensor) -> None:
        self._own[step] = value

    def __delitem__(self, step: int) -> None:
        raise TypeError("a view forgets nothing")

    def __contains__(self, step: object) -> bool:
        return step in self._own or step in self._inherited

    def __iter__(self) -> Iterator[int]:
        return iter({**dict.fromkeys(self._inherited), **self._own})

    def __len__(self) -> int:
        return len(self._inherited | self._own.keys())


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Instances out of many. Those of channels-last maps are whole pieces of memory, which only `index_select` of the
    memory as it lies copies as such."""
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return values.index_select(0, index)


class View:
    """Instances with `leading` batch axes: (B,), or (P, N) for N mixtures of P pairs.

    Exactly one of `image`, `hidden` and `mix` is given; the rest is computed when first asked for. `mix(step)` makes
    the virtual instances from their parents as they are after `step` modules of the network; it may be called for any
    step up to which f^{k:K} is affine. `logits()` gives theirs without making them, or None where that cannot be.
    `ids` name real instances in the pool and in the random streams; they are on the
    device of the instances, so that positions found there index all that a view holds. `target` holds label
    distributions, (..., C), where they are known. `parents` are the real instances that virtual ones were made of. The
    weights must not change while a view is in use: `train.fit` raises the network's version, and an old view refuses.
    """

    def __init__(
        self,
        net: SplitModel,
        k: int,
        *,
        image: Tensor | None = None,
        hidden: Tensor | None = None,
        mix: Callable[[int], Tensor] | None = None,
        logits: Callable[[], Tensor | None] | None = None,
        leading: int = 1,
        ids: Tensor | None = None,
        target: Tensor | None = None,
        parents: tuple[View, ...] = (),
    ) -> None:
        if sum(given is not None for given in (image, hidden, mix)) != 1:
            raise ValueError("View: give exactly one of image, hidden and mix")
        self.net, self.k, self.leading, self.ids, self.target, self.parents = net, k, leading, ids, target, parents
        self._version, self._mix, self._directly = net.version, mix, logits
        self._known = Known()
        if image is not None:
            self._known[0] = image
        if hidden is not None:
            self._known[net.cut(k)] = hidden
        self._count = len(parents[0]) if mix is not None else len(next(iter(self._known.values())))

    def __len__(self) -> int:
        return self._count

    @property
    def device(self) -> torch.device:
        return self._known.device if self._known else self.parents[0].device

    def __getitem__(self, index: Tensor | slice) -> View:
        """A part of the view, which shares what is already known."""
        if self._mix is not None:
            self.at(self.net.cut(self.net.depth))
        part = View.__new__(View)
        part._mix = part._directly = None
        part.net, part.k, part.leading, part._version = self.net, self.k, self.leading, self._version
        part.ids = None if self.ids is None else self.ids[index]
        part.target = None if self.target is None else self.target[index]
        part.parents = tuple(parent[index] for parent in self.parents)
        part._known = Known(self._known, index)
        part._count = len(range(len(self))[index]) if isinstance(index, slice) else len(index)
        return part

    def split(self, batch: int) -> Iterator[View]:
        """Consecutive parts of `batch` instances; the last may be smaller."""
        return (self[start : start + batch] for start in range(0, len(self), batch))

    def at(self, step: int) -> Tensor:
        """The instances after `step` modules of the network. A view that begins at layer k has none before it."""
        if step not in self._known and self._directly is not None and step == self.net.cut(self.net.depth):
            logits = self._compute(self._directly)
            if logits is not None:
                self._known[step] = logits
        if step not in self._known:
            start, h = self._start(step)
            for stop in self._stops(start, step):
                start, h = stop, self._known.setdefault(stop, self._run(h, start, stop))
        return self._known[step]

    def _stops(self, start: int, step: int) -> list[int]:
        """Where to stop on the way, and keep the features: at every h^j. Virtual instances on their way to the logits
        stop where the affine end of the network begins, and nowhere in it."""
        net = self.net
        cuts = [cut for cut in map(net.cut, range(net.depth)) if start < cut < step]
        tail = affine_tail.start_of(net) if self.parents and step == net.cut(net.depth) else None
        if tail is None:
            return [*cuts, step]
        tail = max(start, tail)
        return [*(cut for cut in cuts if cut < tail), *([tail] if start < tail < step else []), step]

    def stage(self, j: int) -> Tensor:
        """h^j: the images at j = 0, the logits at j = K."""
        return self.at(self.net.cut(j))

    def _start(self, step: int) -> tuple[int, Tensor]:
        """The last module before `step` at which the instances are known, or can be mixed."""
        first = self.net.cut(self.k)
        known = max((i for i in self._known if i < step), default=None)
        mix = self._mix
        if mix is None or step < first:
            if known is None:
                what = "image" if step == 0 else f"features before module {step}"
                raise ValueError(f"View: instances mixed at layer {self.k} have no {what}")
            return known, self._known[known]
        reach = self.net.affine_reach(first, step)
        if known is None or known < reach:
            self._known[reach] = self._compute(lambda: mix(reach))
            known = reach
        return known, self._known[known]

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
        """The same view with these h^j computed, at most `batch` instances at a time; by default what look-ahead reads:
        h^k, the logits, and where mixtures will be made."""
        net = self.net
        steps = [net.cut(j) for j in stages]
        steps = steps or [net.cut(self.k), net.mixing_reach(self.k), net.cut(net.depth)]
        wanted = [step for step in dict.fromkeys(steps) if step not in self._known]
        parts = [[part.at(step) for step in wanted] for part in self.split(at_a_time(batch, self.device))]
        for step, values in zip(wanted, zip(*parts, strict=True), strict=False):
            self._known[step] = torch.cat(values)
        return self

    def remember(self, j: int, value: Tensor) -> None:
        """Keeps an h^j that was computed part by part."""
        self._known[self.net.cut(j)] = value

    def _run(self, h: Tensor, start: int, stop: int) -> Tensor:
        def run() -> Tensor:
            flat, tail = h if self.leading == 1 else h.flatten(0, self.leading - 1), None
            if self.parents and stop == self.net.cut(self.net.depth):
                tail = affine_tail.of(self.net, start, flat.shape[1:])
            out = self.net.run(flat, start, stop) if tail is None else tail(flat)
            return out if self.leading == 1 else out.unflatten(0, h.shape[: self.leading])

        return self._compute(run)

    def _compute(self, f: Callable[[], T]) -> T:
        """Records gradients even if first asked for under no_grad, since the result is kept; if nothing needs a
        gradient, as under `frozen`, there is nothing to record."""
        if self._version != self.net.version:
            raise RuntimeError("View: the network was trained after this view was made; make a new one")
        with torch.enable_grad():
            return f()

    def source(self, step: int) -> tuple[Tensor, Tensor | None]:
        """A tensor that holds these instances after `step` modules, and their places in it; None if they are all that
        it holds."""
        if step not in self._known:
            self.at(step)
        return self._known.source(step)


def pairs_within(a: View, b: View, step: int) -> tuple[Tensor, Tensor]:
    """A tensor that holds both views after `step` modules, and the places (P, 2) in it of what are pairs."""
    (h, first), (other, second) = a.source(step), b.source(step)
    if first is None or second is None or h is not other:
        h = torch.cat([a.at(step), b.at(step)])
        first, second = torch.arange(len(h), device=h.device).chunk(2)
    return h, torch.stack([first, second], 1)


def together(views: Sequence[View], start: int, stop: int) -> None:
    """f^{start:stop} of several views as one batch, which is what batch normalisation sees; each knows its h^j then."""
    if start == stop:
        return
    net, batches = views[0].net, [view.stage(start).shape[: view.leading] for view in views]
    h = torch.cat([view.stage(start).flatten(0, view.leading - 1) for view in views])
    for j in range(start, stop):
        h = net.run(h, net.cut(j), net.cut(j + 1))
        for view, batch, part in zip(views, batches, h.split([batch.numel() for batch in batches]), strict=True):
            view.remember(j + 1, part.unflatten(0, batch))
