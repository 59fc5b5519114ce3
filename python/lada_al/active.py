"""Active learning step by step, with your own network, pool and labellers: ask, tell, fit.

    learner = ActiveLearner(network, "photos/", classes=["cat", "dog"], method="lada-ent-mix")
    ids = learner.ask(20)
    learner.tell(ids, labels_of(ids))

Every step is a function of what was told and of the seed: nothing is lost by asking twice, and a learner that was saved
and loaded goes on as if it had never stopped. Only the candidates of a round and the labelled images are decoded, so a
pool may be of any size.
"""

from __future__ import annotations

import json
import operator
import pickle
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from lada_al import lookahead
from lada_al.data import Dataset
from lada_al.device import at_a_time, find_device
from lada_al.errors import UsageError, first_line, one_line, refuse_divergence
from lada_al.events import Bought
from lada_al.keys import Keys
from lada_al.models import SplitModel, frozen
from lada_al.pool import Pool, no_oracle
from lada_al.pools import Id, ImageSpec, open_pool
from lada_al.pools.decode import decode
from lada_al.pools.first import read_first
from lada_al.round import Round
from lada_al.run import checkpoint
from lada_al.run.arithmetic import arithmetic
from lada_al.run.build import make_learner
from lada_al.run.config import FOR_BENCHMARKS, Config
from lada_al.timing import Clock, NoMeter
from lada_al.wrap import taking_images


class _State(BaseModel):
    """What a saved learner holds beside weights."""

    model_config = ConfigDict(strict=True)

    labels: list[tuple[Id, str]]
    classes: list[str]
    settings: dict[str, Any]
    round: int
    fitted: int
    asked: list[Id]
    known_then: int
    bought: Bought
    spec: dict[str, Any] | None = None
    """None in files of before it was saved."""


class ActiveLearner:
    """A method of lada_al at work for somebody who labels.

    Args:
        model: an image classifier: a SplitModel, or any module that SplitModel.wrap takes. It is trained in place.
        pool: what lada_al.pools.open_pool opens: a path, an array of images, a Hugging Face data set, or a Dataset of
            (image, id); or what it returns, opened with limits of your own (white of 12-bit images, say).
        classes: their names, in the order of the network's outputs.
        method: `lada methods` lists them.
        spec: size and statistics of the images as the network takes them; by default 3 x 224 x 224, ImageNet's.
        seed: of all randomness.
        device: "auto", "cpu", "cuda" or "cuda:N".
        settings: further fields of lada_al.Config, such as epochs, batch, lr, candidates, layers, but for those that
            describe an experiment on a data set, such as dataset, rounds and initial.

    Attributes:
        model: the SplitModel; `model.module` is the network that was given, if it was wrapped.
        labels: the label of each id that was told.
        unreadable: by id, why an image was left out.

    Raises:
        UsageError: something does not fit; it names the argument, what was expected and what came.
    """

    def __init__(
        self,
        model: nn.Module,
        pool: Any,
        *,
        classes: Sequence[str],
        method: str = "lada-ent-mix",
        spec: ImageSpec | None = None,
        seed: int = 1,
        device: str = "auto",
        **settings: Any,
    ) -> None:
        self.spec = ImageSpec() if spec is None else spec
        if not isinstance(self.spec, ImageSpec):
            raise UsageError(f"spec must be an ImageSpec, got {self.spec!r}")
        self.classes = _names(classes)
        _refuse_settings_of_experiments(settings)
        self.config = _config({"query": 2, "method": method, "seed": seed, "device": device, **settings})
        self.source = open_pool(pool)
        self.model = model if isinstance(model, SplitModel) else SplitModel.wrap(model, shape=self.spec.shape)
        self.labels: dict[Id, str] = {}
        self.unreadable: dict[Id, str] = {}
        self._ids = list(self.source.ids())
        self._place = {id_: place for place, id_ in enumerate(self._ids)}
        self._keys = Keys(self.config.seed)
        self._round, self._fitted = 0, 0  # rounds asked for; labels that the network has been fitted to
        self._asked: list[Id] = []
        self._known_then = -1  # labels when they were asked for
        self._bought = Bought(0, [], [])  # of the last round; its ids number self._asked
        self._check()
        nothing = self._dataset(torch.empty(0, *self.spec.shape, dtype=torch.uint8))
        self._learner = make_learner(self.config, nothing, self._keys, find_device(self.config.device), self.model)

    def ask(self, n: int) -> list[Id]:
        """The n images to label next, best first; partners of a pair follow one another.

        At first, while there are not labels of two classes, they are drawn at random. Asked again before any label was
        told, it gives the same ids. Fits first, if labels were told since it was last fitted.

        Raises:
            UsageError: n is no positive whole number, is odd where the method buys pairs, or is more than the pool has
                left.
        """
        config = self._config_for(n)
        with arithmetic(config):
            return self._ask(config.query, config)

    def _ask(self, n: int, config: Config) -> list[Id]:
        left = len(self.source) - len(self.labels)
        if n > left:  # or it would decode the whole pool to find out
            raise UsageError(f"ask: n must be at most {left}, the unlabelled images of the pool, got {n}")
        same = self._known_then == len(self.labels)
        if same and n == len(self._asked):
            return list(self._asked)
        round = self._round if same else self._round + 1
        order = torch.randperm(len(self.source), generator=self._keys.generator("candidates", round))
        free = (self._ids[i] for i in order.tolist() if self._ids[i] not in self.labels)
        if not self._can_fit():
            asked, _ = self._read(free, n)
            bought = Bought(0, [], [])
        else:
            self._fit_if_new()
            asked, bought = self._acquire(self._read(free, config.candidates), round, config)
        if len(asked) < n:
            most = f"{len(asked)}, the unlabelled images that can be read"
            raise UsageError(f"ask: n must be at most {most}, got {n}{self._why_unread()}")
        self._round, self._asked, self._bought, self._known_then = round, asked, bought, len(self.labels)
        return list(asked)

    def tell(self, ids: Iterable[Id], labels: Iterable[str | int], *, replace: bool = False) -> None:
        """Takes labels, of images that were asked for or of any others of the pool.

        Args:
            ids: of the pool.
            labels: for each a class, by its name or its number.
            replace: whether an image that has another label already gets this one: to correct a mistake.

        Raises:
            UsageError: an id is unknown, a label is no class, an image has another label already and is not to be
                corrected, an image is given two labels, or the numbers of ids and labels differ. Nothing is taken then.
        """
        told: dict[Id, str] = {}
        ids, labels = list(ids), list(labels)
        if len(ids) != len(labels):
            raise UsageError(f"tell: expected as many labels as ids, got {len(labels)} labels and {len(ids)} ids")
        for id_, label in zip(ids, labels, strict=True):
            name, own = self._class(label), self._ids[self._place_of(id_, "tell")]
            before = told.get(own) if replace else told.get(own, self.labels.get(own))
            if before not in (None, name):
                advice = "" if replace else "; replace=True corrects labels"
                raise UsageError(f"tell: image {own!r} is labelled {before!r} already, got {name!r}{advice}")
            told[own] = name
        if any(self.labels.get(own, name) != name for own, name in told.items()):
            self._fitted = self._known_then = -1  # the network has learned from a mistake
        self.labels = {**self.labels, **told}

    def fit(self) -> ActiveLearner:
        """Trains the network on all labels, and on virtual instances of the last batch (Eq. 14).

        Raises:
            UsageError: there are not labels of two classes, on images that can be read; or training diverged.
        """
        known, pixels = self._read_labelled()
        pool = self._pool(known, pixels)
        with arithmetic(self.config):
            loss = self._learner.fit(pool, self._answered_units(known), self._keys, NoMeter())
        refuse_divergence(loss, self.config.lr)
        self._fitted = len(self.labels)
        return self

    def predict(self, ids: Iterable[Id]) -> list[str]:
        """The likeliest class of each image."""
        return [self.classes[c] for c in self.predict_proba(ids).argmax(1).tolist()]

    def predict_proba(self, ids: Iterable[Id]) -> Tensor:
        """Class probabilities, (B, C) float32 on the CPU.

        Raises:
            UsageError: an image is unknown or cannot be read.
        """
        wanted = [self._ids[self._place_of(id_, "predict")] for id_ in ids]
        different = list(dict.fromkeys(wanted))
        batch = at_a_time(self.config.scoring_batch, find_device(self.config.device))
        of: dict[Id, Tensor] = {}
        with arithmetic(self.config), frozen(self.model), torch.no_grad():
            for start in range(0, len(different), batch):
                part = different[start : start + batch]
                of |= zip(part, self._probabilities(part), strict=True)
        return torch.stack([of[id_] for id_ in wanted]) if wanted else torch.empty(0, len(self.classes))

    def save(self, path: str | Path) -> None:
        """Writes all that was told and learned to one file, which replaces an older one as a whole."""
        state = _State(
            labels=list(self.labels.items()),
            classes=self.classes,
            settings=self.config.model_dump(mode="json", exclude={"model", "device"}),
            round=self._round,
            fitted=self._fitted,
            asked=self._asked,
            known_then=self._known_then,
            bought=self._bought,
            spec=_fields(self.spec),
        )
        payload = {"state": json.dumps(state.model_dump()), "learner": self._learner.state_dict()}
        checkpoint.write(Path(path), payload)

    @classmethod
    def load(
        cls, path: str | Path, model: nn.Module, pool: Any, *, spec: ImageSpec | None = None, device: str = "auto"
    ) -> ActiveLearner:
        """The learner that was saved.

        Args:
            path: of the file.
            model, pool, device: as at first; `model` with the weights that it had at first.
            spec: as at first; by default what was saved.

        Raises:
            UsageError: the file cannot be read, or does not fit the model, the pool or the spec.
        """
        state, weights, saved_spec = _saved(path)
        spec = saved_spec if spec is None else spec
        if saved_spec is not None and spec != saved_spec:
            raise UsageError(f"load: {path} was saved with spec {saved_spec}, got {spec!r}")
        settings = {name: value for name, value in state.settings.items() if name not in FOR_BENCHMARKS}
        learner = cls(model, pool, classes=state.classes, spec=spec, device=device, **settings)
        learner.tell([id_ for id_, _ in state.labels], [label for _, label in state.labels])
        try:
            learner._learner.load_state_dict(weights)
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            raise UsageError(f"load: {path} does not fit the model: {first_line(error)}") from error
        learner._round, learner._fitted, learner._asked = state.round, state.fitted, state.asked
        learner._known_then, learner._bought = state.known_then, state.bought
        return learner

    def _check(self) -> None:
        with taking_images(self.spec.shape):
            shapes = self.model.shapes(self.spec.shape)
        if shapes[-1] != (len(self.classes),):
            raise UsageError(f"classes: the network has {shapes[-1][0]} outputs, got {len(self.classes)} names")
        self.config.check_layers(shapes, self.model.mixing_layers(), "your model")

    def _config_for(self, n: int) -> Config:
        if not hasattr(n, "__index__") or n < 1:
            raise UsageError(f"ask: n must be a positive whole number, got {n!r}")
        if n % self.config.chosen.arity:
            raise UsageError(f"ask: {self.config.method} buys pairs, so n must be even, got {n}")
        return self.config.for_batch(operator.index(n))

    def _can_fit(self) -> bool:
        return len(set(self.labels.values())) >= 2

    def _fit_if_new(self) -> None:
        if self._fitted != len(self.labels):
            self.fit()

    def _answered_units(self, known: list[Id]) -> Bought:
        """What of the last batch has all its labels, as rows of `known`: its virtual instances are trained on."""
        place = {id_: row for row, id_ in enumerate(known)}
        arity = self.config.chosen.arity
        starts = range(0, len(self._bought.ids), arity)
        units = [u for u, i in enumerate(starts) if all(id_ in place for id_ in self._asked[i : i + arity])]
        if not units:
            return Bought(0, [], [])
        rows = [place[id_] for u in units for id_ in self._asked[u * arity : (u + 1) * arity]]
        labels = [self._class_number(known[row]) for row in rows]
        tau = None if self._bought.tau is None else [self._bought.tau[u] for u in units]
        return Bought(self._round, rows, labels, k=self._bought.k, tau=tau)

    def _acquire(self, candidates: tuple[list[Id], Tensor], round: int, config: Config) -> tuple[list[Id], Bought]:
        """What the method chooses among the candidates."""
        free, free_pixels = candidates
        known, known_pixels = self._read_labelled()
        if len(free) < config.query:
            return free, Bought(0, [], [])
        pool = self._pool(known, torch.cat([known_pixels, free_pixels]))
        learner = self._learner
        now = Round(round, config, self._keys, learner.f_acq, learner.f_aug, NoMeter(), Clock(pool.device))
        bought = lookahead.acquire(learner.net, pool, no_oracle, now)
        return [free[row - len(known)] for row in bought.ids], bought

    def _read_labelled(self) -> tuple[list[Id], Tensor]:
        """The images that are labelled and can be read, and their pixels."""
        known, pixels = self._read(self.labels, len(self.labels))
        classes, lost = sorted({self.labels[id_] for id_ in known}), len(self.labels) - len(known)
        if len(classes) < 2:
            unread = f"; {lost} labelled images cannot be read" if lost else ""
            raise UsageError(f"fit: expected labels of at least two classes, got {classes}{unread}")
        return known, pixels

    def _read(self, ids: Iterable[Id], count: int) -> tuple[list[Id], Tensor]:
        """The first `count` of `ids` that can be decoded, in their order, and their pixels (B, channels, H, W)."""
        pixels = read_first(ids, count, self._pixels, self._place.__getitem__, self.unreadable, NoMeter())
        none = np.empty((0, *self.spec.shape[1:], 1), np.uint8)
        stacked = np.stack(list(pixels.values())) if pixels else none
        return list(pixels), torch.from_numpy(stacked).permute(0, 3, 1, 2).expand(-1, self.spec.channels, -1, -1)

    def _pixels(self, id_: Id) -> np.ndarray:
        (item,) = self.source.read(self._place[id_], self._place[id_] + 1)
        return decode(item.stored, self.spec, self.source.limits)

    def _probabilities(self, ids: Sequence[Id]) -> Tensor:
        """Of different images, in one batch."""
        read, pixels = self._read(ids, len(ids))
        if len(read) < len(ids):
            id_ = next(id_ for id_ in ids if id_ not in set(read))
            raise UsageError(f"predict: image {id_!r} cannot be read: {self.unreadable[id_]}")
        images = self._pool([], pixels).pixels(torch.arange(len(read)))
        return self.model(images).softmax(1).cpu()

    def _place_of(self, id_: Id, step: str) -> int:
        if not isinstance(id_, Hashable) or id_ not in self._place:
            raise UsageError(f"{step}: the pool has no image {id_!r}")
        return self._place[id_]

    def _pool(self, known: list[Id], pixels: Tensor) -> Pool:
        """Images of which the first are `known`."""
        pool = Pool(self._dataset(pixels), find_device(self.config.device))
        pool.add(range(len(known)), [self._class_number(id_) for id_ in known])
        return pool

    def _dataset(self, pixels: Tensor) -> Dataset:
        none, labels = pixels[:0], torch.zeros(len(pixels), dtype=torch.int64)
        mean, std = list(self.spec.mean), list(self.spec.std)
        return Dataset("your pool", self.classes, pixels, labels, none, labels[:0], mean, std)

    def _why_unread(self) -> str:
        """Of an image that could not be read, why; nothing if all could be."""
        return next((f"; {id_!r} cannot be read: {why}" for id_, why in self.unreadable.items()), "")

    def _class_number(self, id_: Id) -> int:
        return self.classes.index(self.labels[id_])

    def _class(self, label: str | int) -> str:
        if isinstance(label, str) and label in self.classes:
            return label
        if not isinstance(label, str | bool) and hasattr(label, "__index__"):
            number = label.__index__()
            if 0 <= number < len(self.classes):
                return self.classes[number]
        raise UsageError(f"tell: a label must be one of {self.classes} or its number, got {label!r}")


def _names(classes: Any) -> list[str]:
    names = list(classes) if isinstance(classes, Iterable) and not isinstance(classes, str) else []
    if not all(isinstance(name, str) for name in names) or len(set(names)) < max(2, len(names)):
        raise UsageError(f"classes must be at least two different names, each a text, got {classes!r}")
    return [str(name) for name in names]  # not NumPy's


def _fields(spec: ImageSpec) -> dict[str, Any]:
    """What an ImageSpec is made of, as JSON holds it."""
    channels, height, width = map(int, spec.shape)
    return {"channels": channels, "height": height, "width": width, "mean": list(spec.mean), "std": list(spec.std)}


def _saved(path: str | Path) -> tuple[_State, Any, ImageSpec | None]:
    """What `save` wrote: the state, that of the learner, and the spec."""
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(payload, dict):
            raise TypeError(f"it holds a {type(payload).__name__}")
        state = _State.model_validate_json(payload["state"])
        return state, payload["learner"], None if state.spec is None else ImageSpec(**state.spec)
    except ValidationError as error:
        raise UsageError(f"load: {path} is not a saved learner: {one_line(error)}") from error
    except pickle.UnpicklingError as error:  # it advises to let the file run code
        raise UsageError(
            f"load: {path} is not a saved learner: torch finds no weights in it, or more than weights"
        ) from error
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise UsageError(f"load: {path} is not a saved learner: {first_line(error)}") from error


def _refuse_settings_of_experiments(settings: dict[str, Any]) -> None:
    for name in settings.keys() & FOR_BENCHMARKS:
        raise UsageError(f"ActiveLearner: {name} is for experiments on a data set; it means nothing where you label")


def _config(values: dict[str, Any]) -> Config:
    try:
        return Config(**values)
    except ValidationError as error:
        raise UsageError(f"ActiveLearner: {one_line(error)}") from None
