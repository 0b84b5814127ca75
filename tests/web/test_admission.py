"""Admission: concurrent requests share calls of Redis, and each request gets its own answer."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import limits
import pytest

from sentiment_app.infrastructure.circuit_breaker import CircuitBreaker
from sentiment_app.infrastructure.queue import REDIS
from sentiment_app.web.admission import LIST_KEY, Admission, Verdict
from sentiment_app.web.rate_limits import RateLimits

THREADS = 24


@pytest.fixture
def redis(base_app):
    REDIS.get(base_app).flushdb()
    return REDIS.get(base_app)


def make_admission(redis, settings, is_live):
    breaker = CircuitBreaker("redis", 1.0)
    rate_limits = RateLimits(None, settings, breaker)
    rate_limits.items = {str(amount): limits.parse(f"{amount} per hour") for amount in range(1, 101)}
    return Admission(redis, breaker, rate_limits, session_seconds=60, find_ended=list, is_live=is_live)


@pytest.fixture
def admission(redis, settings):
    return make_admission(redis, settings, lambda _session: True)


def run_in_parallel(function, arguments):
    """Call a function with each of the arguments, each in its own thread."""
    ready = threading.Barrier(len(arguments))

    def call(argument):
        ready.wait(5)
        return function(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(call, arguments))


@pytest.mark.asvs("15.4.1")
def test_each_caller_gets_its_own_answer(admission):
    def admit(amount):
        return admission.admit(uuid4(), uuid4(), str(amount))

    answers = run_in_parallel(admit, range(1, THREADS + 1))
    assert [(answer.verdict, answer.standing.remaining) for answer in answers] == [
        (Verdict.ADMITTED, n) for n in range(THREADS)
    ]


def test_concurrent_requests_respect_the_rate(admission):
    user, session = uuid4(), uuid4()
    answers = run_in_parallel(lambda _: admission.admit(user, session, "10"), range(THREADS))
    assert (
        sorted(entry.verdict for entry in answers) == [Verdict.RATE_EXCEEDED] * (THREADS - 10) + [Verdict.ADMITTED] * 10
    )


def test_ended_session_is_refused_among_others(admission):
    ended = uuid4()
    admission.end([ended])
    sessions = [uuid4(), uuid4(), ended, uuid4()]
    answers = run_in_parallel(lambda session: admission.admit(uuid4(), session, "100"), sessions)
    assert [entry.verdict is Verdict.SESSION_ENDED for entry in answers] == [False, False, True, False]


def test_script_is_loaded_again_after_flush(admission, redis):
    admission.admit(uuid4(), uuid4(), "100")
    redis.script_flush()
    answers = run_in_parallel(lambda _: admission.admit(uuid4(), uuid4(), "100"), range(4))
    assert {answer.verdict for answer in answers} == {Verdict.ADMITTED}


def test_broken_connection_fails_no_request(admission, redis):
    admission.admit(uuid4(), uuid4(), "100")
    redis.client_kill_filter(_type="normal", skipme=True)
    answers = run_in_parallel(lambda _: admission.admit(uuid4(), uuid4(), "100"), range(4))
    assert {answer.verdict for answer in answers} == {Verdict.ADMITTED}


@pytest.mark.asvs("16.5.3")
@pytest.mark.parametrize("is_live", [True, False])
def test_list_deleted_by_another_process_admits_no_ended_session(redis, settings, is_live):
    admission = make_admission(redis, settings, lambda _session: is_live)
    publish = admission._publish

    def publish_and_lose(*arguments, **options):
        publish(*arguments, **options)
        redis.delete(LIST_KEY)

    admission._publish = publish_and_lose
    answer = admission.admit(uuid4(), uuid4(), "100")
    assert answer.verdict is (Verdict.ADMITTED if is_live else Verdict.SESSION_ENDED)
