"""Uploaded files: the body of a request or a file in a form, with the options that say how to read it."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple, cast

from flask import Flask, request
from werkzeug.http import parse_options_header

from sentiment_app.errors import UnavailableError
from sentiment_app.files.reader import (
    CSV,
    CSV_TYPES,
    JSON,
    NDJSON,
    NDJSON_TYPES,
    PARQUET,
    PARQUET_TYPES,
    XLSX,
    Format,
    recognize,
)
from sentiment_app.infrastructure.app_state import SETTINGS, AppKey, settings
from sentiment_app.infrastructure.concurrency import ConcurrencyLimit
from sentiment_app.tasks import submission
from sentiment_app.tasks.models import Task
from sentiment_app.tasks.request_body import Body, FormFile, HashingStream, watch_sender
from sentiment_app.tasks.submission import Submission
from sentiment_app.web.guard import holders
from sentiment_app.web.problems import UnsupportedMediaTypeError
from sentiment_app.web.schemas import Schema, load

MULTIPART = "multipart/form-data"

# Uploads that are in progress. Each occupies a thread for a long time.
UPLOADS = AppKey[ConcurrencyLimit]("uploads")
# Files that another process reads. Each occupies memory: the file, and up to 320 MB.
CONVERSIONS = AppKey[ConcurrencyLimit]("conversions")


class TooManyUploadsError(UnavailableError):
    """Too many uploads are in progress."""

    detail = "Too many uploads are in progress. Retry in a few seconds."


class Upload(NamedTuple):
    """A file in the body of a request, and how to read it."""

    stream: HashingStream
    media_type: str
    compression: str | None
    options: dict[str, Any]
    parameters: Mapping[str, str]
    """The parameters of its Content-Type."""
    identity: str
    """Its Content-Type, or what identifies a form with the same file and options."""

    def format(self) -> Format:
        """How to read the file."""
        options = {name: self.options[name] for name in ("column", "id_column", "delimiter", "encoding", "sheet")}
        options["encoding"] = options["encoding"] or self.parameters.get("charset")
        header = self.options["header"] or self.parameters.get("header", "").lower()
        return Format(
            self.media_type,
            **options,
            has_header=header != "absent",
            compression=self.compression,
            keeps_columns=self.options.get("keep") == "columns",
        )

    def fingerprint(self) -> str:
        """Identifies the request. Reads the rest of the file."""
        return fingerprint(self.stream.digest(), self.identity)

    def submit(self, to_submit: Submission) -> Task:
        """Create a task from the file, or find the task of an earlier request with the same Idempotency-Key."""
        earlier = submission.find_by_idempotency_key(to_submit)
        if earlier:
            self.stream.drain()
            return submission.find_replay(to_submit, self.fingerprint()) or earlier
        stream, acquire = cast(IO[bytes], self.stream), CONVERSIONS.get().acquire
        return submission.submit_file(to_submit, stream, self.format(), self.fingerprint, acquire)

    def preview(self) -> dict[str, Any]:
        """How the file is read. The fields of PreviewSchema."""
        return submission.preview_file(cast(IO[bytes], self.stream), self.format(), CONVERSIONS.get().acquire)


def init_app(app: Flask) -> None:
    """Give the application its limits on uploads."""
    limit = SETTINGS.get(app).max_held_requests
    UPLOADS.set(app, ConcurrencyLimit(limit, TooManyUploadsError))
    CONVERSIONS.set(app, ConcurrencyLimit(1, TooManyUploadsError, waiting=limit))


@contextlib.contextmanager
def receive(schema: Schema, query: dict[str, Any]) -> Iterator[Upload]:
    """The file in the body of the current request, within the limits on uploads. For the arguments, see open_upload."""
    with UPLOADS.get().acquire(*holders()), watch_sender(settings().upload_seconds) as body:
        yield open_upload(schema, query, body)


def fingerprint(content: bytes, content_type: str | None = None) -> str:
    """Identifies a request by its URL, its headers about the content, and the content."""
    type_ = request.content_type if content_type is None else content_type
    parts = request.full_path, type_ or "", request.headers.get("Content-Encoding", "")
    return hashlib.sha256("\n".join(parts).encode(errors="replace") + b"\n" + content).hexdigest()


def open_upload(schema: Schema, query: dict[str, Any], content: Body) -> Upload:
    """The file in `content`, the body of the request, with its options from the URL and from the fields of a form.

    Raises:
        UnsupportedMediaTypeError: the type of the file or its compression is not supported.
        MalformedError, InvalidFieldsError: the form is not valid.
    """
    compression = _compression()
    request.max_content_length = settings().max_upload_bytes
    body = HashingStream(cast(IO[bytes], content), request.content_length)
    if request.mimetype != MULTIPART:
        media_type = _media_type(request.mimetype)
        return Upload(body, media_type, compression, query, request.mimetype_params, request.content_type or "")
    if compression:
        raise UnsupportedMediaTypeError("A form cannot be compressed. Compress the file in it, and name it .csv.gz.")
    form = FormFile(cast(IO[bytes], body), request.mimetype_params.get("boundary", ""))
    fields = load(schema, form.fields, "body")
    mimetype, parameters = parse_options_header(form.content_type)
    media_type, compression = recognize(form.filename) or (_media_type(mimetype), None)
    options = {name: value if fields[name] is None else fields[name] for name, value in query.items()}
    # The boundary of a form differs each time that the form is sent, so it does not identify the request.
    identity = f"{MULTIPART} {media_type} {compression} {sorted([*options.items(), *parameters.items()], key=str)}"
    return Upload(HashingStream(cast(IO[bytes], form), None), media_type, compression, options, parameters, identity)


def _media_type(mimetype: str) -> str:
    types = {NDJSON: NDJSON_TYPES, CSV: CSV_TYPES, JSON: (JSON,), XLSX: (XLSX,), PARQUET: PARQUET_TYPES}
    found = next((name for name, names in types.items() if mimetype in names), None)
    if found is None:
        raise UnsupportedMediaTypeError(
            "Files may be CSV, NDJSON, a JSON array, an Excel workbook or Parquet. Send the file with Content-Type "
            f"{CSV}, {NDJSON}, {JSON}, {XLSX} or {PARQUET}, or in a form with a filename that ends in .csv, .ndjson, "
            ".json, .xlsx or .parquet."
        )
    return found


def _compression() -> str | None:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    compressions = {"identity": None, "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
    if encoding not in compressions:
        raise UnsupportedMediaTypeError("The Content-Encoding is not supported. Use gzip or zstd, or omit the header.")
    return compressions[encoding]
