"""Pages for administrators: accounts, invitations and the audit log."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import Response, url_for

from sentiment_app.audit import service as audit
from sentiment_app.audit.schemas import EVENTS, AuditQuerySchema
from sentiment_app.console.forms import IgnoresEmpty
from sentiment_app.console.pages import blueprint, go_to, page, render
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.privacy import service as privacy
from sentiment_app.users import administration, one_time_tokens, schemas, service
from sentiment_app.users import sessions as user_sessions
from sentiment_app.users.one_time_tokens import NewToken, Purpose
from sentiment_app.web import cookies
from sentiment_app.web.guard import caller
from sentiment_app.web.schemas import PageQuerySchema, Schema, paged


class AuditFormSchema(IgnoresEmpty, AuditQuerySchema):
    """Selects a part of the audit log."""


@blueprint.get("/team")
@page(access="administrator", query=PageQuerySchema())
def team(query: dict[str, Any]) -> Response:
    """The list of accounts."""
    return _team(query)


@blueprint.post("/team/invitations")
@page(access="administrator", form=schemas.InvitationSchema())
def invite(form: dict[str, Any]) -> Response:
    """Make an invitation, and show its link once."""
    made = one_time_tokens.create(Purpose.INVITATION, None, timedelta(days=form["expires_in_days"]))
    link = cookies.own_origin() + url_for("console.registration_form", invitation=made.token)
    return _team(PageQuerySchema().load({}), link=link, made=made)


@blueprint.post("/team/<uuid:user_id>")
@page(access="administrator", form=schemas.UserChangeSchema())
def change_user(user_id: UUID, form: dict[str, Any]) -> Response:
    """Change the rights or the quotas of an account, or whether it is active."""
    administration.administer(user_id, form, by=caller().user_id)
    return go_to("team")


@blueprint.post("/team/<uuid:user_id>/password-reset")
@page(access="administrator", form=schemas.ResetStartSchema())
def reset_password(user_id: UUID, form: dict[str, Any]) -> Response:
    """Make a link with which a user chooses a new password, and show it once."""
    life = timedelta(hours=form["expires_in_hours"])
    made = administration.start_password_reset(user_id, life, by=caller().user_id)
    link = cookies.own_origin() + url_for("console.password_form", token=made.token)
    return _team(PageQuerySchema().load({}), link=link, made=made)


@blueprint.post("/team/<uuid:user_id>/sessions/end")
@page(access="administrator")
def end_sessions(user_id: UUID) -> Response:
    """End all sessions of an account."""
    user_sessions.end_all(service.get(user_id).id)
    return go_to("team")


@blueprint.post("/team/<uuid:user_id>/delete")
@page(access="administrator")
def delete_user(user_id: UUID) -> Response:
    """Delete an account, and erase everything that belongs to it."""
    administration.delete(user_id, by=caller().user_id)
    privacy.erase(user_id)
    return go_to("team")


def _team(query: dict[str, Any], link: str | None = None, made: NewToken | None = None) -> Response:
    found = paged(service.page, query)
    return render(
        "team.html",
        users=found["items"],
        next_cursor=_cursor(PageQuerySchema(), found["next_cursor"]),
        link=link,
        made=made,
        registration=settings().registration,
    )


@blueprint.get("/audit")
@page(access="administrator", query=AuditFormSchema())
def audit_log(query: dict[str, Any]) -> Response:
    """The audit log."""
    found = paged(audit.page, query)
    return render(
        "audit.html",
        entries=found["items"],
        events=EVENTS,
        chosen=query["event"],
        next_cursor=_cursor(AuditQuerySchema(), found["next_cursor"]),
    )


def _cursor(schema: Schema, cursor: UUID | None) -> str | None:
    shown: str | None = schema.fields["cursor"].serialize("cursor", {"cursor": cursor})
    return shown
