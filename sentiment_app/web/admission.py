"""Admits a signed-in request if its session has not ended, and if its user is within the rate limit.

One Redis script checks both. Redis is only a cache: PostgreSQL stores which sessions have ended. The list of ended
sessions in Redis is loaded from PostgreSQL when it is missing, after LIST_SECONDS, and after Redis was unavailable.
While Redis does not answer, each request checks its session in PostgreSQL, and rates are counted in this process.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

from redis import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from sentiment_app.infrastructure import metrics
from sentiment_app.infrastructure.app_state import AppKey
from sentiment_app.infrastructure.circuit_breaker import CircuitBreaker
from sentiment_app.infrastructure.coalescing import Coalescer
from sentiment_app.web.rate_limits import RateLimits, Standing

LIST_KEY = "sessions-ended:listed"
LIST_SECONDS = 30
# How long a command may wait behind other commands. The Redis client has a shorter timeout for an answer.
COMMAND_TIMEOUT_SECONDS = 5.0

# KEYS: the list's marker, the session's end, the count of this window and of the window before.
# ARGV: allowed requests, the window in ms, the ms of it that have passed.
# Sliding-window counter: the window before counts by the share of it that the sliding window still covers.
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


class Verdict(IntEnum):
    """What the script returns."""

    LIST_MISSING = 0
    SESSION_ENDED = 1
    RATE_EXCEEDED = 2
    ADMITTED = 3


class Admitted(NamedTuple):
    """The verdict on a request, and where its user stands with the rate."""

    verdict: Verdict
    standing: Standing


class Admission:
    """Decides whether signed-in requests are admitted.

    Args:
        client: Redis, with a short timeout.
        breaker: decides whether Redis is asked.
        rate_limits: the rates, and the counters in memory.
        session_seconds: how long access tokens of an ended session may still be valid.
        find_ended: reads from PostgreSQL the sessions that ended within that time.
        is_live: asks PostgreSQL about one session.
    """

    def __init__(
        self,
        client: Redis,
        breaker: CircuitBreaker,
        rate_limits: RateLimits,
        *,
        session_seconds: int,
        find_ended: Callable[[], Iterable[UUID]],
        is_live: Callable[[UUID], bool],
    ) -> None:
        self._client = client
        self._breaker = breaker
        self._rate_limits = rate_limits
        self._connection: Any = None  # redis-py has no types for it
        self._commands: Coalescer[tuple[Any, ...], Any] = Coalescer(
            self._send_commands, timeout=COMMAND_TIMEOUT_SECONDS
        )
        self._session_seconds = session_seconds
        self._find_ended = find_ended
        self._is_live = is_live
        self._list_is_suspect = False

    def admit(self, user: UUID, session: UUID, rate: str) -> Admitted:
        """Decide on one request under the named rate, and count it if it is admitted."""
        if self._breaker.allows():
            try:
                admitted = self._ask_redis(user, session, rate)
            except (RedisError, TimeoutError) as error:
                self._note_failure(error)
            else:
                self._breaker.record_success()
                return admitted
        metrics.limiter_fallbacks.inc()
        return self._ask_postgresql(user, session, rate)

    def end(self, sessions: Iterable[UUID]) -> None:
        """Refuse sessions whose end is committed. If Redis does not answer now, its next list contains them."""
        try:
            self._publish(sessions)
        except RedisError as error:
            self._note_failure(error)

    def _ask_redis(self, user: UUID, session: UUID, rate: str) -> Admitted:
        if self._list_is_suspect:
            self._list_is_suspect = False  # reset first, because a failure below sets it again
            self._client.delete(LIST_KEY)
        answer = self._run_script(user, session, rate)
        if answer.verdict is Verdict.LIST_MISSING:
            self._publish(self._find_ended(), is_complete=True)
            answer = self._run_script(user, session, rate)
        if answer.verdict is Verdict.LIST_MISSING:  # another process deleted the list again
            answer = self._ask_postgresql(user, session, rate)
        return answer

    def _run_script(self, user: UUID, session: UUID, rate: str) -> Admitted:
        item = self._rate_limits.items[rate]
        window = item.get_expiry() * 1000
        number, passed = divmod(int(time.time() * 1000), window)
        counter = f"rate:{rate}:{user}:"
        keys = LIST_KEY, _end_key(session), f"{counter}{number}", f"{counter}{number - 1}"
        arguments = len(keys), *keys, item.amount, window, passed
        try:
            verdict, now, before = self._commands.submit(("EVALSHA", SCRIPT_SHA, *arguments))
        except NoScriptError:  # Redis was restarted or wiped
            verdict, now, before = self._commands.submit(("EVAL", SCRIPT, *arguments))
        is_exceeded = verdict == Verdict.RATE_EXCEEDED
        remaining = item.amount - math.ceil(now + before * (window - passed) / window)
        wait = _milliseconds_until_room(item.amount, window, passed, now, before) if is_exceeded else window - passed
        standing = Standing(rate, item, is_exceeded, max(0, remaining), math.ceil(wait / 1000))
        return Admitted(Verdict(verdict), standing)

    def _send_commands(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """The answers of Redis, over one permanent connection. The client's pool costs more than the command."""
        answers: list[Any] = []
        try:
            if self._connection is None:
                self._connection = self._client.connection_pool.get_connection()
            self._connection.send_packed_command(self._connection.pack_commands(commands))
            while len(answers) < len(commands):
                answers.append(self._read_answer())
        except RedisError as error:  # the connection closes, and opens again with the next command
            answers += [error] * (len(commands) - len(answers))
        return answers

    def _read_answer(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:  # the answer to one question
            return error

    def _ask_postgresql(self, user: UUID, session: UUID, rate: str) -> Admitted:
        if not self._is_live(session):
            return Admitted(Verdict.SESSION_ENDED, Standing(rate, self._rate_limits.items[rate], False, 0, 0))
        standing = self._rate_limits.hit_in_memory(rate, str(user))
        return Admitted(Verdict.RATE_EXCEEDED if standing.is_exceeded else Verdict.ADMITTED, standing)

    def _publish(self, sessions: Iterable[UUID], *, is_complete: bool = False) -> None:
        with self._client.pipeline(transaction=True) as pipeline:  # the whole list, or nothing
            for session in sessions:
                pipeline.set(_end_key(session), 1, ex=self._session_seconds)
            if is_complete:
                pipeline.set(LIST_KEY, 1, ex=LIST_SECONDS)
            pipeline.execute()

    def _note_failure(self, error: Exception) -> None:
        self._list_is_suspect = True
        self._breaker.record_failure(error)


def _milliseconds_until_room(allowed: int, window: int, passed: int, now: int, before: int) -> float:
    """How long until the sliding count leaves room for one more request, if nobody else sends one."""
    room = allowed - 1 - now
    if room >= 0:  # the window before counts too much, until enough of it has slid away
        return window * (1 - room / before) - passed
    return window - passed + window * (1 - (allowed - 1) / now)


def _end_key(session: UUID) -> str:
    return f"session-ended:{session}"


ADMISSION = AppKey[Admission]("admission")


def admission() -> Admission:
    """The admission of the current application."""
    return ADMISSION.get()
