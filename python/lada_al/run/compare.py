"""Many runs side by side: methods x seeds, each in a folder and a process of its own, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lada_al.errors import UsageError
from lada_al.events import Event, Trained
from lada_al.loop import Fit, fit_alone
from lada_al.run import experiment, journal
from lada_al.run.arithmetic import arithmetic
from lada_al.run.config import Config
from lada_al.run.folder import JOURNAL
from lada_al.run.study import Study
from lada_al.run.together import Together


@dataclass(frozen=True)
class Job:
    """A run and the folder it goes to."""

    config: Config
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.config.method}, seed {self.config.seed}"

    @property
    def rounds_done(self) -> int:
        """Rounds trained so far, the initial one included."""
        events = journal.read(self.folder / JOURNAL)
        return sum(isinstance(event, Trained) for event in events)

    @property
    def is_finished(self) -> bool:
        return self.rounds_done > self.config.rounds


def make_jobs(
    methods: list[str], seeds: list[int], settings: dict[str, Any], out: Path, *, workers: int, resume: bool
) -> list[Job]:
    """Every method with every seed; all methods of a seed come before the next seed, so that curves grow together."""
    jobs = []
    for seed in seeds:
        for name in methods:
            folder = folder_of(out, name, seed)
            shared = {"threads": threads_for(workers), **experiment.settings_begun(folder, resume)}
            jobs.append(Job(Config(**{**shared, **settings, "method": name, "seed": seed}), folder))
    return jobs


def folder_of(out: Path, method: str, seed: int) -> Path:
    """Where a comparison keeps this run."""
    return out / method / f"seed-{seed}"


def check(jobs: list[Job], whole: Study, out: Path, *, resume: bool, download: bool) -> None:
    """Refuses all of it, before anything is written, if one run cannot be carried out, or if `out` holds runs that are
    not of the `whole` comparison: the report is made of all runs that are there."""
    own = {folder_of(out, method, seed) for method in whole.methods for seed in whole.seeds}
    for path in sorted(out.rglob(JOURNAL)):
        if path.parent not in own:
            raise UsageError(
                f"--out: {path.parent} holds a run that is not of this comparison, and would be reported with it; "
                "move it away, or choose another folder"
            )
    for job in jobs:
        experiment.check(job.config, job.folder, resume=resume, download=download)


def groups(jobs: list[Job], stack_seeds: bool) -> list[list[Job]]:
    """Jobs that a process carries out together: the seeds of a method, if they are to be stacked and can be."""
    by_method: dict[str, list[Job]] = {}
    for job in jobs:
        together = stack_seeds and job.config.chosen.trains_by_cross_entropy
        by_method.setdefault(job.config.method if together else job.name, []).append(job)
    return list(by_method.values())


def carry_out(groups: list[list[Job]], workers: int) -> Iterator[list[Job]]:
    """Runs the jobs, `workers` groups at a time, and yields those that ended, about once a second; possibly none.

    A run that was begun before is gone on with. When one fails, or the caller stops, the others are ended at once: a
    run survives its end at any moment.
    """
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_the_command)
    try:
        with _interrupts_held_back():
            running = {executor.submit(_carry_out, group): group for group in groups}
        while running:
            ended, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            jobs_ended = [job for future in ended for job in running.pop(future)]
            for future in ended:
                future.result()
            yield jobs_ended
    except BaseException:
        for process in list(executor._processes.values()):  # Python 3.14 has executor.kill_workers()
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits until the end of the block, and never reaches processes that are started in it: it is sent to all
    processes of a terminal, and the command alone is to act on it.

    Processes inherit the mask. It is this thread's own, and the system may hand the signal to another one, so that the
    handler, which runs in the main thread, waits as well.
    """
    held: list[FrameType | None] = []
    handles = threading.current_thread() is threading.main_thread()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, lambda _, frame: held.append(frame)) if handles else None
    try:
        yield
    finally:
        if handles:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if held and callable(handler):
            handler(signal.SIGINT, held[0])


def _end_with_the_command() -> None:
    """In a worker: ends it at once when the command that began it is killed, so that no process is left behind and the
    folders are free to be gone on with."""
    command = multiprocessing.parent_process()
    assert command is not None

    def watch() -> None:
        connection.wait([command.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _carry_out(group: list[Job]) -> None:
    if len(group) == 1:
        deque(_events(group[0], fit_alone), maxlen=0)
        return
    together = Together(len(group))
    with arithmetic(group[0].config):  # a run that waits to train leaves another its turn amid its own settings
        together.carry_out([_events(job, together.fit) for job in group])


def _events(job: Job, fit: Fit) -> Iterator[Event]:
    try:
        yield from experiment.run_experiment(job.config, job.folder, resume=True, fit=fit)
    except UsageError as error:
        raise UsageError(f"{job.name}: {error}") from error


def default_workers(settings: dict[str, Any]) -> int:
    """One run a CPU core; one in all where these settings put the work on a GPU."""
    device = settings.get("device", "auto")
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return 1 if on_gpu else cores()


def threads_for(workers: int) -> int:
    """CPU threads of each run when `workers` of them share the machine."""
    return max(1, cores() // workers)


def cores() -> int:
    return len(os.sched_getaffinity(0))
