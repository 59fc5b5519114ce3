"""The journal of labels: append-only, one query an item, votes, undo, and files that are no journal."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from lada_al.errors import UsageError
from lada_al.label.store import JournalError, Progress, Ranked, Store, Vote


def ranked(*ids: str) -> list[Ranked]:
    return [Ranked(id_, 1.5, "because", "cat", 0.5, {"unit": i // 2, "k": 1}) for i, id_ in enumerate(ids)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "labels.sqlite")
    store.add_query("entropy", 1, 0, 0, ranked("a", "b", "c"))
    return store


def nonce(number: int) -> str:
    return f"{number:032x}"


def test_a_batch_is_read_as_it_was_written(store: Store) -> None:
    (query,) = store.queries()
    assert (query.method, query.seed, query.round, query.labels_seen) == ("entropy", 1, 0, 0)
    assert [item.ranked for item in store.items(query.id)] == ranked("a", "b", "c")
    assert [item.rank for item in store.items(query.id)] == [0, 1, 2]
    assert store.asked() == {"a", "b", "c"}
    assert store.item(2) == store.items(query.id)[1]
    assert store.item(99) is None
    assert store.item_of("b") == store.item(2)
    assert store.item_of("z") is None


def test_no_item_is_asked_twice_and_no_batch_is_entered_by_half(store: Store) -> None:
    with pytest.raises(UsageError, match="another batch was queried meanwhile"):
        store.add_query("entropy", 1, 1, 0, ranked("d", "c"))
    with pytest.raises(UsageError, match="another batch was queried meanwhile"):
        store.add_query("entropy", 1, 0, 0, ranked("e"))
    assert store.asked() == {"a", "b", "c"}
    assert len(store.queries()) == 1


@pytest.mark.parametrize("table", ["queries", "query_items", "labels"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET id = 7"])
def test_nothing_is_changed_or_deleted(table: str, change: str, store: Store) -> None:
    store.record([Vote("a", "cat", "ana")], "csv")
    statement = change.format(table).replace("id = 7", "number = 7" if table == "query_items" else "id = 7")
    with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
        sqlite3.connect(store.path).execute(statement)


def test_it_is_in_wal_mode_and_every_label_is_durable(store: Store) -> None:
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_who_when_and_from_which_query(store: Store) -> None:
    store.record([Vote("a", "cat", "ana"), Vote("z", "dog", "bob", "2026-01-31T12:00:00Z")], "csv")
    rows = sqlite3.connect(store.path).execute("SELECT item, label, who, at, query, source FROM labels").fetchall()
    assert rows[0][:3] == ("a", "cat", "ana")
    assert rows[0][3].endswith("+00:00")
    assert rows[0][4:] == (1, "csv")
    assert rows[1] == ("z", "dog", "bob", "2026-01-31T12:00:00Z", None, "csv")


class TestVotes:
    def test_a_persons_newest_label_is_their_vote(self, store: Store) -> None:
        store.record([Vote("a", "cat", "ana"), Vote("a", "dog", "ana")], "csv")
        assert store.labels() == {"a": "dog"}

    def test_most_votes_win_and_a_tie_is_a_dispute(self, store: Store) -> None:
        store.record([Vote("a", "cat", "ana"), Vote("a", "dog", "bob")], "csv")
        assert store.labels() == {}
        assert store.verdicts()["a"].disputed
        assert [item.ranked.id for item in store.unsettled()] == ["a"]
        store.record([Vote("a", "dog", "eve")], "csv")
        assert store.labels() == {"a": "dog"}
        assert store.unsettled() == []

    def test_a_skip_is_no_vote_for_a_label(self, store: Store) -> None:
        store.record([Vote("a", None, "ana"), Vote("a", "dog", "bob"), Vote("b", None, "ana")], "csv")
        assert store.labels() == {"a": "dog"}
        assert not store.verdicts()["b"].disputed
        assert [item.ranked.id for item in store.unsettled()] == ["b"]
        assert store.progress() == Progress(labelled=1, skipped=1, total=3)
        assert [item.ranked.id for item in store.pending()] == ["c"]


class TestUndo:
    def test_it_withdraws_step_by_step_and_is_a_row(self, store: Store) -> None:
        for number, vote in enumerate([Vote("a", "cat", "ana"), Vote("a", "dog", "ana"), Vote("b", None, "ana")]):
            store.record_once(vote, "page", nonce(number))
        assert store.undo("ana", "page", nonce(10)) == "b"
        assert store.labels() == {"a": "dog"}
        assert store.undo("ana", "page", nonce(11)) == "a"
        assert store.labels() == {"a": "cat"}
        assert store.undo("ana", "page", nonce(12)) == "a"
        assert store.labels() == {}
        assert not store.can_undo("ana", "page")
        assert store.undo("ana", "page", nonce(13)) is None
        assert store.last_label() == 6

    def test_it_touches_neither_others_nor_files(self, store: Store) -> None:
        store.record([Vote("a", "cat", "ana")], "csv")
        store.record_once(Vote("b", "cat", "bob"), "page", nonce(1))
        assert store.undo("ana", "page", nonce(2)) is None
        assert store.labels() == {"a": "cat", "b": "cat"}

    def test_a_request_that_is_sent_again_counts_once(self, store: Store) -> None:
        store.record_once(Vote("a", "cat", "ana"), "page", nonce(1))
        store.record_once(Vote("b", "cat", "ana"), "page", nonce(2))
        store.record_once(Vote("a", "cat", "ana"), "page", nonce(1))
        assert store.last_label() == 2
        assert store.undo("ana", "page", nonce(3)) == "b"
        assert store.undo("ana", "page", nonce(3)) == "b"
        assert store.labels() == {"a": "cat"}


def test_votes_are_entered_all_or_none(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.record([Vote("a", "cat", "ana"), Vote("b", "cat", None)], "csv")  # type: ignore[arg-type]
    assert store.last_label() == 0


def test_a_full_disk_loses_nothing_and_is_over_when_there_is_room(store: Store) -> None:
    store.record([Vote("a", "cat", "ana")], "csv")
    ((pages,),) = store._connection.execute("PRAGMA page_count").fetchall()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    long = "x" * 100_000
    for full in (
        lambda: store.record([Vote("b", "cat", "ana"), Vote("b", long, "ana")], "csv"),
        lambda: store.record_once(Vote("b", long, "ana"), "page", nonce(1)),
        lambda: store.add_query("entropy", 1, 1, 0, ranked("d", long)),
    ):
        with pytest.raises(JournalError, match=r"labels\.sqlite: database or disk is full"):
            full()
    assert (store.last_label(), len(store.queries())) == (1, 1)
    store._connection.execute("PRAGMA max_page_count = 100000")
    store.record_once(Vote("b", "dog", "ana"), "page", nonce(1))
    assert store.labels() == {"a": "cat", "b": "dog"}


def test_a_commit_that_fails_is_taken_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the transaction stays open, and nothing can be recorded after it."""
    ask = store._ask

    def fail_to_commit(statement: str, *values: object) -> object:
        if statement == "COMMIT":
            raise JournalError("disk I/O error")
        return ask(statement, *values)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_ask", fail_to_commit)
        with pytest.raises(JournalError, match="disk I/O error"):
            store.record([Vote("a", "cat", "ana")], "csv")
    store.record([Vote("b", "dog", "ana")], "csv")
    assert store.labels() == {"b": "dog"}


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.record([Vote("a", "cat", "ana")], "csv"),
        lambda store: store.record_once(Vote("a", "cat", "ana"), "page", nonce(1)),
        lambda store: store.undo("ana", "page", nonce(1)),
        lambda store: store.add_query("entropy", 1, 1, 0, ranked("d")),
    ],
)
def test_a_journal_that_another_process_holds(write: Callable[[Store], object], store: Store) -> None:
    store._connection.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match=r"labels\.sqlite: database is locked"):
        write(store)
    other.execute("ROLLBACK")
    write(store)


def test_two_processes_may_write(store: Store) -> None:
    with Store(store.path) as other:
        other.record([Vote("a", "cat", "ana")], "csv")
        store.record([Vote("b", "cat", "ana")], "csv")
        assert other.labels() == store.labels() == {"a": "cat", "b": "cat"}


def test_the_file_alone_holds_every_label_while_others_have_it_open(store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    with Store(store.path) as other:
        for number, writer in enumerate([store, other, store]):
            writer.record_once(Vote("abc"[number], "cat", "ana"), "page", nonce(number))
            assert len(other.labels()) == number + 1
            shutil.copy(store.path, copy)
            with sqlite3.connect(copy) as connection:
                assert connection.execute("SELECT count(*) FROM labels").fetchone() == (number + 1,)
            connection.close()


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database, and longer than the header of one " * 10)
    with pytest.raises(UsageError, match="cannot be used as a journal of labels: file is not a database"):
        Store(text)
    other = tmp_path / "other"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(UsageError, match="is not a journal of labels of version 1"):
        Store(other)
    assert sqlite3.connect(other).execute("PRAGMA journal_mode").fetchone() == ("delete",)
    with pytest.raises(UsageError, match="unable to open database file"):
        Store(tmp_path / "nowhere" / "labels.sqlite")
