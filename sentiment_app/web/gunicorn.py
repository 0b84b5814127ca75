"""Gunicorn's worker and logger classes. `deploy/gunicorn.conf.py` sets the values."""

import contextlib
import json
import time
from http import HTTPStatus
from multiprocessing.sharedctypes import RawArray
from typing import Any

import structlog
import uuid_utils.compat as uuid
from flask import Flask, Response
from gunicorn.glogging import Logger
from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import ThreadWorker

from sentiment_app.errors import MalformedError
from sentiment_app.infrastructure.app_state import START
from sentiment_app.web import problems

STATUSES = {LimitRequestLine: 414, ExpectationFailed: 417, LimitRequestHeaders: 431, UnsupportedTransferCoding: 501}

log = structlog.get_logger()


class QuietLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Writes no access log: the application logs each request, and knows more about it."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Do nothing."""


class ProblemWorker(ThreadWorker):  # type: ignore[misc]  # as above
    """Answers requests that are not valid HTTP with a problem. Gunicorn's answer and log line would quote them."""

    OWN_ERRORS = InvalidResponseHeader, InvalidResponseHeaderName
    """Headers that the application must not send. Gunicorn raises them as ParseException, too."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that gunicorn could not parse."""
        if isinstance(exc, ParseException) and not isinstance(exc, self.OWN_ERRORS):
            with contextlib.suppress(OSError):  # the client has closed the connection
                write_nonblock(client, bad_request_response(exc))
        else:
            super().handle_error(req, client, addr, exc)


class BalancedWorker(ProblemWorker):
    """Leaves a new connection to a worker process that has fewer connections.

    Without this, the process that wakes up first accepts all waiting connections. Clients keep their connections, so
    that process would stay busy while others idle.
    """

    SLOTS, EMPTY = 256, -1
    MAX_WAIT_SECONDS, POLL_SECONDS = 0.003, 0.0003
    connections = RawArray("i", [EMPTY] * SLOTS)
    """The number of connections of each worker, by the worker's age. All processes share it."""

    def notify(self) -> None:
        """Report that this worker is alive, as gunicorn does in each round of its loop, and its connections."""
        self.report(self.nr_conns if self.alive else self.EMPTY)
        super().notify()

    def report(self, connections: int) -> None:
        """Tell the other workers how many connections this worker has."""
        self.connections[self.age % self.SLOTS] = connections

    def accept(self, listener: Any) -> None:
        """Accept a connection, unless a worker with fewer connections does so first."""
        deadline = time.monotonic() + self.MAX_WAIT_SECONDS
        while self.nr_conns > self.fewest_connections() and time.monotonic() < deadline:
            time.sleep(self.POLL_SECONDS)
        super().accept(listener)
        self.report(self.nr_conns)

    def fewest_connections(self) -> int:
        """The number of connections of the least busy worker."""
        return min(int(number) for number in self.connections if number != self.EMPTY)


def start(app: Flask) -> None:
    """Prepare the application of a worker process for its first request."""
    app.register_error_handler(ParseException, _body_error)  # gunicorn raises it while the application reads a body
    START.get(app)()


def bad_request_response(error: ParseException) -> bytes:
    """A complete response, with a problem, to bytes that gunicorn cannot parse as a request.

    Neither the response nor the log quotes the bytes: after a wrong Content-Length they can be a customer's text.
    """
    status, request_id = HTTPStatus(STATUSES.get(type(error), 400)), str(uuid.uuid7())
    log.warning("bad_request", error=type(error).__name__, status=status, request_id=request_id)
    members = {"instance": f"urn:uuid:{request_id}", "request_id": request_id}
    body = json.dumps(problems.document(status, "The request is not valid HTTP.", None, members))
    return (
        f"HTTP/1.1 {status} {status.phrase}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-ID: {request_id}\r\n\r\n{body}"
    ).encode()


def _body_error(error: ParseException) -> Response:
    return problems.to_response(MalformedError("The body is not valid chunked encoding (RFC 9112, section 7.1)."))
