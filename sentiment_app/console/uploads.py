"""The page to upload a file."""

import itertools
from typing import Any

from flask import Response, request

from sentiment_app.console.forms import IgnoresEmpty
from sentiment_app.console.pages import blueprint, go_to, page, render
from sentiment_app.tasks import quotas, upload
from sentiment_app.tasks.schemas import FileQuerySchema, UploadQuerySchema
from sentiment_app.tasks.submission import Submission
from sentiment_app.tasks.upload import MULTIPART
from sentiment_app.web import cookies
from sentiment_app.web.guard import caller
from sentiment_app.web.schemas import Text

ENCODINGS = ("utf-8", "cp1252", "iso-8859-15", "cp1250", "utf-16", "cp932", "gb18030", "koi8-r")
DELIMITERS = ("comma", "semicolon", "tab", "pipe", "space")


class FileFormSchema(IgnoresEmpty, UploadQuerySchema):
    """How a file is read. Empty fields are detected."""

    csrf_token = Text(load_default=None, load_only=True)


@blueprint.get("/files")
@page()
def files() -> Response:
    """The form to upload a file."""
    return _page()


@blueprint.post("/files/preview")
@page(streams=(MULTIPART,))
def preview_file() -> Response:
    """Show how a file would be read. Scripts send only the beginning of a large file."""
    schema = FileFormSchema()
    with upload.receive(schema, schema.load({})) as file:
        _check_csrf_token(file)
        options = {name: file.options[name] for name in (*FileQuerySchema().fields, "keep")}
        return _page(preview=file.preview(), options=options)


@blueprint.post("/files")
@page(streams=(MULTIPART,), before=lambda: quotas.check(caller().user_id, None))
def upload_file() -> Response:
    """Create a task from a file, and show it."""
    schema = FileFormSchema()
    with upload.receive(schema, schema.load({})) as file:
        _check_csrf_token(file)
        task = file.submit(Submission(caller().user_id, file.options["model"], file.options["webhook_url"]))
    return go_to("task", task_id=task.id)


def _check_csrf_token(file: upload.Upload) -> None:
    cookies.check_csrf_token(request.headers.get(cookies.HEADER) or file.options["csrf_token"])


def _page(preview: dict[str, Any] | None = None, options: dict[str, Any] | None = None) -> Response:
    columns = list(itertools.islice(preview["format"].get("columns") or [], 100)) if preview else []
    return render(
        "files.html",
        preview=preview,
        options=options or {},
        columns=columns,
        encodings=ENCODINGS,
        delimiters=DELIMITERS,
    )
