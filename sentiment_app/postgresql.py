"""How long anything waits for PostgreSQL: every wait has an end, also for a server that hangs rather than dies."""

import select
import time
from typing import Any

import psycopg2
from psycopg2 import extensions

from sentiment_app.config import Settings

CONNECT_SECONDS = 3.0
# Beyond the bound on a statement, which the server itself watches while it can.
GRACE_SECONDS = 2.0
# A peer that vanished without a word is noticed after this many seconds, and this many questions a second apart.
SILENCE_SECONDS, PROBES = 5, 5


def options(settings: Settings) -> dict[str, Any]:
    """Engine options that bound the waits for a connection, a statement and the network (libpq, section 32.1.2)."""
    patience = int(settings.database_retry_seconds * 1000) or 1
    return {
        "hide_parameters": True,
        "pool_timeout": settings.database_retry_seconds,
        "connect_args": {
            "application_name": "sentiment",
            "tcp_user_timeout": patience,
            "keepalives_idle": SILENCE_SECONDS,
            "keepalives_interval": 1,
            "keepalives_count": PROBES,
            "options": f"-c statement_timeout={settings.database_statement_seconds * 1000:.0f}",
        },
    }


def bound_waits(settings: Settings) -> None:
    """Bound this process's waits for an answer: of a server that is stopped, neither its clock nor TCP tells.

    psycopg2 closes a connection whose wait ended in an error (psycopg2 manual, "coroutine libraries").
    """

    def wait(connection: Any) -> None:
        connecting = connection.status == extensions.STATUS_SETUP
        seconds = CONNECT_SECONDS if connecting else settings.database_statement_seconds + GRACE_SECONDS
        deadline = time.monotonic() + seconds
        while (state := connection.poll()) != extensions.POLL_OK:
            socket = select.poll()
            socket.register(connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
            if not socket.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise psycopg2.OperationalError("the server does not answer")

    extensions.set_wait_callback(wait)


def wait_as_long_as_it_takes() -> None:
    """Unbound this process's waits: a migration takes its time."""
    extensions.set_wait_callback(None)
