"""Two users submit, cancel, retry, delete and download tasks at once, while workers are late and reconcilers race.

STORM_ACTIONS=5000 scripts/test tests/system/test_storm.py runs longer. The test prints its seed. STORM_SEED repeats the
actions of a seed, but not their interleaving.
"""

import http.client
import json
import os
import random
import signal
import threading
import urllib.error
import urllib.request

import pytest
from harness import PASSWORD, call
from test_chaos import Workers, post_file, texts, wait_until_ended

ACTIONS = int(os.environ.get("STORM_ACTIONS", "60"))
SEED = int(os.environ.get("STORM_SEED", random.randrange(10**6)))
THREADS = 3
ROWS = 6_000  # two chunks
ENDED = ("completed", "failed", "cancelled")


class User:
    """A user with several parallel clients. Records every unexpected answer."""

    def __init__(self, product, username):
        self.product = product
        self.username = username
        self.unexpected_answers = []
        account = {"username": username, "email": f"{username}@example.org", "password": PASSWORD}
        call(product.url + "/api/v1/auth/register", account)
        status, tokens = call(product.url + "/api/v1/auth/login", {"username": username, "password": PASSWORD})
        assert status == 200, tokens
        self.token = tokens["access_token"]
        self.url = product.url + "/api/v1/sentiment/tasks"

    def tasks(self):
        status, page = call(self.url + "?limit=100", token=self.token, timeout=60)
        return page["items"] if status == 200 else []

    def do_random_action(self, random_):
        """Do a random action, if possible on one of the user's tasks."""
        tasks = self.tasks()
        action = random_.choice([self.submit, self.cancel, self.retry, self.retry, self.delete, self.download])
        if not tasks or action == self.submit:
            self.submit()
        else:
            action(random_.choice(tasks))

    def submit(self, _task=None):
        try:
            post_file(self.product, self.token, texts(ROWS))
        except urllib.error.HTTPError as error:
            self.expect(error.code, 429, 503)

    def cancel(self, task):
        self.expect(self.post(task, "cancel"), 200, 404, 409)

    def retry(self, task):
        self.expect(self.post(task, "retry"), 202, 404, 409, 429)

    def delete(self, task):
        request = urllib.request.Request(f"{self.url}/{task['task_id']}", headers=self.headers(), method="DELETE")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.expect(answer.status, 204)
        except urllib.error.HTTPError as error:
            self.expect(error.code, 404)

    def download(self, task):
        """Check that results are complete, refused or visibly broken off, and never silently incomplete."""
        headers = self.headers(Accept="application/x-ndjson")
        request = urllib.request.Request(f"{self.url}/{task['task_id']}/results?partial=true", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                rows = [json.loads(line)["index"] for line in answer]
        except urllib.error.HTTPError as error:
            self.expect(error.code, 404, 409, 503)
        except (OSError, http.client.HTTPException):
            return
        else:
            if task["status"] != "cancelled" and rows != list(range(len(rows))):
                self.unexpected_answers.append(f"gaps in {task['task_id']}, which was {task['status']}")

    def post(self, task, action):
        return call(f"{self.url}/{task['task_id']}/{action}", {}, self.token, timeout=60)[0]

    def expect(self, status, *expected):
        if status not in expected:
            self.unexpected_answers.append(f"{status} instead of {expected}")

    def headers(self, **more):
        return {"Authorization": f"Bearer {self.token}", **more}

    def whole_results(self, task):
        headers = self.headers(Accept="application/x-ndjson")
        request = urllib.request.Request(f"{self.url}/{task['task_id']}/results?partial=true", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return [json.loads(line) for line in answer]


@pytest.fixture
def workers(product):
    workers = Workers(product)
    yield workers
    workers.stop()


def make_workers_late(workers, is_over, random_):
    """Suspend workers, sometimes for longer than their lease, so that they try to store results after they lost it."""
    while not is_over.wait(random_.uniform(0.2, 1)):
        process = workers.processes[random_.randrange(2)]
        process.send_signal(signal.SIGSTOP)
        is_over.wait(random_.choice([0.1, 0.5, 9]))
        process.send_signal(signal.SIGCONT)


def test_storm_of_two_users_keeps_every_task_complete(product, workers, capsys):
    with capsys.disabled():
        print(f"STORM_SEED={SEED}", end=" ")
    begun = len(product.log.read_text())
    # Accounts of their own: another test of the same product leaves a task of ada.
    users = [User(product, name) for name in ("storm-1", "storm-2")]
    is_over = threading.Event()
    suspender = threading.Thread(target=make_workers_late, args=(workers, is_over, random.Random(SEED)))
    suspender.start()

    def go_on(user, seed):
        random_ = random.Random(seed)
        for _ in range(ACTIONS // (len(users) * THREADS)):
            user.do_random_action(random_)

    threads = [
        threading.Thread(target=go_on, args=(user, SEED + number * 10 + index))
        for number in range(THREADS)
        for index, user in enumerate(users)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    is_over.set()
    suspender.join()
    users[0].submit()  # so that at least one task is left to check
    assert [user.unexpected_answers for user in users] == [[], []]
    kept = 0
    for user in users:
        for task in user.tasks():
            shown = wait_until_ended(product, user.token, task["task_id"], workers)
            assert shown["status"] in ENDED, shown
            rows = user.whole_results(task)
            counts = shown["request_counts"]
            assert len(rows) == counts["completed"] + counts["failed"]
            assert counts["failed"] == 0
            if shown["status"] == "completed":
                assert [row["index"] for row in rows] == list(range(ROWS))
            call(f"{user.url}/{task['task_id']}/retry", {}, user.token)  # completes cancelled tasks
            shown = wait_until_ended(product, user.token, task["task_id"], workers)
            assert shown["status"] == "completed", shown
            assert [row["index"] for row in user.whole_results(task)] == list(range(ROWS))
            kept += 1
    assert kept
    # RQ logs a traceback if two workers had the same job. This is harmless, and ignored.
    lines = product.log.read_text()[begun:].splitlines()
    faults = [line for line in lines if "Traceback" in line and "rq.worker" not in line]
    faults += [line for line in lines if "unexpected_error" in line]
    assert faults == []
