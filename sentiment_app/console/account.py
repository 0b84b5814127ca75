"""Pages about the caller's account: API keys, usage, sessions, profile, and the end of the account."""

import datetime as dt
from collections import Counter
from typing import Any
from uuid import UUID

from flask import Response
from marshmallow import fields, validate

from sentiment_app.console import charts
from sentiment_app.console.pages import blueprint, go_to, page, render
from sentiment_app.feedback import service as feedback
from sentiment_app.privacy import service as privacy
from sentiment_app.privacy.schemas import ErasureSchema
from sentiment_app.usage import quotas
from sentiment_app.usage import service as usage_service
from sentiment_app.users import administration, api_keys, schemas, service, sessions
from sentiment_app.web import cookies
from sentiment_app.web.guard import caller
from sentiment_app.web.operation import ADMINISTRATOR_SCOPES, SCOPES
from sentiment_app.web.schemas import Schema

USAGE_DAYS, MAX_LISTED = 30, 500


class DaysQuerySchema(Schema):
    """How many days a chart shows."""

    days = fields.Integer(load_default=USAGE_DAYS, validate=validate.Range(1, usage_service.MAX_DAYS))


@blueprint.get("/keys")
@page()
def keys() -> Response:
    """The API keys of the caller."""
    return _keys()


@blueprint.post("/keys")
@page(rates=("user", "profile"), form=schemas.ApiKeyGrantSchema())
def create_key(form: dict[str, Any]) -> Response:
    """Create an API key, and show it once."""
    password = form.pop("current_password")
    return _keys(service.create_api_key(caller().user_id, password, schemas.to_grant(form)))


@blueprint.post("/keys/<uuid:key_id>/rotate")
@page(rates=("user", "profile"), form=schemas.RotationSchema())
def rotate_key(key_id: UUID, form: dict[str, Any]) -> Response:
    """Replace an API key, and show the new key once."""
    return _keys(service.rotate_api_key(caller().user_id, key_id, **form))


@blueprint.post("/keys/<uuid:key_id>/revoke")
@page()
def revoke_key(key_id: UUID) -> Response:
    """Revoke an API key."""
    api_keys.revoke(caller().user_id, key_id)
    return go_to("keys")


def _keys(made: api_keys.NewKey | None = None) -> Response:
    found = api_keys.list_keys(caller().user_id)
    now = dt.datetime.now(dt.UTC)
    return render("keys.html", keys=found, made=made, scopes=SCOPES, administrator_scopes=ADMINISTRATOR_SCOPES, now=now)


@blueprint.get("/usage")
@page(query=DaysQuerySchema())
def usage(query: dict[str, Any]) -> Response:
    """How many rows the caller has scored."""
    today = dt.datetime.now(dt.UTC).date()
    days = [today - dt.timedelta(days=age) for age in reversed(range(query["days"]))]
    items = usage_service.list_daily(caller().user_id, days[0], today)
    versions = sorted({item.model_version for item in items})
    counted: Counter[tuple[dt.date, str]] = Counter()
    for item in items:
        counted[item.day, item.model_version] += item.rows
    stacks = [[counted[day, version] for version in versions] for day in days]
    return render(
        "usage.html",
        items=items[:MAX_LISTED],
        days=days,
        versions=versions,
        chart=charts.columns(stacks),
        total=sum(item.rows for item in items),
        quotas=quotas.list_used(caller().user_id),
        keys={key.id: key.name for key in api_keys.list_keys(caller().user_id)},
    )


@blueprint.get("/account")
@page()
def account() -> Response:
    """The profile, the sessions and the feedback of the caller."""
    found = sessions.list_live(caller().user_id)
    texts = feedback.count(caller().user_id)
    return render("account.html", sessions=found, current_id=caller().credential_id, feedback_texts=texts)


@blueprint.post("/account")
@page(rates=("user", "profile"), form=schemas.ProfileChangeSchema())
def change_account(form: dict[str, Any]) -> Response:
    """Change the profile. A new password ends the other sessions."""
    service.change_profile(caller().user_id, caller().credential_id, form)
    return go_to("account")


@blueprint.post("/account/sessions/end-others")
@page()
def end_other_sessions() -> Response:
    """End all sessions of the caller except this session."""
    sessions.end_others(caller().user_id, caller().credential_id)
    return go_to("account")


@blueprint.post("/account/sessions/<uuid:session_id>/end")
@page()
def end_session(session_id: UUID) -> Response:
    """End a session of the caller."""
    sessions.end_own(caller().user_id, session_id)
    return go_to("account")


@blueprint.post("/account/delete")
@page(rates=("user", "profile"), form=ErasureSchema())
def delete_account(form: dict[str, Any]) -> Response:
    """Delete the caller's account, and erase everything that belongs to it."""
    administration.delete_own(caller().user_id, **form)
    privacy.erase(caller().user_id)
    response = go_to("sign_in_form", done="deleted")
    cookies.remove(response)
    return response
