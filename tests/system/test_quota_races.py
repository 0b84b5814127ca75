"""A quota holds between requests at the same time, in several processes."""

import time
from concurrent.futures import ThreadPoolExecutor

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
