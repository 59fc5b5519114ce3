"""labels.sqlite: what was asked and what people answered, append-only. Every label ever given stays in it.

A row is on disk before it is acknowledged, in this file itself and not only in the log beside it. No row is changed or
deleted: triggers refuse that. To undo is to append a row that names the row it withdraws. An item is in one query at
the most, which a constraint sees to, so nothing is asked twice whoever is killed when.

People may disagree. Each person's newest label of an item is their vote; the label in force is the one with the most
votes, and a tie leaves the item without a label until somebody breaks it.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from lada_al.errors import UsageError

JOURNAL = "labels.sqlite"
APPLICATION = 0x4C414441  # "LADA", in the file's header
VERSION = 1
SECONDS_TO_WAIT = 30.0  # for another process that writes
MAX_WHO = 100

TABLES = {
    "queries": """
        id INTEGER PRIMARY KEY,
        created TEXT NOT NULL,
        method TEXT NOT NULL,
        seed INTEGER NOT NULL,
        round INTEGER NOT NULL UNIQUE,
        labels_seen INTEGER NOT NULL""",
    "query_items": """
        number INTEGER PRIMARY KEY,
        query INTEGER NOT NULL REFERENCES queries(id),
        item TEXT NOT NULL UNIQUE,
        rank INTEGER NOT NULL,
        score REAL,
        why TEXT NOT NULL,
        predicted TEXT,
        entropy REAL,
        detail TEXT NOT NULL,
        UNIQUE (query, rank)""",
    "labels": """
        id INTEGER PRIMARY KEY,
        item TEXT NOT NULL,
        label TEXT,
        action TEXT NOT NULL CHECK (action IN ('label', 'skip', 'undo')),
        undoes INTEGER UNIQUE REFERENCES labels(id),
        who TEXT NOT NULL,
        at TEXT NOT NULL,
        query INTEGER REFERENCES queries(id),
        source TEXT NOT NULL,
        nonce TEXT UNIQUE,
        CHECK ((action = 'label') = (label IS NOT NULL)),
        CHECK ((action = 'undo') = (undoes IS NOT NULL))""",
}
VIEWS = """
    CREATE INDEX labels_of_item ON labels(item);
    CREATE VIEW standing AS
        SELECT * FROM labels AS l
        WHERE action != 'undo' AND NOT EXISTS (SELECT 1 FROM labels AS u WHERE u.undoes = l.id);
    CREATE VIEW votes AS  -- SQLite takes the columns beside max(id) from the row that has it
        SELECT max(id) AS id, item, who, action, label, at, query FROM standing GROUP BY item, who;
"""
PENDING = "NOT EXISTS (SELECT 1 FROM standing WHERE standing.item = query_items.item)"


class JournalError(OSError):
    """The journal cannot be read or written now, because its disk is full or another process writes, say."""


class Ranked(NamedTuple):
    """An item to be labelled, and why. `predicted` and `entropy` in bits are None where no model was asked.

    `detail` is what training on its virtual instance needs later: its unit, the layer k and tau.
    """

    id: str
    score: float | None
    why: str
    predicted: str | None
    entropy: float | None
    detail: dict[str, Any] = {}  # noqa: RUF012  a default that nobody changes


@dataclass(frozen=True)
class Query:
    """A batch that was asked for."""

    id: int
    created: str
    method: str
    seed: int
    round: int
    labels_seen: int
    """The newest row of the labels that the ranking knew."""


@dataclass(frozen=True)
class QueryItem:
    """An item of a batch. `number` is its name on the page; `rank` its place in the batch, from 0."""

    number: int
    query: int
    rank: int
    ranked: Ranked


@dataclass(frozen=True)
class Vote:
    """The newest word of a person on an item; `label` is None where they skipped it."""

    item: str
    label: str | None
    who: str
    at: str | None = None
    """When they said it, in ISO 8601; None: now."""


@dataclass(frozen=True)
class Verdict:
    """What all votes on an item come to."""

    label: str | None
    """The label in force, if there is one."""
    votes: list[Vote]

    @property
    def disputed(self) -> bool:
        """Whether as many people say one thing as another."""
        return self.label is None and any(vote.label is not None for vote in self.votes)


@dataclass(frozen=True)
class Progress:
    """Items of all batches: with a label in force or in dispute, skipped by everybody who saw them, and all."""

    labelled: int
    skipped: int
    total: int


class Store:
    """An open journal. Use it from one thread; other processes may read and write the same file meanwhile.

    Whatever is asked of it raises JournalError where the file cannot be read or written at that moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._connection = sqlite3.connect(path, timeout=SECONDS_TO_WAIT, isolation_level=None)
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise UsageError(f"{path} cannot be used as a journal of labels: {error}") from error

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def _prepare(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if not self._is_empty() and (application, version) != (APPLICATION, VERSION):
            raise UsageError(f"{self.path} is not a journal of labels of version {VERSION}")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        if self._is_empty():
            with self._transaction():
                if self._is_empty():  # still, now that no other process writes
                    self._create()

    def _is_empty(self) -> bool:
        return not self._connection.execute("SELECT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0]

    def _create(self) -> None:
        for table, columns in TABLES.items():
            self._connection.execute(f"CREATE TABLE {table} ({columns}) STRICT")
            for change in ("UPDATE", "DELETE"):
                self._connection.execute(
                    f"CREATE TRIGGER no_{change}_of_{table} BEFORE {change} ON {table} "
                    f"BEGIN SELECT raise(ABORT, '{table} is append-only'); END"
                )
        for statement in VIEWS.split(";\n"):
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
        self._connection.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block is on disk when it ends, or nothing of it; and a copy of the file alone has it too."""
        self._ask("BEGIN IMMEDIATE")
        try:
            yield
            self._ask("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite may have ended it, as it does where the disk is full
                self._ask("ROLLBACK")
            raise
        with suppress(JournalError):  # it is in the log then, and the next one tries again
            self._ask("PRAGMA wal_checkpoint(FULL)")

    def _ask(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """Carries out a statement, and returns the rows that it gives.

        Raises:
            JournalError: it cannot be carried out, which is not the statement's fault.
        """
        try:
            return self._connection.execute(statement, values).fetchall()
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{self.path}: {error}") from error

    def add_query(self, method: str, seed: int, round: int, labels_seen: int, ranked: list[Ranked]) -> Query:
        """Enters a batch, whole or not at all.

        Raises:
            UsageError: another batch was entered since this one was ranked.
        """
        query = (_now(), method, seed, round, labels_seen)
        try:
            with self._transaction():
                ((id_,),) = self._ask(
                    "INSERT INTO queries (created, method, seed, round, labels_seen) VALUES (?, ?, ?, ?, ?) "
                    "RETURNING id",
                    query,
                )
                for rank, r in enumerate(ranked):
                    self._ask(
                        "INSERT INTO query_items (query, item, rank, score, why, predicted, entropy, detail) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        (id_, r.id, rank, r.score, r.why, r.predicted, r.entropy, json.dumps(r.detail)),
                    )
        except sqlite3.IntegrityError as error:
            raise UsageError("another batch was queried meanwhile; run the command again") from error
        return Query(id_, *query)

    def queries(self) -> list[Query]:
        rows = self._ask("SELECT id, created, method, seed, round, labels_seen FROM queries ORDER BY id")
        return [Query(*row) for row in rows]

    def items(self, query: int) -> list[QueryItem]:
        """The items of a batch, in its order."""
        return self._items("query = ?", query)

    def item(self, number: int) -> QueryItem | None:
        """The item of this number, which may be any number."""
        found = self._items("number = ?", number) if number.bit_length() < 64 else []
        return next(iter(found), None)

    def item_of(self, id: str) -> QueryItem | None:
        """The item of this id, if it was asked for."""
        return next(iter(self._items("item = ?", id)), None)

    def pending(self, limit: int = -1) -> list[QueryItem]:
        """Items of all batches that nobody has labelled or skipped, the oldest batch first."""
        return self._items(PENDING, limit=limit)

    def unsettled(self) -> list[QueryItem]:
        """Items of all batches that were skipped, or over which people disagree."""
        open_ = {item for item, verdict in self.verdicts().items() if verdict.label is None}
        return [item for item in self._items("TRUE") if item.ranked.id in open_]

    def _items(self, where: str, *values: object, limit: int = -1) -> list[QueryItem]:
        rows = self._ask(
            "SELECT number, query, rank, item, score, why, predicted, entropy, detail FROM query_items "
            f"WHERE {where} ORDER BY query, rank LIMIT {limit}",
            values,
        )
        return [
            QueryItem(number, query, rank, Ranked(item, score, why, predicted, entropy, json.loads(detail)))
            for number, query, rank, item, score, why, predicted, entropy, detail in rows
        ]

    def asked(self) -> set[str]:
        """Items of all batches."""
        return {item for (item,) in self._ask("SELECT item FROM query_items")}

    def last_label(self) -> int:
        """The newest row of the labels, 0 if there is none."""
        ((last,),) = self._ask("SELECT ifnull(max(id), 0) FROM labels")
        return int(last)

    def progress(self) -> Progress:
        ((total,),) = self._ask("SELECT count(*) FROM query_items")
        ((labelled, answered),) = self._ask(
            "SELECT count(DISTINCT CASE WHEN action = 'label' THEN item END), count(DISTINCT item) FROM votes "
            "WHERE item IN (SELECT item FROM query_items)"
        )
        return Progress(labelled, answered - labelled, total)

    def said(self) -> list[tuple[str, str, str | None, str]]:
        """Item, person, label and time of all that was not undone, what the person has corrected since included."""
        return self._ask("SELECT item, who, label, at FROM standing ORDER BY id")

    def record(self, votes: Iterable[Vote], source: str) -> None:
        """Appends labels and skips, all or none. When this returns they are on disk."""
        with self._transaction():
            for vote in votes:
                self._append_vote(vote, source)

    def record_once(self, vote: Vote, source: str, nonce: str) -> None:
        """Appends a label or a skip, unless this `nonce` was recorded: a request that is sent again counts once."""
        with self._transaction():
            if self._item_of(nonce) is None:
                self._append_vote(vote, source, nonce)

    def undo(self, who: str, source: str, nonce: str) -> str | None:
        """Withdraws the newest label or skip of a person from `source` that still stands, and returns its item.

        Returns None if there is none. A `nonce` that was recorded before withdraws nothing more.
        """
        with self._transaction():
            if (item := self._item_of(nonce)) is not None:
                return item
            newest = self._ask(
                "SELECT id, item FROM standing WHERE who = ? AND source = ? ORDER BY id DESC LIMIT 1", (who, source)
            )
            if not newest:
                return None
            ((row, item),) = newest
            self._append((item, None, "undo", row, who, _now(), item, source, nonce))
            return str(item)

    def can_undo(self, who: str, source: str) -> bool:
        ((found,),) = self._ask("SELECT EXISTS (SELECT 1 FROM standing WHERE who = ? AND source = ?)", (who, source))
        return bool(found)

    def _append_vote(self, vote: Vote, source: str, nonce: str | None = None) -> None:
        action = "skip" if vote.label is None else "label"
        self._append((vote.item, vote.label, action, None, vote.who, vote.at or _now(), vote.item, source, nonce))

    def _append(self, values: tuple[object, ...]) -> None:
        self._ask(
            "INSERT INTO labels (item, label, action, undoes, who, at, query, source, nonce) "
            "VALUES (?, ?, ?, ?, ?, ?, (SELECT query FROM query_items WHERE item = ?), ?, ?)",
            values,
        )

    def _item_of(self, nonce: str) -> str | None:
        rows = self._ask("SELECT item FROM labels WHERE nonce = ?", (nonce,))
        return str(rows[0][0]) if rows else None

    def verdicts(self) -> dict[str, Verdict]:
        """By item, what people say of it; items on which nothing stands are left out."""
        votes: dict[str, list[Vote]] = {}
        for row in self._ask("SELECT item, label, who, at FROM votes ORDER BY id"):
            votes.setdefault(row[0], []).append(Vote(*row))
        return {item: Verdict(_winner(cast), cast) for item, cast in votes.items()}

    def labels(self) -> dict[str, str]:
        """By item, the label in force."""
        return {item: verdict.label for item, verdict in self.verdicts().items() if verdict.label is not None}


def is_name(who: str) -> bool:
    """Whether the journal takes this for the name of a person."""
    return 0 < len(who) <= MAX_WHO and who.isprintable()


def _winner(votes: list[Vote]) -> str | None:
    counts = Counter(vote.label for vote in votes if vote.label is not None).most_common(2)
    tied = len(counts) == 2 and counts[0][1] == counts[1][1]
    return counts[0][0] if counts and not tied else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
