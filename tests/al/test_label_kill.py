"""A labelling project that is killed with SIGKILL at 50 random moments, whatever it is doing: it loses no acknowledged
label, buys nothing twice, and asks for the same images as a project that nothing disturbs."""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from labelling import begin, truth, write_pool
from lada_al.label import ingest, project, query
from lada_al.label.claims import Claims
from lada_al.label.server import Desk
from lada_al.label.store import Store

KILLS = 50
COUNT = 6


def work(folder: Path, until: int, at_work: Any) -> None:
    """Asks for batches and labels them, as the commands and the page do, until `until` batches are labelled.

    Each answer is noted in `acknowledged` as soon as the page's request or `lada ingest` comes back.
    """
    import torch

    torch.set_num_threads(1)
    notes = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    images, classes = project.read(folder).images(), project.read(folder).classes
    at_work.set()
    with Store(folder / "labels.sqlite") as store, Claims(folder / "pages.lock") as claims:
        desk = Desk(store, claims, images, classes, "ana", review=False)
        if any(label != truth(item) for item, label in store.labels().items()):  # killed between a slip and its undo
            desk.undo(os.urandom(16).hex())
        while True:
            pending = store.pending()
            if not pending:
                if len(store.queries()) == until:
                    return
                batch = query.make(folder, COUNT)
                query.write_csv(folder / f"{batch.query.id}.csv", batch.items, images)
            elif len(pending) == COUNT:  # half a batch by file
                lines = [f"{item.ranked.id},{truth(item.ranked.id)},ben" for item in pending[: COUNT // 2]]
                (folder / "labels.csv").write_text("\n".join(["id,label,who", *lines, ""]))
                assert ingest.ingest(folder, folder / "labels.csv", "ana").refused == []
                os.write(notes, "".join(f"{line}\n" for line in lines).encode())
            else:  # the rest on the page, with a slip in between
                item = pending[0]
                if item.rank % 2:
                    desk.label(item.number, "0", os.urandom(16).hex())
                    assert desk.undo(os.urandom(16).hex())["item"]["number"] == item.number
                desk.label(item.number, truth(item.ranked.id), os.urandom(16).hex())
                os.write(notes, f"{item.ranked.id},{truth(item.ranked.id)},ana\n".encode())


def whole(folder: Path) -> None:
    """What must be true of a project at any moment."""
    Store(folder / "labels.sqlite").close()  # what is left of a half-made journal is made whole
    with sqlite3.connect(folder / "labels.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        items = connection.execute("SELECT item FROM query_items").fetchall()
        assert len(items) == len(set(items))
        sizes = connection.execute(
            "SELECT count(item) FROM queries LEFT JOIN query_items ON query = queries.id GROUP BY queries.id"
        )
        assert all(size == COUNT for (size,) in sizes)
        given = set(connection.execute("SELECT item, label, who FROM labels WHERE action = 'label'"))
    notes = folder / "acknowledged"
    lines = notes.read_text().splitlines() if notes.exists() else []
    acknowledged = {tuple(line.split(",")) for line in lines}
    assert acknowledged <= given
    with Store(folder / "labels.sqlite") as store:
        in_force = store.labels()
    for item, label, _ in acknowledged:
        assert in_force[item] == label


def outcome(folder: Path) -> tuple[Any, Any, Any]:
    """Batches with all that was said of their items, and the labels; without times."""
    with Store(folder / "labels.sqlite") as store:
        queries = [(q.id, q.method, q.seed, q.round) for q in store.queries()]
        return queries, [item for q in store.queries() for item in store.items(q.id)], store.labels()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("pool"), 800)


def begun(context: Any, folder: Path, until: int) -> Any:
    """A process that has begun to work."""
    at_work = context.Event()
    process = context.Process(target=work, args=(folder, until, at_work))
    process.start()
    assert at_work.wait(120)
    return process


def test_fifty_kills(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # for the fork server
    context: Any = multiprocessing.get_context("forkserver")
    modules = [f"lada_al.label.{name}" for name in ("rank", "server", "ingest")]
    context.set_forkserver_preload([*modules, "torch._dynamo", __name__])
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    for folder in (killed, unbroken):
        begin(folder, pool)
    begun(context, unbroken, until=1).join()
    start = time.monotonic()
    begun(context, unbroken, until=4).join()
    longest_life = (time.monotonic() - start) / 4  # three quarters of a batch

    moments = random.Random(8)
    batches = 0
    for _ in range(KILLS):
        process = begun(context, killed, until=10_000)
        process.join(moments.uniform(0, longest_life))
        assert process.is_alive(), process.exitcode
        process.kill()
        process.join()
        whole(killed)
        with Store(killed / "labels.sqlite") as store:
            advanced = len(store.queries()) > batches
            batches = len(store.queries())
        longest_life *= 0.8 if advanced else 1.2  # lives stay near the length of a batch, however busy the machine

    assert batches >= 4
    for folder in (killed, unbroken):
        process = begun(context, folder, batches)
        process.join()
        assert process.exitcode == 0
        whole(folder)
    assert outcome(killed) == outcome(unbroken)
