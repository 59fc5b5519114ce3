"""A labelling project that is killed with SIGKILL at 50 random moments, whatever it is doing: it loses no acknowledged
label, buys nothing twice, and asks for the same images as a project that nothing disturbs."""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from labelling import begin, truth, write_pool
from lada_al.label import ingest, project, query
from lada_al.label.server import Desk
from lada_al.label.store import Store

KILLS = 50
LONGEST_LIFE = 0.6  # seconds until a kill, at the most
COUNT = 6


def work(folder: Path, until: int) -> None:
    """Asks for batches and labels them, as the commands and the page do, until `until` batches are labelled.

    Each answer is noted in `acknowledged` as soon as the page's request or `lada ingest` comes back.
    """
    import torch

    torch.set_num_threads(1)
    notes = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    images, classes = project.read(folder).images(), project.read(folder).classes
    with Store(folder / "labels.sqlite") as store:
        desk = Desk(store, images, classes, "ana", review=False)
        while True:
            pending = store.pending()
            if not pending:
                if len(store.queries()) == until:
                    return
                batch, items, _ = query.make(folder, COUNT)
                query.write_csv(folder / f"{batch.id}.csv", items, images)
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


def test_fifty_kills(pool: Path, tmp_path: Path) -> None:
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [*(f"lada_al.label.{name}" for name in ("rank", "server", "ingest")), "torch._dynamo"]
    )
    begin(tmp_path / "killed", pool)
    begin(tmp_path / "unbroken", pool)
    Store(tmp_path / "killed" / "labels.sqlite").close()
    moments = random.Random(8)
    for kill in range(KILLS):
        process = context.Process(target=work, args=(tmp_path / "killed", 10_000))
        process.start()
        while kill == 0 and not (tmp_path / "killed" / "acknowledged").exists():
            process.join(0.01)  # the first process waits for the fork server's imports
        process.join(moments.uniform(0, LONGEST_LIFE))
        assert process.is_alive(), process.exitcode
        process.kill()
        process.join()
        whole(tmp_path / "killed")

    with Store(tmp_path / "killed" / "labels.sqlite") as store:
        batches = len(store.queries())
    assert batches >= 5
    for name in ("killed", "unbroken"):
        process = context.Process(target=work, args=(tmp_path / name, batches))
        process.start()
        process.join()
        assert process.exitcode == 0
        whole(tmp_path / name)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "unbroken")
