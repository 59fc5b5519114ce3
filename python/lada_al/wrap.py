"""Any classifier as a SplitModel, without a change to it: torchvision, timm, Hugging Face, your own.

A cut is the output of a module inside the network. The first half runs the network up to there and stops. The second
half runs the network too, but every module that comes before the cut answers at once with a placeholder, and the one at
the cut with the features that are given. What is left of the first half then is the glue between its modules, which
costs little. Weights, training mode and gradients are the network's own.

A cut is right if the logits depend on nothing before it but its features. That is tried on a sample: the halves must
compose to the whole with NaN in every placeholder.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lada_al.errors import UsageError, first_line
from lada_al.models import SplitModel, evaluating

SAMPLE, PART = 3, 2  # images that the network is traced on, and those of them that its halves are tried on
LARGE = 0.5  # a module with more of the weights than this is looked into for cuts


@dataclass(frozen=True)
class Blank:
    """A tensor of the trial run without its data; `shape` is that of one image."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def fill(self, like: Tensor, value: float) -> Tensor:
        """For the batch of `like`, in the memory of one number."""
        filler = value if self.dtype.is_floating_point else 0
        return torch.full((), filler, dtype=self.dtype, device=like.device).expand(len(like), *self.shape)


@dataclass(frozen=True)
class Call:
    """One call of a module in the trial run."""

    name: str
    parent: int | None
    """The call, by its number, inside of which it was made."""
    begin: int
    end: int
    output: Any
    """With Blank for each tensor; None if some tensor has not the batch first."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of the only tensor in the output; or None."""
        blanks = [leaf for leaf in pytree.tree_leaves(self.output) if isinstance(leaf, Blank)]
        return blanks[0].shape if len(blanks) == 1 and blanks[0].dtype.is_floating_point else None


@dataclass(frozen=True)
class Cut:
    """Behind a module, or before it: the last layer is cut off before it."""

    call: Call
    before: bool
    shape: tuple[int, ...]
    skipped: dict[str, list[Any]]
    """By module, what stands for the output of each of its calls before the cut."""

    def __str__(self) -> str:
        return f"before {self.call.name}" if self.before else self.call.name


class WrappedModel(SplitModel):
    """See SplitModel.wrap. Layer k is behind the k-th cut; h^0 is the image and h^K are the logits."""

    def __init__(
        self, module: nn.Module, at: Sequence[str] | None = None, shape: tuple[int, int, int] = (3, 224, 224)
    ) -> None:
        if not isinstance(module, nn.Module):
            raise UsageError(f"model: expected a module of torch, got {type(module).__name__}")
        super().__init__([])
        self.module = module
        self._named = {name: part for name, part in module.named_modules() if name}
        self._image = Blank(tuple(shape), torch.float32)
        device = next((parameter.device for parameter in module.parameters()), None)
        if device is None:
            raise UsageError(f"model: expected a classifier, got a {type(module).__name__}, which has no weights")
        sample = torch.randn(SAMPLE, *shape, generator=torch.Generator().manual_seed(0))
        with evaluating(module), torch.no_grad():
            self._cut_up(sample.to(device), at)

    @property
    def depth(self) -> int:
        return len(self.cuts) + 1

    def cut(self, k: int) -> int:
        return k

    def affine_reach(self, start: int, stop: int) -> int:
        """Nothing is known of what modules compute: mixtures are made where they are asked for."""
        del stop
        return start

    def shapes(self, image_shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
        return [tuple(image_shape), *(cut.shape for cut in self.cuts), (self.classes,)]

    def forward(self, image: Tensor) -> Tensor:
        return logits_of(self.module(image), len(image))

    def run(self, h: Tensor, start: int, stop: int) -> Tensor:
        return h if start == stop else self._between(h, start, stop)

    def _between(self, h: Tensor, start: int, stop: int, filler: float = 0.0) -> Tensor:
        image = h
        with _patches() as patch:
            if start:
                image = self._image.fill(h, filler)
                self._begin(patch, self.cuts[start - 1], h, filler)
            if stop < self.depth:
                self._stop(patch, self.cuts[stop - 1])
            try:
                return logits_of(self.module(image), len(image))
            except _ReachedError as reached:
                return reached.features

    def _begin(self, patch: Patch, cut: Cut, h: Tensor, filler: float) -> None:
        """Modules before the cut answer with placeholders, the one at the cut with `h`."""
        for name, outputs in cut.skipped.items():
            patch(self._named[name], _answers(self._named[name].forward, outputs, h, filler))
        module = self._named[cut.call.name]
        original, output = module.forward, cut.call.output
        if cut.before:
            patch(module, lambda *args, **options: original(h))
        else:
            patch(module, lambda *args, **options: pytree.tree_map(lambda leaf: _put(leaf, h), output))

    def _stop(self, patch: Patch, cut: Cut) -> None:
        """The module at the cut ends the run with its features."""
        module = self._named[cut.call.name]
        original = module.forward

        def stop(*args: Any, **options: Any) -> None:
            output = args[0] if cut.before else original(*args, **options)
            raise _ReachedError(next(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)))

        patch(module, stop)

    def _cut_up(self, sample: Tensor, at: Sequence[str] | None) -> None:
        with taking_images(tuple(sample.shape[1:])):
            calls, output = _trace(self.module, self._named, sample)
            logits = logits_of(output, len(sample))
            logits_of(self.module(sample[:1]), 1)
        if logits.isnan().any():
            raise UsageError("model: its logits of images of noise are NaN, so where to cut it cannot be tried")
        self.classes = logits.shape[1]
        self.cuts: list[Cut] = []
        places = self._places(calls) if at is None else [_call_of(name, calls) for name in at]
        for place in places:
            cut = _behind(place, calls)
            wrong = self._wrong(cut, sample[:PART])
            if wrong is None:
                self.cuts.append(cut)
            elif at is not None:
                raise UsageError(f"at: {cut}: {wrong}")
        last = self._before_last_layer(calls)
        if last is not None and self._wrong(last, sample[:PART]) is None:
            self.cuts.append(last)
        if not self.cuts:
            raise UsageError("model: found no module whose output alone decides the logits; name some with at=[...]")

    def _wrong(self, cut: Cut, sample: Tensor) -> str | None:
        """Why the network cannot be cut here behind the cuts that are known, or None."""
        if self.cuts and cut.call.end <= self.cuts[-1].call.end and not cut.before:
            return f"runs before {self.cuts[-1]}, which is named before it"
        if cut.call.shape is None:
            return "its output is not one batch of features"
        k, whole = len(self.cuts) + 1, self(sample)
        self.cuts.append(cut)
        try:
            halves = self._between(self._between(sample, 0, k), k, self.depth, torch.nan)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            return f"the network does not run from there: {error}"
        finally:
            self.cuts.pop()
        if not torch.allclose(halves, whole, rtol=1e-4, atol=1e-5 * _largest(whole)):
            return "the logits depend on more than its output: something leads around it"
        return None

    def _places(self, calls: list[Call]) -> list[Call]:
        """Calls that look like ends of stages: of composite modules, and of the last simple one before the next."""
        size = {name: sum(p.numel() for p in module.parameters()) for name, module in self._named.items()}
        whole = max(1, sum(p.numel() for p in self.module.parameters()))

        def opened(parent: int | None) -> Iterator[tuple[int, Call]]:
            for number, call in enumerate(calls):
                if call.parent == parent:
                    inner = list(opened(number)) if size[call.name] > LARGE * whole else []
                    yield from inner or [(number, call)]

        parts = sorted((call for _, call in opened(None)), key=lambda call: call.end)
        times = Counter(call.name for call in calls)
        places = []
        for part, following in pairwise(parts):
            module, successor = self._named[part.name], self._named[following.name]
            ends_here = _is_composite(module) or _is_composite(successor) or _has_matrix(successor)
            if ends_here and times[part.name] == 1:
                places.append(part)
        return places

    def _before_last_layer(self, calls: list[Call]) -> Cut | None:
        """The cut before the linear layer that makes the logits, unless the last cut is just there."""
        last = max((c for c in calls if isinstance(self._named[c.name], nn.Linear)), key=lambda c: c.end, default=None)
        if last is None or last.shape != (self.classes,):
            return None
        layer = self._named[last.name]
        assert isinstance(layer, nn.Linear)
        shape = (layer.in_features,)
        if self.cuts and self.cuts[-1].call.end == last.begin - 1 and self.cuts[-1].shape == shape:
            return None
        return Cut(last, True, shape, _skipped(calls, last.begin))


def _largest(logits: Tensor) -> float:
    """The largest absolute value of those that are finite: a class may be impossible."""
    return float(logits.masked_fill(logits.isinf(), 0).abs().max())


class _ReachedError(Exception):
    """Ends a run of the network at a cut."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


Patch = Callable[[nn.Module, Callable[..., Any]], None]


@contextmanager
def _patches() -> Iterator[Patch]:
    """patch(module, forward) replaces a module's forward; all are put back at the end."""
    before: list[tuple[nn.Module, Any]] = []

    def patch(module: nn.Module, forward: Callable[..., Any]) -> None:
        before.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward

    try:
        yield patch
    finally:
        for module, forward in reversed(before):
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


def _trace(module: nn.Module, named: dict[str, nn.Module], sample: Tensor) -> tuple[list[Call], Any]:
    """Every call of a module inside `module`, in the order in which they begin, and the output of the whole."""
    clock = iter(range(1 << 62))
    calls: list[dict[str, Any]] = []
    open_calls: list[int] = []

    def recorder(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **options: Any) -> Any:
            number = len(calls)
            calls.append({"name": name, "parent": open_calls[-1] if open_calls else None, "begin": next(clock)})
            open_calls.append(number)
            output = forward(*args, **options)
            open_calls.pop()
            calls[number] |= {"end": next(clock), "output": _blanks(output, len(sample))}
            return output

        return record

    with _patches() as patch:
        for name, part in named.items():
            patch(part, recorder(name, part.forward))
        output = module(sample)
    return [Call(**call) for call in calls], output


def _blanks(output: Any, batch: int) -> Any:
    tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    if any(t.dim() == 0 or len(t) != batch for t in tensors):
        return None
    return pytree.tree_map(lambda x: Blank(tuple(x.shape[1:]), x.dtype) if isinstance(x, Tensor) else x, output)


def _behind(call: Call, calls: list[Call]) -> Cut:
    return Cut(call, False, call.shape or (), _skipped(calls, call.end))


def _skipped(calls: list[Call], time: int) -> dict[str, list[Any]]:
    """Outputs of the outermost calls that ended before `time`, by module."""
    skipped: dict[str, list[Any]] = {}
    for call in calls:
        inside_skipped = call.parent is not None and calls[call.parent].end < time
        if call.end < time and not inside_skipped and not _is_inside(call, calls, time):
            skipped.setdefault(call.name, []).append(call.output)
    return skipped


def _is_inside(call: Call, calls: list[Call], time: int) -> bool:
    """Whether the call was made inside the one that ends at `time`."""
    while call.parent is not None:
        call = calls[call.parent]
        if call.end == time:
            return True
    return False


def _answers(original: Callable[..., Any], outputs: list[Any], h: Tensor, filler: float) -> Callable[..., Any]:
    """Placeholders for the first calls, then what the module computes; also where no placeholder is known."""
    waiting = iter(outputs)

    def answer(*args: Any, **options: Any) -> Any:
        output = next(waiting, None)
        if output is None:
            return original(*args, **options)
        return pytree.tree_map(lambda leaf: leaf.fill(h, filler) if isinstance(leaf, Blank) else leaf, output)

    return answer


def _put(leaf: Any, h: Tensor) -> Any:
    return h if isinstance(leaf, Blank) else leaf


def logits_of(output: Any, batch: int) -> Tensor:
    """Of a batch of images: the output itself, or what Hugging Face's models call logits.

    Raises:
        UsageError: the output is something else than logits.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise UsageError(f"model: expected a tensor of logits, or an output with .logits, got {type(output).__name__}")
    if logits.dim() != 2 or len(logits) != batch or not logits.is_floating_point():
        got = f"{str(logits.dtype).removeprefix('torch.')} {tuple(logits.shape)}"
        raise UsageError(f"model: expected floating logits of shape (batch, classes), got {got} for a batch of {batch}")
    if logits.shape[1] < 2:
        raise UsageError(
            f"model: expected logits of at least 2 classes, got shape {tuple(logits.shape)}; "
            "of a network with one output z, for a sigmoid, return [0, z]"
        )
    return logits


@contextmanager
def taking_images(shape: tuple[int, ...], model: str = "model") -> Iterator[None]:
    """Says that a network does not take images of this shape where it fails inside the block, which tries that out.

    Args:
        shape: channels, height and width.
        model: where the network and the shape come from.
    """
    try:
        yield
    except UsageError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        raise UsageError(f"{model}: cannot be run on images of shape {shape}: {first_line(error)}") from error


def _call_of(name: str, calls: list[Call]) -> Call:
    found = [call for call in calls if call.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"at: {name} runs {len(found)} times in one pass, so its output is no single layer")
    near = difflib.get_close_matches(name, {call.name for call in calls}, n=4, cutoff=0.0)
    raise UsageError(f"at: no module {name!r} runs in this model; the nearest are {', '.join(near)}")


def _is_composite(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
