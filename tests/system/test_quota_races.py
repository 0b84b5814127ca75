"""A quota holds between requests at the same time, in several processes."""

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from harness import PASSWORD, call

LIMIT = 50


@pytest.mark.asvs("2.3.4")
def test_requests_at_the_same_time_do_not_exceed_a_quota(product):
    """32 threads send 120 texts, stored or not, and four tasks of 20 rows to two web processes."""
    with product.another_web(ROWS_PER_DAY=str(LIMIT), WEB_CONCURRENCY="2") as url:
        api = url + "/api/v1"
        account = {"username": "quota", "email": "quota@example.org", "password": PASSWORD}
        assert call(f"{api}/auth/register", account)[0] == 201
        token = call(f"{api}/auth/login", {"username": "quota", "password": PASSWORD})[1]["access_token"]

        def send(number):
            if number % 31 == 0:
                return call(f"{api}/sentiment/analyze/batch", {"texts": ["good"] * 20}, token)
            return call(f"{api}/sentiment/analyze", {"text": "good", "store": number % 2 == 0}, token)

        def usage():
            status, answer = call(f"{api}/users/me/usage", token=token)
            assert status == 200
            return answer["total_rows"], answer["quotas"][0]["used"]

        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(send, range(124)))
        statuses = [status for status, _ in answers]
        singles, tasks = statuses.count(200), [answer["task_id"] for status, answer in answers if status == 202]
        assert set(statuses) == {200, 429} | ({202} if tasks else set())
        assert singles + 20 * len(tasks) == LIMIT
        assert usage() == (singles, singles)
        worker = product.process("sentiment_app.worker", ROWS_PER_DAY=str(LIMIT))
        try:
            for task in tasks:
                while call(f"{api}/sentiment/tasks/{task}", token=token)[1]["status"] != "completed":
                    assert worker.poll() is None
                    time.sleep(0.1)
        finally:
            worker.terminate()
            worker.wait(30)
        assert usage() == (LIMIT, LIMIT)


def test_locked_counter_of_a_user_stops_nobody_else(product):
    """A process that is frozen within a transaction keeps the locks of the counters that it raised.

    The other accounts also have counters, and a second process locks them in the same order.
    """
    names = ["first", "frozen", "last", "free"]
    with product.another_web(WEB_CONCURRENCY="2") as url:
        api = url + "/api/v1"
        tokens = sign_up(api, names)
        for name in names[:3]:
            product.run_or_fail("flask", "user", "set-quota", name, "--rows-per-day", "100000")

        def score(name):
            return call(f"{api}/sentiment/analyze", {"text": "good"}, tokens[name])[0]

        counters = "SELECT count(*) FROM quota_counters JOIN users ON users.id = user_id WHERE username = ANY(%s)"
        lock = "SELECT 1 FROM quota_counters JOIN users ON users.id = user_id WHERE username = 'frozen' FOR UPDATE"
        with psycopg2.connect(product.servers.database_url) as other, other.cursor() as cursor:
            while cursor.execute(counters, (names,)) or cursor.fetchone() != (3,):  # until a process knows the quotas
                assert {score(name) for name in names} == {200}
                other.rollback()
            cursor.execute(f"{lock} OF quota_counters")
            with ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(score, names * 30))
        assert set(answers[1::4]) == {503}
        assert {status for index, status in enumerate(answers) if index % 4 != 1} == {200}
        assert score("frozen") == 200


def test_locked_account_stops_nobody_else(product):
    """For example while another process deletes the account, and is frozen before its commit."""
    with product.another_web(WEB_CONCURRENCY="1") as url:
        tokens = sign_up(url + "/api/v1", ["ending", "staying"])

        def score(name):
            return call(f"{url}/api/v1/sentiment/analyze", {"text": "good"}, tokens[name])[0]

        assert {score("ending"), score("staying")} == {200}
        with psycopg2.connect(product.servers.database_url) as other, other.cursor() as cursor:
            cursor.execute("SELECT 1 FROM users WHERE username = 'ending' FOR UPDATE")
            with ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(score, ["ending", "staying", "staying"] * 8))
        assert set(answers[::3]) == {503}
        assert {status for index, status in enumerate(answers) if index % 3} == {200}
        assert score("ending") == 200


def sign_up(api, names):
    """Register accounts, and return their access tokens."""
    tokens = {}
    for name in names:
        account = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
        assert call(f"{api}/auth/register", account)[0] == 201
        tokens[name] = call(f"{api}/auth/login", {"username": name, "password": PASSWORD})[1]["access_token"]
    return tokens


def test_rows_wait_for_a_table_that_is_locked(product):
    """For example by a migration. The lock is held longer than a group waits for the counters of a single user."""
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg2.connect(product.servers.database_url) as other,
        other.cursor() as cursor,
    ):
        cursor.execute("LOCK TABLE sentiment_requests")
        url = f"{product.url}/api/v1/sentiment/analyze"
        answer = pool.submit(call, url, {"text": "good"}, product.token())
        cursor.execute("SELECT pg_sleep(4)")
        other.commit()
        assert answer.result()[0] == 200
