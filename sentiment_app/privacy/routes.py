"""/users: export and erase the data of accounts."""

from typing import Any
from uuid import UUID

import orjson
from flask import Blueprint, Response

from sentiment_app.files.reader import NDJSON
from sentiment_app.privacy import schemas, service
from sentiment_app.tasks.downloads import stream_download
from sentiment_app.users import administration
from sentiment_app.web.guard import caller
from sentiment_app.web.operation import operation

blueprint = Blueprint("privacy", __name__, url_prefix="/users")


@blueprint.get("/me/export")
@operation(media_types=(NDJSON,))
def export() -> Response:
    """Export everything that belongs to your account, as NDJSON.

    The `kind` of each object says what it is: the account, a former username, a session, an API key, an event of the
    audit log about the account, a text of the history, feedback, a task, a delivery to its webhook, or a row of a task.
    """
    lines = (orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE) for entry in service.export(caller().user_id))
    return stream_download(lines, NDJSON, "export.ndjson")


@blueprint.delete("/me")
@operation(rates=("user", "profile"), body=schemas.ErasureSchema(), status=204, errors=(403, 409))
def erase_own(body: dict[str, Any]) -> None:
    """Delete your account, and erase everything that belongs to it.

    Your sessions and API keys end at once. Large amounts of data are erased within a day.
    """
    administration.delete_own(caller().user_id, **body)
    service.erase(caller().user_id)


@blueprint.delete("/<uuid:user_id>")
@operation(scopes=("admin",), access="administrator", status=204, errors=(409,))
def erase(user_id: UUID) -> None:
    """Delete an account, and erase everything that belongs to it, within a day."""
    administration.delete(user_id, by=caller().user_id)
    service.erase(user_id)
