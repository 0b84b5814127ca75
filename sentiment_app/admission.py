"""Admission of a signed-in request: its session has not been ended, and its user is within the rate.

One Redis script answers both. Redis only caches: PostgreSQL says which sessions were ended, and the list here is
loaded from there when it is missing, stale after LIST_SECONDS, or Redis was away. With Redis gone PostgreSQL is
asked for each request and rates are counted in this process.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, NamedTuple, cast
from uuid import UUID

import structlog
from flask import current_app
from limits import RateLimitItem
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from sentiment_app import metrics
from sentiment_app.combining import Combiner

LIST_KEY = "sessions-ended:listed"
LIST_SECONDS = 30
REDIS_REST_SECONDS = 1.0
# For the answer to a question asked behind others: of Redis itself a shorter timeout tells.
PATIENCE_SECONDS = 5.0

# KEYS: the list's marker, the session's end, the count of this window and of the one before.
# ARGV: allowed requests, the window in ms, ms of it that have passed.
# Sliding-window counter: the window before counts by the share of it that still slides over now.
SCRIPT = """
local list, ended, now, before = unpack(redis.call('MGET', unpack(KEYS)))
if not list then return {0, 0, 0} end
if ended then return {1, 0, 0} end
local allowed, window, passed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
now, before = tonumber(now or 0), tonumber(before or 0)
if now + before * (window - passed) / window + 1 > allowed then return {2, now, before} end
if redis.call('INCR', KEYS[3]) == 1 then redis.call('PEXPIRE', KEYS[3], 2 * window) end
return {3, now + 1, before}
"""
SCRIPT_SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

log = structlog.get_logger()


class Verdict(IntEnum):
    """What the script says."""

    LIST_MISSING = 0
    SESSION_ENDED = 1
    OVER_RATE = 2
    ADMITTED = 3


class Admitted(NamedTuple):
    """The verdict, and where the caller stands: requests `remaining`, and seconds until there is room for more."""

    verdict: Verdict
    policy: str
    rate: RateLimitItem
    remaining: int
    reset: int


class Admission:
    """The gate of signed-in requests.

    Args:
        client: Redis, with a short timeout.
        session_life: seconds that an ended session's access tokens might still live.
        ended_sessions: reads from PostgreSQL the sessions that ended within that life.
        is_live: asks PostgreSQL about one session.
    """

    def __init__(
        self,
        client: Redis,
        *,
        session_life: int,
        ended_sessions: Callable[[], Iterable[UUID]],
        is_live: Callable[[UUID], bool],
    ) -> None:
        self._client = client
        self._connection: Any = None  # redis-py has no types for it
        self._questions: Combiner[tuple[Any, ...], Any] = Combiner(self._ask_together, patience=PATIENCE_SECONDS)
        self._session_life = session_life
        self._ended_sessions = ended_sessions
        self._is_live = is_live
        self._in_memory = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._redis_rests_until = 0.0
        self._list_is_suspect = False

    def admit(self, user: UUID, session: UUID, policy: str, rate: RateLimitItem) -> Admitted:
        """Judge one request under the named rate, and count it if it is admitted."""
        if time.monotonic() >= self._redis_rests_until:
            try:
                return self._ask_redis(user, session, policy, rate)
            except (RedisError, TimeoutError) as error:
                self._redis_failed(error)
        metrics.limiter_fallbacks.inc()
        return self._ask_postgresql(user, session, policy, rate)

    def end(self, sessions: Iterable[UUID]) -> None:
        """Shut out sessions whose end has been committed. What Redis misses here, its next list has."""
        try:
            self._publish(sessions)
        except RedisError as error:
            self._redis_failed(error)

    def _ask_redis(self, user: UUID, session: UUID, policy: str, rate: RateLimitItem) -> Admitted:
        if self._list_is_suspect:
            self._list_is_suspect = False  # before: what fails from here on makes it suspect again
            self._client.delete(LIST_KEY)
        answer = self._run_script(user, session, policy, rate)
        if answer.verdict is Verdict.LIST_MISSING:
            self._publish(self._ended_sessions(), whole=True)
            answer = self._run_script(user, session, policy, rate)
        if answer.verdict is Verdict.LIST_MISSING:  # another process, for which it was suspect, has deleted it again
            answer = self._ask_postgresql(user, session, policy, rate)
        return answer

    def _run_script(self, user: UUID, session: UUID, policy: str, rate: RateLimitItem) -> Admitted:
        window = rate.get_expiry() * 1000
        number, passed = divmod(int(time.time() * 1000), window)
        counter = f"rate:{policy}:{user}:"
        keys = LIST_KEY, _end_key(session), f"{counter}{number}", f"{counter}{number - 1}"
        arguments = len(keys), *keys, rate.amount, window, passed
        try:
            verdict, now, before = self._questions.do(("EVALSHA", SCRIPT_SHA, *arguments))
        except NoScriptError:  # a new server, or one that was wiped
            verdict, now, before = self._questions.do(("EVAL", SCRIPT, *arguments))
        remaining = rate.amount - math.ceil(now + before * (window - passed) / window)
        if verdict == Verdict.OVER_RATE:
            wait = _until_admitted(rate.amount, window, passed, now, before)
        else:
            wait = window - passed
        return Admitted(Verdict(verdict), policy, rate, max(0, remaining), math.ceil(wait / 1000))

    def _ask_together(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Redis' answers, over a connection that is kept: a client and its pool cost more than the question."""
        answers: list[Any] = []
        try:
            if self._connection is None:
                self._connection = self._client.connection_pool.get_connection()
            self._connection.send_packed_command(self._connection.pack_commands(commands))
            while len(answers) < len(commands):
                answers.append(self._answer())
        except RedisError as error:  # it is closed then, and opens again
            answers += [error] * (len(commands) - len(answers))
        return answers

    def _answer(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:  # an answer to one question
            return error

    def _ask_postgresql(self, user: UUID, session: UUID, policy: str, rate: RateLimitItem) -> Admitted:
        if not self._is_live(session):
            return Admitted(Verdict.SESSION_ENDED, policy, rate, 0, 0)
        admitted = self._in_memory.hit(rate, policy, str(user))
        stats = self._in_memory.get_window_stats(rate, policy, str(user))
        reset = max(0, math.ceil(stats.reset_time - time.time()))
        verdict = Verdict.ADMITTED if admitted else Verdict.OVER_RATE
        return Admitted(verdict, policy, rate, stats.remaining, reset)

    def _publish(self, sessions: Iterable[UUID], *, whole: bool = False) -> None:
        with self._client.pipeline(transaction=True) as pipeline:  # one whole list, or none
            for session in sessions:
                pipeline.set(_end_key(session), 1, ex=self._session_life)
            if whole:
                pipeline.set(LIST_KEY, 1, ex=LIST_SECONDS)
            pipeline.execute()

    def _redis_failed(self, error: Exception) -> None:
        self._redis_rests_until = time.monotonic() + REDIS_REST_SECONDS
        self._list_is_suspect = True
        log.warning("redis_unavailable", error=type(error).__name__)


def _until_admitted(allowed: int, window: int, passed: int, now: int, before: int) -> float:
    """Milliseconds until the sliding count leaves room for one more, counted by none but this caller."""
    room = allowed - 1 - now
    if room >= 0:  # what counts too much is the window before: until enough of it has slid away
        return window * (1 - room / before) - passed
    return window - passed + window * (1 - (allowed - 1) / now)


def _end_key(session: UUID) -> str:
    return f"session-ended:{session}"


def admission() -> Admission:
    """The running application's gate."""
    return cast(Admission, current_app.extensions["admission"])
