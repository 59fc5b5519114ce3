"""Algorithm 1 of the paper, as a generator: it yields what was bought and what was trained, and has no other effect.

Each yield is a commit point. Whoever iterates can write the purchase to disk before the loop goes on to train on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lada_al import lookahead, train
from lada_al.events import Bought, Event, Trained
from lada_al.keys import Keys
from lada_al.pool import Oracle, Pool
from lada_al.ranks import ours
from lada_al.round import Round
from lada_al.run.config import Config
from lada_al.timing import Clock, Meter, NoMeter


@dataclass(frozen=True)
class HeldOut:
    """Normalised images and labels, on the device of the network."""

    images: Tensor
    labels: Tensor


# Trains a learner on its pool and last purchase, and returns its loss; the clock gets the phase "train".
Fit = Callable[[train.Learner, Pool, Bought, Keys, Meter, Clock], float]


def fit_alone(learner: train.Learner, pool: Pool, bought: Bought, keys: Keys, meter: Meter, clock: Clock) -> float:
    with clock("train"):
        return learner.fit(pool, bought, keys, meter)


def active_learning(
    learner: train.Learner,
    pool: Pool,
    oracle: Oracle,
    test: HeldOut,
    config: Config,
    keys: Keys,
    first_ids: Tensor,
    *,
    start: int = 0,
    known: Mapping[int, Bought] | None = None,
    meter: Meter | None = None,
    fit: Fit = fit_alone,
) -> Iterator[Event]:
    """Buys and trains from round `start` on; round 0 buys `first_ids`.

    Rounds before `start` are done: their purchases are in the pool and the learner is what they made of it. A purchase
    that is `known` is used instead of made again, and is not yielded.
    """
    known, meter = known or {}, meter or NoMeter()
    for r in range(start, config.rounds + 1):  # line 1
        clock = Clock(pool.device)
        if r in known:
            bought = known[r]
        else:
            if r == 0:
                bought = Bought(0, first_ids.tolist(), oracle(first_ids).tolist())
            else:
                now = Round(r, config, keys, learner.f_acq, learner.f_aug, meter, clock)
                bought = ours().of_first(lookahead.acquire(learner.net, pool, oracle, now))  # lines 2 to 6
            yield bought
        pool.add(bought.ids, bought.labels)  # line 7
        clock = Clock(pool.device)
        loss = fit(learner, pool, bought, keys, meter, clock)  # lines 8 to 11
        with clock("evaluate"):
            accuracy = train.accuracy(learner.net, test.images, test.labels, config.scoring_batch)
        yield Trained(r, len(pool.labelled), accuracy, loss, clock.seconds)


def balanced_choice(labels: Tensor, classes: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` positions drawn at random, as evenly over the classes as can be."""
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    rank_in_class = torch.empty_like(shuffled)
    for c in range(classes):
        mine = shuffled == c
        rank_in_class[mine] = torch.arange(int(mine.sum()))
    return order[rank_in_class.argsort(stable=True)[:count]]
