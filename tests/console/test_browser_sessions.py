"""Signing in to the console: the cookie and its session, links for passwords, and errors as pages."""

import re
from datetime import timedelta
from http.cookies import SimpleCookie

import pytest
from harness import PASSWORD
from sqlalchemy import func, select, update

from sentiment_app.auth import tokens
from sentiment_app.infrastructure.database import db
from sentiment_app.users import administration, one_time_tokens, sessions
from sentiment_app.users import service as users
from sentiment_app.users.models import Session
from sentiment_app.users.one_time_tokens import Purpose
from sentiment_app.web import cookies


def cookie_of(answer):
    parsed = SimpleCookie()
    for header in answer.headers.getlist("Set-Cookie"):
        parsed.load(header)
    return parsed[cookies.NAME]


def test_visitor_is_asked_to_sign_in_and_then_sees_the_page(browser, ada):
    answer = browser.get("/keys")
    assert (answer.status_code, "Sign in" in answer.text) == (401, True)
    assert 'name="target" value="/console/keys"' in answer.text
    answer = browser.sign_in(target="/console/keys")
    assert (answer.status_code, answer.location) == (303, "/console/keys")
    assert browser.get("/keys").status_code == 200


@pytest.mark.asvs("3.3.1", "3.3.2", "3.3.3", "3.3.4", "7.2.3")
def test_cookie_is_random_and_only_for_this_host(browser, ada):
    before = cookie_of(browser.get("/sign-in"))
    after = cookie_of(browser.sign_in())
    assert after.key == "__Host-sentiment"
    assert (after["secure"], after["httponly"], after["samesite"], after["path"]) == (True, True, "Strict", "/")
    assert after["domain"] == ""
    assert before.value != after.value
    assert len(after.value) >= 43
    assert db.session.scalar(select(func.count()).where(Session.cookie_hash == after.value.encode())) == 0


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example/console/", "/\\evil.example", "/docs", "x", ""]
)
def test_sign_in_never_leads_to_another_site(browser, ada, target):
    assert browser.sign_in(target=target).location == "/console"


def test_wrong_password_shows_the_form_again(browser, ada):
    answer = browser.sign_in(password="wrong wrong wrong", target="/console/tasks")
    assert (answer.status_code, "The username or the password is wrong." in answer.text) == (401, True)
    assert 'value="/console/tasks"' in answer.text
    assert browser.get("").status_code == 401


@pytest.mark.asvs("7.4.1")
def test_signing_out_ends_the_session_in_all_tabs(browser, ada, app):
    browser.sign_in()
    copied = browser.client.get_cookie(cookies.NAME, path="/").value
    answer = browser.post("/sign-out")
    assert (answer.status_code, answer.location) == (303, "/console/sign-in?done=signed-out")
    thief = app.test_client()
    thief.set_cookie(cookies.NAME, copied, secure=True, path="/")
    for client in (browser.client, thief):
        assert client.get("/console/keys").status_code == 401


def test_ended_session_is_asked_to_sign_in(open_browser, ada):
    browser = open_browser(ada)
    sessions.end_all(ada.id)
    assert browser.get("").status_code == 401
    # A script cannot show the form. It reloads the page.
    answer = browser.get("/tasks", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Refresh"]) == (401, "true")


def test_deactivated_user_is_signed_out(open_browser, ada, admin):
    browser = open_browser(ada)
    administration.administer(ada.id, {"is_active": False}, by=admin.id)
    assert browser.get("").status_code == 401


def test_idle_session_ends(open_browser, ada):
    browser = open_browser(ada)
    assert browser.get("").status_code == 200
    db.session.execute(update(Session).values(expires_at=func.now() - timedelta(seconds=1)))
    db.session.commit()
    tokens.VERIFIED_COOKIES.get().clear()
    assert browser.get("").status_code == 401


def test_use_extends_the_session_up_to_its_absolute_end(open_browser, ada):
    browser = open_browser(ada)
    soon = func.now() + timedelta(minutes=5)
    db.session.execute(update(Session).values(expires_at=soon))
    db.session.commit()
    tokens.VERIFIED_COOKIES.get().clear()
    assert browser.get("").status_code == 200
    session = sessions.list_live(ada.id)[0]
    db.session.refresh(session)
    assert session.expires_at - session.last_used_at > timedelta(days=1)
    db.session.execute(update(Session).values(created_at=func.now() - timedelta(days=3650)))
    db.session.commit()
    tokens.VERIFIED_COOKIES.get().clear()
    browser.get("")
    tokens.VERIFIED_COOKIES.get().clear()
    assert browser.get("").status_code == 401


def test_cookie_cannot_be_used_for_the_api(ada_browser):
    assert ada_browser.client.get("/api/v1/users/me").status_code == 401
    assert ada_browser.client.post("/api/v1/sentiment/analyze", json={"text": "good"}).status_code == 401


def test_token_cannot_be_used_for_the_console(client, as_ada):
    assert client.get("/console", headers=as_ada).status_code == 401


def test_console_session_is_listed_and_has_no_refresh_token(ada_browser, ada):
    assert "this session" in ada_browser.get("/account").text
    assert sessions.list_live(ada.id)[0].cookie_hash is not None


def test_registration_signs_in(browser):
    answer = browser.post("/register", {"username": "grace", "email": "grace@example.org", "password": PASSWORD})
    assert (answer.status_code, answer.location) == (303, "/console")
    assert "grace" in browser.get("").text


def test_invitation_link_registers_once(make_app, app):
    made = one_time_tokens.create(Purpose.INVITATION, None, timedelta(days=1))
    closed = make_app(registration="invitation").test_client()
    assert "link of an invitation" in closed.get("/console/register").text
    page = closed.get(f"/console/register?invitation={made.token}").text
    token = re.search(r'csrf_token" value="(\w+)"', page)[1]
    form = {"csrf_token": token, "invitation": made.token, "password": PASSWORD}
    for name, status in (("grace", 303), ("alan", 403)):
        answer = closed.post(
            "/console/register",
            data={**form, "username": name, "email": f"{name}@example.org"},
            headers={"Origin": "http://localhost"},
        )
        assert answer.status_code == status


def test_password_link_works_once(browser, ada, app):
    made = administration.start_password_reset(ada.id, timedelta(hours=1))
    assert made.token in browser.get(f"/password?token={made.token}").text
    answer = browser.post("/password", {"token": made.token, "password": "another horse battery"})
    assert (answer.status_code, answer.location) == (303, "/console")
    answer = browser.post("/password", {"token": made.token, "password": "a third horse battery"})
    assert (answer.status_code, "used before" in answer.text) == (403, True)
    assert users.authenticate("ada", "another horse battery")


def test_welcome_link_is_printed_until_an_administrator_signs_in(app, browser):
    def welcome():
        return app.test_cli_runner().invoke(args=["user", "welcome", "--url", "https://sentiment.example.org/"])

    link = welcome().output.strip()
    assert link.startswith("https://sentiment.example.org/console/password?token=")
    assert welcome().output.strip() not in ("", link)
    assert (
        browser.post("/password", {"token": link.partition("=")[2], "password": "another horse battery"}).status_code
        == 303
    )
    assert "Team" in browser.get("").text
    done = welcome()
    assert (done.exit_code, done.output) == (0, "")


def test_no_welcome_link_if_an_administrator_has_a_password(app, admin):
    done = app.test_cli_runner().invoke(args=["user", "welcome", "--url", "https://sentiment.example.org"])
    assert (done.exit_code, done.output) == (0, "")
    assert users.find("admin") is None


def test_account_without_a_password_cannot_sign_in(app, browser):
    app.test_cli_runner().invoke(args=["user", "welcome", "--url", "https://sentiment.example.org"])
    assert users.find("admin").is_superuser
    for password in ("", " ", "admin", PASSWORD):
        assert browser.sign_in("admin", password).status_code in (401, 422)


def test_ordinary_user_named_admin_is_not_taken_for_the_administrator(app, make_user):
    make_user("admin")
    done = app.test_cli_runner().invoke(args=["user", "welcome", "--url", "https://sentiment.example.org"])
    assert (done.exit_code, "Another account has this username" in done.output) == (1, True)
    assert not users.find("admin").is_superuser


def test_password_link_of_a_command_is_for_one_user(app, ada):
    runner = app.test_cli_runner()
    link = runner.invoke(args=["user", "password-link", "ada", "--url", "http://127.0.0.1:8000"]).output
    administration.finish_password_reset(link.strip().partition("=")[2], "another horse battery")
    assert users.authenticate("ada", "another horse battery")
    assert runner.invoke(args=["user", "password-link", "nobody", "--url", "http://127.0.0.1:8000"]).exit_code == 1


def test_link_from_another_site_keeps_the_session(ada_browser, app):
    """A browser sends no SameSite=Strict cookie after a click on another site. The page must not replace the cookie."""
    stranger = app.test_client()
    answer = stranger.get("/console/tasks", headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, 'http-equiv="refresh"' in answer.text) == (401, True)
    assert "Set-Cookie" not in answer.headers


def test_unknown_page_shows_the_request_id(ada_browser):
    answer = ada_browser.get("/nothing", headers={"Sec-Fetch-Mode": "navigate"})
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    assert answer.headers["X-Request-ID"] in answer.text


def test_browser_sees_errors_of_the_api_as_a_page_and_programs_do_not(client):
    for headers, mimetype in (
        ({"Sec-Fetch-Mode": "navigate"}, "text/html"),
        ({"Sec-Fetch-Mode": "cors"}, "application/problem+json"),
        ({"Accept": "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"}, "application/problem+json"),  # Java
        ({}, "application/problem+json"),
    ):
        answer = client.get("/api/v1/users/me", headers=headers)
        assert (answer.status_code, answer.mimetype) == (401, mimetype)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_error_page_needs_no_database(ada_browser, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("sentiment_app.users.service.get", fail)
    answer = ada_browser.get("/keys")
    assert (answer.status_code, answer.mimetype, "secret detail" in answer.text) == (500, "text/html", False)


def test_signing_in_again_ends_the_session_before(open_browser, ada, app):
    browser = open_browser(ada)
    before = browser.client.get_cookie(cookies.NAME, path="/").value
    assert browser.sign_in().status_code == 303
    other = app.test_client()
    other.set_cookie(cookies.NAME, before, secure=True, path="/")
    assert other.get("/console/keys").status_code == 401
    assert browser.get("/keys").status_code == 200


def test_cookie_is_no_bearer_token(ada_browser):
    cookie = ada_browser.client.get_cookie(cookies.NAME, path="/").value
    assert ada_browser.get("/keys").status_code == 200
    for token in (cookie, f"cookie {cookie}"):
        answer = ada_browser.client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401


@pytest.mark.parametrize(
    "target", ["//[", "http://[x", "/console/\r\nX-A: b", "/console/\0", "/console/../x//y", "/consolex"]
)
def test_hostile_target_leads_to_the_first_page(browser, ada, target):
    answer = browser.sign_in(target=target)
    assert (answer.status_code, answer.location if answer.status_code == 303 else "/console") in (
        (303, "/console"),
        (422, "/console"),
    )


@pytest.mark.parametrize("cookie", ["", "\xed\xa0\x80", "ü", "x" * 5000])
def test_odd_cookies_are_asked_to_sign_in(app, cookie):
    client = app.test_client(use_cookies=False)
    answer = client.get("/console", headers={"Cookie": f"{cookies.NAME}={cookie}"})
    assert answer.status_code == 401
    assert ("Set-Cookie" in answer.headers) == (cookie == "")


def test_large_form_of_a_stranger_is_refused(app):
    answer = app.test_client().post("/console/keys", data={"a": "x" * 600_000}, headers={"Origin": "http://localhost"})
    assert answer.status_code == 401
