"""Stateful test of tasks: two users and two workers act in random order, and the invariants always hold.

Each step of a worker is a rule, so that other actions happen between its steps. STATEFUL_STEPS=20000 runs this number
of steps with a new seed each time. --hypothesis-seed repeats a run.
"""

import json
from datetime import timedelta

import numpy as np
import pytest
import uuid_utils.compat as uuid
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import delete, func, select, update
from stateful import PARTS, CountingIds, run_machine

from sentiment_app import maintenance
from sentiment_app.errors import AppError, ConflictError, NotFoundError
from sentiment_app.files.rows import Row
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import db
from sentiment_app.ml.runtime import Scorer
from sentiment_app.tasks import chunks, executor, lifecycle, reconciler, retention, service, submission
from sentiment_app.tasks.models import UNFINISHED, Chunk, Task
from sentiment_app.tasks.quotas import TooManyTasksError
from sentiment_app.usage.models import UsageRecord
from sentiment_app.webhooks.models import Delivery

TEXTS = st.lists(st.sampled_from(["good", "bad", "trouble", None]), min_size=1, max_size=8)
USERS = st.integers(0, 1)
WORKERS = st.integers(0, 1)
WEBHOOK_URLS = st.sampled_from([None, "https://93.184.216.34/hook"])
PICK = st.integers(0, 10_000)
UNSYNCHRONISED = {"synchronize_session": False}


class Tasks(RuleBasedStateMachine):
    """The rules are actions of users and workers, and the passing of time. Each rule is followed by all invariants."""

    users, ids = (), None

    def __init__(self):
        super().__init__()
        self.ids.restart()
        db.session.execute(delete(Task))
        db.session.execute(delete(UsageRecord))  # the ids of leases begin anew
        db.session.commit()
        self.claims = {}  # what each worker has claimed
        self.uploads = []  # open uploads: user, task, rows
        self.downloads = []  # open downloads: owner, task, iterator, rows so far, status
        self.scored = {}  # scores of rows that were ever seen
        self.retries = {}  # how often each task was retried

    @initialize()
    def begin(self):
        type(self).model_state["troubled"] = True

    # ---- what users do

    @rule(user=USERS, texts=TEXTS, webhook_url=WEBHOOK_URLS)
    def submit(self, user, texts, webhook_url):
        to_submit = submission.Submission(self.users[user].id, webhook_url=webhook_url)
        with self.others_unchanged(user), self.expected(TooManyTasksError):
            submission.submit(to_submit, items(texts), lambda: "x")

    @rule(user=USERS, key=st.sampled_from("ab"), texts=TEXTS)
    def submit_with_a_key(self, user, key, texts):
        to_submit = submission.Submission(self.users[user].id, idempotency_key=key)
        fingerprint = json.dumps(texts)
        with (
            self.others_unchanged(user),
            self.expected(TooManyTasksError, ConflictError, submission.IdempotencyKeyReusedError),
        ):
            replay = submission.find_replay(to_submit, fingerprint)
            task = replay or submission.submit(to_submit, items(texts), lambda: fingerprint)
            assert task.fingerprint == fingerprint or not replay

    @rule(user=USERS, webhook_url=WEBHOOK_URLS)
    def open_upload(self, user, webhook_url):
        to_submit = submission.Submission(self.users[user].id, webhook_url=webhook_url)
        with self.others_unchanged(user), self.expected(TooManyTasksError):
            task_id = submission.open_task(to_submit, self.version)
            self.uploads.append((user, task_id, 0))

    @precondition(lambda self: self.uploads)
    @rule(pick=PICK, texts=TEXTS)
    def send_rows(self, pick, texts):
        user, task_id, rows = self.uploads.pop(pick % len(self.uploads))
        with self.others_unchanged(user):
            try:
                submission._add_chunk(uuid.uuid4(), self.users[user].id, task_id, rows, list(items(texts)))
                self.uploads.append((user, task_id, rows + len(texts)))
                lifecycle.dispatch(task_id)
            except (TooManyTasksError, submission.UploadLostError):
                retention.erase(task_id)

    @precondition(lambda self: self.uploads)
    @rule(pick=PICK)
    def end_upload(self, pick):
        user, task_id, rows = self.uploads.pop(pick % len(self.uploads))
        with self.others_unchanged(user):
            try:
                submission._close(task_id, rows, "x", None)
                lifecycle.finish(task_id)
            except AppError:  # without rows, or given up
                retention.erase(task_id)

    @precondition(lambda self: self.uploads)
    @rule(pick=PICK)
    def cut_off_upload(self, pick):
        """The web process is killed: the upload gets no more rows, and is not cleaned up."""
        self.uploads.pop(pick % len(self.uploads))

    @rule(user=USERS, pick=PICK, of_other=st.booleans())
    def cancel(self, user, pick, of_other):
        self.act(service.cancel, user, pick, of_other)

    @rule(user=USERS, pick=PICK, of_other=st.booleans())
    def retry(self, user, pick, of_other):
        if task := self.act(service.retry, user, pick, of_other):
            self.retries[task.id] = self.retries.get(task.id, 0) + 1

    @rule(user=USERS, pick=PICK, of_other=st.booleans())
    def delete(self, user, pick, of_other):
        self.act(service.delete, user, pick, of_other)

    @rule(user=USERS, pick=PICK)
    def cut_off_deletion(self, user, pick):
        """The web process is killed after it has marked the task. The next purge completes the deletion."""
        if task := self.pick_task(pick, user):
            with self.others_unchanged(user):
                service._mark_deleted(task.id)

    @rule(user=USERS, pick=PICK)
    def open_download(self, user, pick):
        if task := self.pick_task(pick, user):
            with self.expected(service.ExpiredError, NotFoundError):
                found = service.results(self.users[user].id, task.id, partial=True)
                self.downloads.append((task.id, found.status, found.rows, []))

    @precondition(lambda self: self.downloads)
    @rule(pick=PICK)
    def read_next_row(self, pick):
        task_id, status, rows, seen = self.downloads.pop(pick % len(self.downloads))
        try:
            row = next(rows, None)
        except service.ResultsChangedError:
            return
        if row is not None:
            seen.append(row)
            self.downloads.append((task_id, status, rows, seen))
            return
        places = [row.row_index for row in seen]
        if status not in ("failed", "cancelled"):
            assert places == list(range(len(places)))
        if status == "completed" and (task := db.session.get(Task, task_id, populate_existing=True)):
            assert len(places) == task.total

    # ---- what workers do

    @rule(worker=WORKERS, pick=PICK)
    def claim(self, worker, pick):
        """Claim any chunk, as a late or repeated job may do."""
        ids = db.session.scalars(select(Chunk.id).order_by(Chunk.id)).all()
        if ids and worker not in self.claims:
            claim = chunks.claim(ids[pick % len(ids)], uuid.uuid4())
            if claim:
                self.claims[worker] = claim

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def score(self, pick):
        claim = self.claims.pop(sorted(self.claims)[pick % len(self.claims)])
        owner = db.session.scalar(select(Task.user_id).where(Task.id == claim.task_id))
        user = [candidate.id for candidate in self.users].index(owner) if owner else None
        with self.others_unchanged(user):
            if claim.attempts > chunks.MAX_ATTEMPTS:
                chunks.bisect(claim)
            else:
                executor.score(claim)

    @rule(pick=PICK)
    def dispatch_and_finish(self, pick):
        """What a worker does after it has stored a chunk, if it does not die before."""
        if task := self.pick_task(pick):
            lifecycle.dispatch(task.id)
            lifecycle.finish(task.id)

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def die(self, pick):
        del self.claims[sorted(self.claims)[pick % len(self.claims)]]

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def release_claim(self, pick):
        claim = self.claims.pop(sorted(self.claims)[pick % len(self.claims)])
        chunks.release_lease(claim.id, claim.token)

    @rule(pick=PICK)
    def fail(self, pick):
        if task := self.pick_task(pick):
            lifecycle.fail(task.id, "The model is gone.")

    @rule()
    def toggle_model_failure(self):
        self.model_state["troubled"] = not self.model_state["troubled"]

    # ---- what time does

    @rule()
    def expire_leases(self):
        late = update(Chunk).where(Chunk.state == "running").values(lease_until=func.now() - timedelta(1))
        db.session.execute(late, execution_options=UNSYNCHRONISED)
        db.session.commit()

    @rule()
    def expire_uploads(self):
        silent = update(Task).where(Task.status == "uploading").values(touched_at=func.now() - timedelta(1))
        db.session.execute(silent, execution_options=UNSYNCHRONISED)
        db.session.commit()

    @rule()
    def reconcile(self):
        reconciler.reconcile()

    @rule()
    def purge(self):
        maintenance.purge()

    @rule(pick=PICK)
    def expire(self, pick):
        task = self.pick_task(pick)
        if task and task.expires_at:
            db.session.execute(update(Task).where(Task.id == task.id).values(expires_at=func.now() - timedelta(1)))
            db.session.commit()
            maintenance.purge()

    # ---- what must always hold

    @invariant()
    def every_row_of_a_scored_chunk_has_one_outcome(self):
        of_task = {}
        for task_id, first, size, results, errors, *sums in db.session.execute(
            select(
                *(Chunk.task_id, Chunk.first, Chunk.size, Chunk.results, Chunk.errors),
                *(Chunk.completed, Chunk.failed, Chunk.counts, Chunk.histogram),
            ).where(Chunk.state == "done")
        ):
            scores = chunks.read(results, None, {}, size).scores
            for position, row in enumerate(scores):
                assert np.isnan(row).all() == (str(position) in errors)
                if str(position) not in errors:
                    assert self.scored.setdefault((task_id, first + position), row.tolist()) == row.tolist()
            completed, failed, counts, histogram = sums
            assert (completed, failed) == (size - len(errors), len(errors))
            assert sum(counts) == sum(histogram) == completed
            done = of_task.setdefault(task_id, [0, 0])
            done[0], done[1] = done[0] + completed, done[1] + failed
        for task in self.tasks():
            if task.status in ("completed", "cancelled"):
                assert [task.completed, task.failed] == of_task.get(task.id, [0, 0])

    @invariant()
    def chunks_cover_their_task(self):
        chunks = {}
        for row in db.session.execute(
            select(Chunk.task_id, Chunk.first, Chunk.size, Chunk.state).order_by(Chunk.first)
        ):
            chunks.setdefault(row.task_id, []).append(row)
        for task in self.tasks():
            mine = chunks.get(task.id, [])
            if task.status == "expired":
                assert mine == []
                continue
            at = 0
            for chunk in mine:
                assert chunk.first == at
                at += chunk.size
            assert at == task.total
            if task.status == "completed":
                assert {chunk.state for chunk in mine} == {"done"}
                assert task.completed + task.failed == task.total

    @invariant()
    def a_task_that_has_ended_says_when(self):
        for task in self.tasks():
            has_ended = task.status not in UNFINISHED
            assert (task.finished_at is not None, task.expires_at is not None) == (has_ended, has_ended)
            described = service.describe(task)
            assert 0 <= described["percent"] <= 100
            assert described["rows_per_second"] is None or described["rows_per_second"] >= 0

    @invariant()
    def each_end_of_a_task_is_announced_once(self):
        events = {}
        for task_id, event in db.session.execute(select(Delivery.task_id, Delivery.event).order_by(Delivery.id)):
            events.setdefault(task_id, []).append(event)
        for task in self.tasks():
            has_ended = task.status not in UNFINISHED
            announced = events.get(task.id, [])
            assert len(announced) == ((self.retries.get(task.id, 0) + has_ended) if task.webhook_url else 0)
            assert not (has_ended and task.webhook_url and task.status != "expired") or announced[-1] == task.status

    @invariant()
    def quotas_hold(self):
        for user in self.users:
            unfinished = [task for task in self.tasks() if task.user_id == user.id and task.status in UNFINISHED]
            assert len(unfinished) <= settings().max_tasks
            assert sum(task.total for task in unfinished) <= settings().max_queued_rows

    def teardown(self):
        """Check that every accepted task ends when the model works and the workers run."""
        self.model_state["troubled"] = False
        self.uploads.clear()
        self.claims.clear()
        self.expire_uploads()
        for _ in range(200):
            if not any(task.status in UNFINISHED for task in self.tasks()):
                break
            self.expire_leases()
            reconciler.reconcile()
            for chunk_id in db.session.scalars(select(Chunk.id).where(Chunk.state == "queued")).all():
                executor.score_chunk(chunk_id)
        assert [task.status for task in self.tasks() if task.status in UNFINISHED] == []
        self.every_row_of_a_scored_chunk_has_one_outcome()
        self.chunks_cover_their_task()

    # ---- what the rules share

    def tasks(self):
        return db.session.scalars(
            select(Task).where(Task.deleted_at.is_(None)).order_by(Task.id),
            execution_options={"populate_existing": True},
        ).all()

    def pick_task(self, pick, user=None):
        tasks = [task for task in self.tasks() if user is None or task.user_id == self.users[user].id]
        return tasks[pick % len(tasks)] if tasks else None

    def act(self, action, user, pick, of_other):
        task = self.pick_task(pick, 1 - user if of_other else user)
        if task is None:
            return None
        with self.others_unchanged(user):
            if of_other:
                with pytest.raises(NotFoundError):
                    action(self.users[user].id, task.id)
            else:
                with self.expected(ConflictError, NotFoundError, TooManyTasksError):
                    return action(self.users[user].id, task.id)
        return None

    def others_unchanged(self, user):
        return Unchanged([other.id for position, other in enumerate(self.users) if position != user])

    @staticmethod
    def expected(*errors):
        return Expected(errors)


class Unchanged:
    """Compares all rows of some users before and after."""

    def __init__(self, user_ids):
        self.user_ids = user_ids

    def __enter__(self):
        self.before = self.rows()

    def __exit__(self, kind, *_):
        if kind is None:
            assert self.rows() == self.before

    def rows(self):
        tasks = select(Task.id).where(Task.user_id.in_(self.user_ids))
        return [
            db.session.execute(select(table).where(mine).order_by(table.c.id)).all()
            for table, mine in (
                (Task.__table__, Task.user_id.in_(self.user_ids)),
                (Chunk.__table__, Chunk.task_id.in_(tasks)),
            )
        ]


class Expected:
    """Ignores the expected errors."""

    def __init__(self, errors):
        self.errors = errors

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        return kind is not None and issubclass(kind, self.errors)


def items(texts):
    for line, text in enumerate(texts, 1):
        yield Row(line, None, text, None if text else "There is no text.")


@pytest.mark.asvs("2.3.1")
@pytest.mark.no_cover
@pytest.mark.parametrize("part", PARTS)
def test_tasks_keep_invariants_under_random_actions(part, make_app, make_user, model, monkeypatch, small_chunks):
    assess_many, model_state = Scorer.assess_many, {}

    def score(self, texts):
        if model_state["troubled"] and "trouble" in texts:
            raise ValueError
        return assess_many(self, texts)

    monkeypatch.setattr(Scorer, "assess_many", score)
    monkeypatch.setattr(lifecycle, "QUEUED_CHUNKS", 2)
    users = [make_user("ada"), make_user("bob")]
    with make_app(max_tasks=4, max_queued_rows=20).app_context():
        values = {"users": users, "version": model[1], "model_state": model_state, "ids": CountingIds(monkeypatch)}
        run_machine(type("TasksOfTwo", (Tasks,), values))
