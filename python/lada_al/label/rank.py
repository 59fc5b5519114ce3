"""The next batch: a network is trained on the labels in force, and a method of lada_al chooses what to ask next.

A ranking is a function of the labels, the project's seed and the number of the batch: a command that is killed and run
again chooses the same items. Training starts from the initial weights each time, so there is no checkpoint to lose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lada_al import lookahead
from lada_al.data import Dataset, statistics
from lada_al.device import at_a_time, find_device
from lada_al.errors import UsageError, refuse_divergence
from lada_al.events import Bought
from lada_al.keys import Keys
from lada_al.label.images import Images
from lada_al.label.project import Project
from lada_al.label.store import QueryItem, Ranked
from lada_al.models import frozen
from lada_al.pool import Pool, no_oracle
from lada_al.pools.first import read_first
from lada_al.round import Round
from lada_al.run.arithmetic import arithmetic
from lada_al.run.build import make_learner, make_net
from lada_al.run.config import FOR_BENCHMARKS, Config
from lada_al.timing import Clock, Meter, NoMeter
from lada_al.train import Learner

Kept = TypeVar("Kept")


@dataclass
class Ranker:
    """Ranks by the project's method.

    Items that were `asked` in earlier batches are not asked again. `last` is the batch before: its virtual instances
    are trained on as Eq. 14 says. Images that cannot be decoded are left out and entered in `unreadable` with the
    reason.
    """

    project: Project
    round: int
    asked: set[str]
    last: Sequence[QueryItem] = ()
    meter: Meter = field(default_factory=NoMeter)
    unreadable: dict[str, str] = field(default_factory=dict)

    def __call__(self, images: Images, labelled: Mapping[str, str], n: int) -> list[Ranked]:
        usual = config_of(self.project)
        arity = usual.chosen.arity
        if n % arity:
            raise UsageError(f"--count: {self.project.method} asks for pairs, so it must be even, got {n}")
        keys = Keys(self.project.seed)
        free = [id_ for id_ in images.ids() if id_ not in self.asked and id_ not in labelled]
        order = torch.randperm(len(free), generator=keys.generator("candidates", self.round))
        shuffled = [free[i] for i in order.tolist()]
        known, known_pixels = self._read(images, sorted(labelled), len(labelled))
        classes = {labelled[id_] for id_ in known}
        if len(classes) < 2:
            drawn = self._first(images, shuffled, n, lambda image: None)
            why = f"all labels so far are '{min(classes)}'" if classes else "there are no labels yet"
            return _at_random(drawn, why)
        candidates, pixels = self._read(images, shuffled, max(n, usual.candidates))
        if len(candidates) < arity:
            return _at_random(candidates[:n], "the last image of the pool")
        config = usual.for_batch(min(n, len(candidates)) // arity * arity)
        dataset = _dataset(self.project.classes, torch.cat([known_pixels, pixels]))
        pool = Pool(dataset, find_device(config.device))
        pool.add(range(len(known)), [self.project.classes.index(labelled[id_]) for id_ in known])
        with arithmetic(config):
            learner = make_learner(config, dataset, keys, pool.device)
            refuse_divergence(learner.fit(pool, self._last_purchase(known, pool), keys, self.meter), config.lr)
            now = Round(self.round, config, keys, learner.f_acq, learner.f_aug, self.meter, Clock(pool.device))
            return _acquire(learner, pool, now, known + candidates, self.project.classes)

    def _read(self, images: Images, ids: Sequence[str], count: int) -> tuple[list[str], Tensor]:
        """The first `count` of `ids` that can be decoded, and their pixels as the network takes them, uint8."""
        pixels = self._first(images, ids, count, lambda image: _pixels(image, self.project)[None])
        none = torch.empty(0, self.project.channels, *self.project.size, dtype=torch.uint8)
        return list(pixels), torch.cat([none, *pixels.values()])

    def _first(
        self, images: Images, ids: Sequence[str], count: int, keep: Callable[[Image.Image], Kept]
    ) -> dict[str, Kept]:
        """The first `count` of `ids` that can be decoded, and what is kept of their images."""
        return read_first(ids, count, lambda id_: keep(images.image(id_)), images.place, self.unreadable, self.meter)

    def _last_purchase(self, known: list[str], pool: Pool) -> Bought:
        """The units of the last batch of which every item has a label: what virtual instances are made of."""
        place = {id_: row for row, id_ in enumerate(known)}
        units = [
            list(unit)
            for key, unit in groupby(self.last, lambda item: item.ranked.detail.get("unit"))
            if key is not None
        ]
        whole = [unit for unit in units if all(item.ranked.id in place for item in unit)]
        if not whole:
            return Bought(0, [], [])
        rows = [place[item.ranked.id] for unit in whole for item in unit]
        details = [unit[0].ranked.detail for unit in whole]
        tau = [detail["tau"] for detail in details] if "tau" in details[0] else None
        return Bought(self.round, rows, pool.labels[rows].tolist(), k=details[0]["k"], tau=tau)


def config_of(project: Project) -> Config:
    """The configuration of the rankings of a project.

    Raises:
        UsageError, ValidationError: a setting of the project is not one, or has no use where people label.
    """
    for name in project.settings:
        if name not in Config.model_fields or name in Project.model_fields or name in FOR_BENCHMARKS:
            raise UsageError(f"--set: '{name}' is no setting of a ranking; `lada settings` lists those there are")
    config = Config(**project.settings, method=project.method, model=project.model, seed=project.seed)
    if not config.restart_weights:
        raise UsageError("--set: a ranking trains from the initial weights each time, so restart_weights must be true")
    blank = _dataset(project.classes, torch.zeros(1, project.channels, *project.size, dtype=torch.uint8))
    net = make_net(config, blank)
    config.check_layers(net.shapes(blank.shape), net.mixing_layers(), f"model {project.model}")
    return config


def _acquire(learner: Learner, pool: Pool, now: Round, ids: list[str], classes: list[str]) -> list[Ranked]:
    """What the method buys, with the reason and the network's own opinion of each."""
    config = now.config
    bought = lookahead.acquire(learner.net, pool, no_oracle, now)
    with frozen(learner.net), torch.no_grad():
        batches = torch.tensor(bought.ids).split(at_a_time(config.scoring_batch, pool.device))
        predicted = torch.cat([learner.net(pool.pixels(batch)).argmax(1) for batch in batches]).tolist()
    assert bought.entropy is not None
    scores = bought.scores if bought.scores is not None else [None] * len(bought.ids)
    arity = config.chosen.arity
    ranked = []
    for i, row in enumerate(bought.ids):
        unit = i // arity
        partner = ids[bought.ids[i ^ 1]] if arity == 2 else None
        why = _why(config, bought, i, partner)
        detail = {} if learner.f_aug is None else {"unit": unit, "k": bought.k}
        if bought.tau is not None:
            detail["tau"] = bought.tau[unit]
        ranked.append(Ranked(ids[row], scores[i], why, classes[predicted[i]], bought.entropy[i], detail))
    return ranked


def _why(config: Config, bought: Bought, i: int, partner: str | None) -> str:
    """A line that a person can read."""
    assert bought.entropy is not None
    own = f"{config.method}: entropy {bought.entropy[i]:.2f} bits"
    if not config.chosen.look_ahead or bought.virtual_entropy is None:
        return own
    if partner is None:
        return f"{own}, its virtual image {bought.virtual_entropy[i]:.2f}"
    return f"{own}, mixtures with {partner} {bought.virtual_entropy[i // 2]:.2f}"


def _at_random(ids: Iterable[str], why: str) -> list[Ranked]:
    return [Ranked(id_, None, f"at random: {why}", None, None) for id_ in ids]


def _dataset(classes: list[str], images: Tensor) -> Dataset:
    """Images as the parts of the loop take them. Nothing is held out, and labels enter through Pool.add."""
    mean, std = statistics(images)
    none, labels = images[:0], torch.zeros(len(images), dtype=torch.int64)
    return Dataset("a labelling project", classes, images, labels, none, labels[:0], mean, std)


def _pixels(image: Image.Image, project: Project) -> Tensor:
    """(channels, height, width) uint8."""
    height, width = project.size
    image = image.convert("L" if project.channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
