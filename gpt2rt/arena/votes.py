"""Votes: contestants and rounds in SQLite. What was acknowledged survives a crash."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from time import time
from typing import Any

from gpt2rt.arena.contestants import Contestant
from gpt2rt.errors import Gpt2rtError, UsageError

VERSION = 1
SCHEMA = """
CREATE TABLE contestants (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, settings TEXT NOT NULL, source TEXT NOT NULL,
    parent TEXT REFERENCES contestants (id), added REAL NOT NULL, retired INTEGER NOT NULL DEFAULT 0);
CREATE TABLE rounds (
    number INTEGER PRIMARY KEY, round TEXT NOT NULL, voted REAL NOT NULL, voter TEXT NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('person', 'judge', 'import')), category TEXT,
    first TEXT NOT NULL REFERENCES contestants (id), second TEXT NOT NULL REFERENCES contestants (id),
    first_seed INTEGER NOT NULL, second_seed INTEGER NOT NULL, propensity REAL,
    outcome TEXT NOT NULL CHECK (outcome IN ('a', 'b', 'tie', 'bad')), identical INTEGER NOT NULL,
    messages TEXT NOT NULL, first_answers TEXT NOT NULL, second_answers TEXT NOT NULL,
    reading REAL, superseded INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX one_vote ON rounds (round) WHERE NOT superseded;
CREATE TABLE voids (
    round TEXT NOT NULL, at REAL NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL, reason TEXT NOT NULL);
"""


class Outcome(Enum):
    """What a vote says. A and B are the slots in which the answers were shown."""

    A = "a"
    B = "b"
    TIE = "tie"
    BAD = "bad"


@dataclass(frozen=True)
class Vote:
    """A round with its outcome.

    Attributes:
        round: a random id. voter: a label of the person on this machine, no address. origin: "person", "judge" or
            "import". category: of the first message's suggestion, None for another one.
        first, second: ids of the contestants in slots A and B, with their seeds.
        propensity: the probability with which this pair was chosen, None if unknown.
        identical: all answers of both sides are the same: the round is not rated.
        messages, first_answers, second_answers: the conversations, a text for each turn.
        reading: seconds from the last answer to the vote, None if unknown.
    """

    round: str
    voter: str
    origin: str
    category: str | None
    first: str
    second: str
    first_seed: int
    second_seed: int
    propensity: float | None
    outcome: Outcome
    identical: bool
    messages: list[str]
    first_answers: list[str]
    second_answers: list[str]
    reading: float | None = None
    voted: float = 0.0


class VotesError(Gpt2rtError):
    """The file of votes can't be used, or a vote can't be taken."""


class Votes:
    """A file of contestants and votes. Any thread and any process may use it at the same time."""

    def __init__(self, path: str):
        """Open a file, or make it.

        Raises:
            VotesError: it can't be opened, or it is not a file of votes.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            if os.path.dirname(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
            self._database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA foreign_keys = ON")
            with self._transaction() as database:
                [version] = database.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    [n_tables] = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
                    if n_tables:
                        raise VotesError(f"{path}: it is another program's database (choose another --db)")
                    for statement in SCHEMA.split(";"):
                        database.execute(statement)
                    database.execute(f"PRAGMA user_version = {VERSION}")
                elif version != VERSION:
                    raise VotesError(f"{path}: got version {version} of the file, expected {VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise VotesError(f"{path}: {error} (choose another --db)") from None

    def close(self) -> None:
        self._database.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction, which is on the disk when it ends.

        Raises:
            VotesError: the file can't be written.
        """
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                    self._database.execute("COMMIT")
                except BaseException:
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                    raise
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                raise VotesError(f"{self.path}: {error}") from None

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            try:
                return self._database.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise VotesError(f"{self.path}: {error}") from None

    # --- contestants

    def add(self, contestant: Contestant) -> Contestant:
        """Add a contestant, unless it is there; return it as it is in the file, where it may have another name.

        A name is given once: the second contestant with a name gets a number.
        """
        with self._transaction() as database:
            known = database.execute("SELECT * FROM contestants WHERE id = ?", (contestant.id,)).fetchone()
            if known is not None:
                database.execute("UPDATE contestants SET source = ? WHERE id = ?", (contestant.source, contestant.id))
                return replace(_contestant(known), source=contestant.source)
            name, n = contestant.name, 1
            while database.execute("SELECT 1 FROM contestants WHERE name = ?", (name,)).fetchone():
                n += 1
                name = f"{contestant.name} ({n})"
            added = replace(contestant, name=name)
            settings = json.dumps(dict(added.settings), sort_keys=True)
            values = (added.id, name, added.kind, settings, added.source, added.parent, time())
            database.execute("INSERT INTO contestants VALUES (?, ?, ?, ?, ?, ?, ?, 0)", values)
            return added

    def contestants(self) -> list[Contestant]:
        """Return all contestants, retired ones too, the oldest first."""
        return [_contestant(row) for row in self._rows("SELECT * FROM contestants ORDER BY added, rowid")]

    def named(self, name: str) -> Contestant:
        """Return the contestant with a name. Raises UsageError: there is none."""
        contestants = {one.name: one for one in self.contestants()}
        if name not in contestants:
            raise UsageError(f"{name}: no contestant has this name, expected one of {', '.join(contestants)}")
        return contestants[name]

    def retire(self, contestant: Contestant, retired: bool = True) -> None:
        """Let a contestant play no more, or again. Its rounds stay."""
        with self._transaction() as database:
            database.execute("UPDATE contestants SET retired = ? WHERE id = ?", (retired, contestant.id))

    # --- rounds

    def record(self, vote: Vote) -> None:
        """Write a vote. When this returns, it survives a crash.

        Raises:
            VotesError: the round has a vote, or the file can't be written.
        """
        values = (
            *(vote.round, vote.voted or time(), vote.voter, vote.origin, vote.category, vote.first, vote.second),
            *(vote.first_seed, vote.second_seed, vote.propensity, Outcome(vote.outcome).value, vote.identical),
            *(json.dumps(one) for one in (vote.messages, vote.first_answers, vote.second_answers)),
            vote.reading,
        )
        try:
            with self._transaction() as database:
                database.execute(
                    "INSERT INTO rounds (round, voted, voter, origin, category, first, second, first_seed, second_seed,"
                    " propensity, outcome, identical, messages, first_answers, second_answers, reading)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    values,
                )
        except sqlite3.IntegrityError:
            raise VotesError("this round has a vote already (undo it first)") from None

    def withdraw(self, round: str) -> bool:
        """Withdraw the vote of a round; return whether there was one. The row stays, marked as superseded."""
        with self._transaction() as database:
            done = database.execute("UPDATE rounds SET superseded = 1 WHERE round = ? AND NOT superseded", (round,))
            return done.rowcount > 0

    def record_void(self, round: str, first: str, second: str, reason: str) -> None:
        """Write that a round does not count, and why."""
        with self._transaction() as database:
            database.execute("INSERT INTO voids VALUES (?, ?, ?, ?, ?)", (round, time(), first, second, reason))

    def votes(self, origins: tuple[str, ...] = ("person", "judge", "import")) -> list[Vote]:
        """Return the votes that were not withdrawn, the oldest first."""
        marks = ", ".join("?" * len(origins))
        rows = self._rows(
            "SELECT round, voter, origin, category, first, second, first_seed, second_seed, propensity, outcome,"
            " identical, messages, first_answers, second_answers, reading, voted FROM rounds"
            f" WHERE NOT superseded AND origin IN ({marks}) ORDER BY number",
            *origins,
        )
        make: Any = Vote  # a type checker can't count the columns
        return [make(*row[:9], Outcome(row[9]), bool(row[10]), *map(json.loads, row[11:14]), *row[14:]) for row in rows]

    def n_rounds(self) -> dict[str, int]:
        """Return how many rounds each contestant has played, by id."""
        rows = self._rows(
            "SELECT c.id, count(r.round) FROM contestants c LEFT JOIN rounds r"
            " ON c.id IN (r.first, r.second) AND NOT r.superseded GROUP BY c.id"
        )
        return dict(rows)

    def n_voids(self) -> int:
        """Return how many rounds did not count."""
        [[n]] = self._rows("SELECT count(*) FROM voids")
        return int(n)


def _contestant(row: Any) -> Contestant:
    id_, name, kind, settings, source, parent, _, retired = row
    found = Contestant(name, kind, json.loads(settings), source, parent, bool(retired))
    if found.id != id_:
        raise VotesError(f"contestant {name}: its id is {id_}, but its settings have {found.id} (the file was edited)")
    return found
