"""Group commit, with many threads at once."""

import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from uuid import uuid4

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from sentiment_app.errors import UnavailableError
from sentiment_app.sentiment import writer as writer_module
from sentiment_app.sentiment.writer import COLUMNS, IS_PREPARED, GroupWriter


def row(text="x"):
    values = str(uuid4()), str(uuid4()), datetime.now(UTC), text, "positive", 0.1, 0.2, 0.7, "v", 0.1
    return {**dict(zip(COLUMNS, values, strict=True)), "key_id": None, "is_stored": True, "quotas": ()}


class Database:
    """Records each statement's texts. `fault` simulates errors of PostgreSQL."""

    def __init__(self, fault=None):
        self.groups, self.fault, self.gate = [], fault, threading.Event()
        self.info = {IS_PREPARED: True}
        self.gate.set()

    @contextmanager
    def connect(self):
        yield self

    def exec_driver_sql(self, statement, columns):
        self.gate.wait(5)
        texts = columns[COLUMNS.index("text")]
        if self.fault:
            self.fault(texts)
        self.groups.append(texts)


def write_all(writer, rows):
    errors = {}

    def write(entry):
        try:
            writer.write(entry)
        except Exception as error:  # noqa: BLE001  # the test checks it
            errors[entry["text"]] = error

    threads = [threading.Thread(target=write, args=(entry,)) for entry in rows]
    for thread in threads:
        thread.start()
    return threads, errors


def test_invalid_row_fails_alone():
    def refuse(texts):
        if "bad" in texts:
            raise IntegrityError("insert", None, Exception())

    database = Database(refuse)
    writer = GroupWriter(database.connect, None, retry_seconds=1)
    database.gate.clear()
    threads, errors = write_all(writer, [row(text) for text in ("first", "good", "bad", "fine")])
    database.gate.set()
    for thread in threads:
        thread.join(5)
    assert set(errors) == {"bad"}
    assert sorted(chain(*database.groups)) == ["fine", "first", "good"]


def test_lost_connection_is_retried():
    faults = [OperationalError("insert", None, Exception("gone"))] * 3

    def away(_texts):
        if faults:
            raise faults.pop()

    database = Database(away)
    GroupWriter(database.connect, None, retry_seconds=5).write(row("kept"))
    assert database.groups == [["kept"]]


def test_rows_fail_if_database_stays_away():
    def away(_texts):
        raise OperationalError("insert", None, Exception("gone"))

    writer = GroupWriter(Database(away).connect, None, retry_seconds=0.2)
    threads, errors = write_all(writer, [row(str(n)) for n in range(5)])
    for thread in threads:
        thread.join(5)
    assert len(errors) == 5
    with pytest.raises(OperationalError):
        writer.write(row("and it is ready for the next"))


def test_row_that_times_out_is_never_written(monkeypatch):
    monkeypatch.setattr(writer_module, "GRACE_SECONDS", 0.2)
    database = Database()
    writer = GroupWriter(database.connect, None, retry_seconds=0.1)
    database.gate.clear()
    first, _ = write_all(writer, [row("first")])
    late, errors = write_all(writer, [row("late")])
    late[0].join(5)
    assert isinstance(errors["late"], UnavailableError)
    database.gate.set()
    first[0].join(5)
    writer.write(row("next"))
    assert database.groups == [["first"], ["next"]]
