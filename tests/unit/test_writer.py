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
from sentiment_app.sentiment.writer import GroupWriter, Row


def row(text="x"):
    return Row(str(uuid4()), str(uuid4()), datetime.now(UTC), text, "positive", 0.1, 0.2, 0.7, "v", 0.1)


class Database:
    """Records each statement's texts; a scripted fault stands for a PostgreSQL that is away or refuses."""

    def __init__(self, fault=None):
        self.groups, self.fault, self.gate = [], fault, threading.Event()
        self.gate.set()

    @contextmanager
    def connect(self):
        yield self

    def exec_driver_sql(self, statement, columns):
        self.gate.wait(5)
        texts = columns[3]
        if self.fault:
            self.fault(texts)
        self.groups.append(texts)


def write_all(writer, rows):
    errors = {}

    def write(one):
        try:
            writer.write(one)
        except Exception as error:  # noqa: BLE001  # whatever it is, the test looks at it
            errors[one.text] = error

    threads = [threading.Thread(target=write, args=(one,)) for one in rows]
    for thread in threads:
        thread.start()
    return threads, errors


def test_rows_that_come_while_one_is_written_share_a_commit():
    database = Database()
    writer = GroupWriter(database.connect, retry_seconds=1)
    database.gate.clear()
    first, _ = write_all(writer, [row("first")])
    others, _ = write_all(writer, [row(str(n)) for n in range(20)])
    while len(writer._gathered) < 20:
        pass
    database.gate.set()
    for thread in first + others:
        thread.join(5)
    assert database.groups[0] == ["first"]
    assert len(database.groups) == 2
    assert sorted(database.groups[1]) == sorted(map(str, range(20)))


def test_a_group_waits_for_the_rows_of_requests_that_have_begun(monkeypatch):
    monkeypatch.setattr(writer_module, "PAUSE_SECONDS", 30)
    database, both_began = Database(), threading.Barrier(2)
    writer = GroupWriter(database.connect, retry_seconds=1)

    def request(one):
        writer.expect()
        both_began.wait(5)
        writer.write(one)
        writer.forget()

    threads = [threading.Thread(target=request, args=(row(text),)) for text in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert [sorted(group) for group in database.groups] == [["first", "second"]]


def test_a_row_that_does_not_come_any_more_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(writer_module, "PAUSE_SECONDS", 30)
    database, began, refused = Database(), threading.Event(), threading.Event()
    writer = GroupWriter(database.connect, retry_seconds=1)

    def request_without_a_row():
        writer.expect()
        began.set()
        refused.wait(5)
        writer.forget()

    other = threading.Thread(target=request_without_a_row)
    other.start()
    began.wait(5)
    threads, _ = write_all(writer, [row("alone")])
    threads[0].join(0.2)
    assert not database.groups
    refused.set()
    threads[0].join(5)
    assert database.groups == [["alone"]]


def test_a_row_that_does_not_come_in_time_is_not_waited_for():
    database = Database()
    writer = GroupWriter(database.connect, retry_seconds=1)
    other = threading.Thread(target=writer.expect)
    other.start()
    other.join()
    threads, _ = write_all(writer, [row("alone")])
    threads[0].join(5)
    assert database.groups == [["alone"]]


def test_every_row_of_many_threads_is_written_once():
    database = Database()
    writer = GroupWriter(database.connect, retry_seconds=1)
    threads, errors = write_all(writer, [row(str(n)) for n in range(200)])
    for thread in threads:
        thread.join(5)
    assert not errors
    assert sorted(chain(*database.groups)) == sorted(map(str, range(200)))


def test_one_bad_row_fails_alone():
    def refuse(texts):
        if "bad" in texts:
            raise IntegrityError("insert", None, Exception())

    database = Database(refuse)
    writer = GroupWriter(database.connect, retry_seconds=1)
    database.gate.clear()
    threads, errors = write_all(writer, [row(text) for text in ("first", "good", "bad", "fine")])
    database.gate.set()
    for thread in threads:
        thread.join(5)
    assert set(errors) == {"bad"}
    assert sorted(chain(*database.groups)) == ["fine", "first", "good"]


def test_a_lost_connection_is_tried_again():
    faults = [OperationalError("insert", None, Exception("gone"))] * 3

    def away(_texts):
        if faults:
            raise faults.pop()

    database = Database(away)
    GroupWriter(database.connect, retry_seconds=5).write(row("kept"))
    assert database.groups == [["kept"]]


def test_a_database_that_stays_away_fails_every_waiting_row():
    def away(_texts):
        raise OperationalError("insert", None, Exception("gone"))

    writer = GroupWriter(Database(away).connect, retry_seconds=0.2)
    threads, errors = write_all(writer, [row(str(n)) for n in range(5)])
    for thread in threads:
        thread.join(5)
    assert len(errors) == 5
    with pytest.raises(OperationalError):
        writer.write(row("and it is ready for the next"))


def test_a_row_that_waited_too_long_is_withdrawn_and_never_written(monkeypatch):
    monkeypatch.setattr(writer_module, "GRACE_SECONDS", 0.2)
    database = Database()
    writer = GroupWriter(database.connect, retry_seconds=0.1)
    database.gate.clear()
    first, _ = write_all(writer, [row("first")])
    late, errors = write_all(writer, [row("late")])
    late[0].join(5)
    assert isinstance(errors["late"], UnavailableError)
    database.gate.set()
    first[0].join(5)
    writer.write(row("next"))
    assert database.groups == [["first"], ["next"]]
