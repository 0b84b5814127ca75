"""Downloads: files that are written while they are sent, within limits."""

import contextlib
import errno
from collections.abc import Iterator
from itertools import chain
from typing import Any
from uuid import UUID

import structlog
from flask import Flask, Response, stream_with_context
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.errors import AppError, UnavailableError
from sentiment_app.files.errors import FileError
from sentiment_app.files.reader import CSV, PARQUET_TYPES, XLSX
from sentiment_app.infrastructure.app_state import SETTINGS, AppKey
from sentiment_app.infrastructure.concurrency import ConcurrencyLimit
from sentiment_app.tasks import render
from sentiment_app.tasks.service import Results
from sentiment_app.web.guard import holders

# Each download occupies a thread for a long time. Parquet is written by another process, which occupies memory.
DOWNLOADS = AppKey[ConcurrencyLimit]("downloads")
PARQUET_DOWNLOADS = AppKey[ConcurrencyLimit]("parquet_downloads")

log = structlog.get_logger()


class TooManyDownloadsError(UnavailableError):
    """Too many downloads are in progress."""

    detail = "Too many downloads are in progress. Retry in a few seconds."


class DownloadFailedError(UnavailableError):
    """The process that writes the file failed."""

    detail = "The results cannot be written in this format at the moment. Retry later, or use CSV or NDJSON."


def init_app(app: Flask) -> None:
    """Give the application its limits on downloads."""
    DOWNLOADS.set(app, ConcurrencyLimit(SETTINGS.get(app).max_held_requests, TooManyDownloadsError))
    PARQUET_DOWNLOADS.set(app, ConcurrencyLimit(2, TooManyDownloadsError))


def stream_download(
    pieces: Iterator[str] | Iterator[bytes], media_type: str, filename: str | None = None, *limits: ConcurrencyLimit
) -> Response:
    """Stream a file, within the limit on downloads and further limits."""
    place = contextlib.ExitStack()
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(place.close)
        for limit in (DOWNLOADS.get(), *limits):
            place.enter_context(limit.acquire(*holders()))
        try:
            first = next(pieces, b"")  # an error before the first piece is answered with a problem
        except (FileError, OSError) as error:
            raise DownloadFailedError from error
        on_failure.pop_all()
    response = stream(chain([first], pieces), media_type)
    response.call_on_close(place.close)
    if filename:
        response.headers.set("Content-Disposition", "attachment", filename=filename)
    return response


def stream_results(
    opened: Results, media_type: str, task_id: UUID, *, with_header: bool = True, raw: bool = False
) -> Response:
    """Stream results as NDJSON, CSV, an Excel workbook or Parquet."""
    rows, included = opened.rows, opened.included
    if media_type == CSV:
        return stream_download(render.csv_table(rows, included, with_header=with_header, raw=raw), media_type)
    if media_type == XLSX:
        return stream_download(render.workbook(rows, included), media_type, f"results-{task_id}.xlsx")
    if media_type in PARQUET_TYPES:
        limit = PARQUET_DOWNLOADS.get()
        return stream_download(render.parquet(rows, included), media_type, f"results-{task_id}.parquet", limit)
    return stream_download(render.ndjson(rows, included), media_type)


def stream(pieces: Iterator[Any], media_type: str) -> Response:
    """A response in pieces."""
    # The log context of the request has ended when the first piece is sent.
    ids = structlog.contextvars.get_contextvars()
    return Response(stream_with_context(_reset_on_error(pieces, ids)), mimetype=media_type)


def _reset_on_error(pieces: Iterator[Any], ids: dict[str, Any]) -> Iterator[Any]:
    """The pieces. An error resets the connection, so that clients notice that the response is not complete.

    It is too late for a problem document. Gunicorn handles a reset connection without a traceback in the log, which
    could quote a row.
    """
    try:
        yield from pieces
    except (AppError, FileError, SQLAlchemyError) as error:
        log.warning("stream_reset", reason=type(error).__name__, **ids)
        raise ConnectionResetError(errno.ECONNRESET, "the response cannot be completed") from None
