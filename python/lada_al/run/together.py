"""Runs of one method side by side in one process, whose training is done together; see `lada_al.stack`.

Each run has a thread, and works as it does alone until it has something to train. There it waits for the others; the
last to come trains for all. One thread at a time has its turn, so what the runs do is what they would do one by one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

from lada_al import stack
from lada_al.events import Bought, Event
from lada_al.keys import Keys
from lada_al.pool import Pool
from lada_al.timing import Clock, Meter, NoMeter
from lada_al.train import Learner


@dataclass
class _Request:
    """A run's wish to train, and how it went."""

    replica: stack.Replica
    clock: Clock
    loss: float = 0.0
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Together:
    """The turn that the runs take, and those that wait to train."""

    def __init__(self, runs: int) -> None:
        self._going, self._turn = runs, threading.Lock()
        self._waiting: list[_Request] = []

    def carry_out(self, runs: list[Iterator[Event]]) -> None:
        """Takes each to its end, in a thread of its own.

        If one fails, the others stop at their next event, and what it raised is raised.
        """
        errors: list[BaseException] = []

        def carry_out(run: Iterator[Event]) -> None:
            try:
                with self._in_turn():
                    for _ in run:
                        if errors:
                            return
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=carry_out, args=(run,)) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def fit(self, learner: Learner, pool: Pool, bought: Bought, keys: Keys, meter: Meter, clock: Clock) -> float:
        """`loop.Fit`: called by a run that has its turn. The clock gets this run's share of the seconds."""
        del meter  # it shows one run
        request = _Request(stack.Replica(learner, pool, bought, keys), clock)
        self._waiting.append(request)
        self._train_if_all_wait()
        self._turn.release()
        request.done.wait()
        self._turn.acquire()
        if request.error is not None:
            raise request.error
        return request.loss

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        self._turn.acquire()
        try:
            yield
        finally:
            self._going -= 1
            self._train_if_all_wait()
            self._turn.release()

    def _train_if_all_wait(self) -> None:
        if len(self._waiting) < self._going:
            return
        requests, self._waiting = self._waiting, []
        for _, group in groupby(sorted(requests, key=_labels), _labels):
            _train(list(group))
        for request in requests:
            request.done.set()


def _labels(request: _Request) -> tuple[int, bool]:
    """What has to be equal where steps are made together."""
    replica = request.replica
    return len(replica.pool.labelled), replica.learner.has_virtual(replica.bought)


def _train(requests: list[_Request]) -> None:
    clock = Clock(requests[0].replica.pool.device)
    try:
        with clock("train"):
            losses = stack.fit([request.replica for request in requests], NoMeter())
    except BaseException as error:
        for request in requests:
            request.error = error
        return
    for request, loss in zip(requests, losses, strict=True):
        request.loss = loss
        request.clock.add("train", clock.seconds["train"] / len(requests))
