"""What pages of other sites cannot do with the console: every write is refused without the token and the Origin."""

import io
import re
import uuid

import pytest
from harness import PASSWORD

from sentiment_app.web.operation import operation_of

ORIGIN = "http://localhost"


def writes(app):
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("console.") and "POST" in rule.methods:
            yield re.sub("<[^>]*>", str(uuid.uuid4()), rule.rule)


def pages(app):
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("console.") and rule.endpoint != "console.asset":
            yield rule


def send(browser, path, headers, token=None):
    data, kind = {"csrf_token": token} if token else {}, "application/x-www-form-urlencoded"
    if path in ("/console/files", "/console/files/preview"):
        data["file"], kind = (io.BytesIO(b"text\ngood\n"), "reviews.csv"), "multipart/form-data"
    return browser.client.post(path, data=data, headers=headers, content_type=kind)


@pytest.mark.asvs("3.5.1", "3.5.3")
def test_every_write_needs_the_token(app, admin_browser):
    paths = list(writes(app))
    assert len(paths) >= 25
    for path in paths:
        for token in (None, "0" * 64, "ü"):
            answer = send(admin_browser, path, {"Origin": ORIGIN}, token)
            assert (path, answer.status_code) == (path, 403), answer.text
            reason = "out of date" if path == "/console/sign-in" else "was not sent from a current page"
            assert reason in answer.text


@pytest.mark.asvs("3.5.1")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "https://localhost"},
        {"Origin": "http://[bad"},
        {"Origin": "http://localhost:80.evil.example"},
        {"Origin": "http://ada@localhost"},
        {"Origin": "http://localhost/console"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_every_write_needs_the_origin(app, admin_browser, headers):
    token = admin_browser.csrf_token()
    for path in writes(app):
        assert (path, send(admin_browser, path, headers, token).status_code) == (path, 403)


def test_token_of_another_session_is_refused(open_browser, ada, admin):
    stolen = open_browser(admin).csrf_token()
    answer = send(open_browser(ada), "/console/sign-out", {"Origin": ORIGIN}, stolen)
    assert answer.status_code == 403


def test_forwarded_port_is_accepted(ada_browser):
    """Vagrant forwards a port of the host that the service does not know."""
    headers = {"Origin": "http://localhost:8443", "Sec-Fetch-Site": "same-origin"}
    assert send(ada_browser, "/console/sign-out", headers, ada_browser.csrf_token()).status_code == 303


# What only administrators may do. Every other page is for everybody who has signed in.
ADMINISTRATION = {
    "GET /console/audit",
    "GET /console/team",
    "POST /console/models/<name:version>/activate",
    "POST /console/models/rollback",
    "POST /console/team/<uuid:user_id>",
    "POST /console/team/<uuid:user_id>/delete",
    "POST /console/team/<uuid:user_id>/password-reset",
    "POST /console/team/<uuid:user_id>/sessions/end",
    "POST /console/team/invitations",
}


@pytest.mark.asvs("8.2.1")
def test_only_these_pages_are_for_administrators(app, ada_browser, admin_browser):
    token, refused = ada_browser.csrf_token(), set()
    for rule in pages(app):
        for method in sorted(rule.methods - {"HEAD"}):
            path = re.sub("<[^>]*>", str(uuid.uuid4()), rule.rule)
            if rule.endpoint in ("console.sign_out", "console.end_other_sessions"):
                continue
            sent = {"headers": {"Origin": ORIGIN}, "data": {"csrf_token": token}} if method == "POST" else {}
            answer = ada_browser.client.open(path, method=method, **sent)
            if answer.status_code == 403:
                refused.add(f"{method} {rule.rule}")
    assert refused == ADMINISTRATION
    assert admin_browser.get("/team").status_code == admin_browser.get("/audit").status_code == 200


def test_every_view_of_the_console_is_a_page(app):
    for rule in pages(app):
        assert operation_of(app.view_functions[rule.endpoint]).page, rule


def test_no_view_outside_the_console_reads_the_cookie(app):
    outside = [rule for rule in app.url_map.iter_rules() if not rule.endpoint.startswith("console.")]
    assert outside
    assert not [rule for rule in outside if operation_of(app.view_functions[rule.endpoint]).page]


@pytest.mark.asvs("3.4.3", "3.4.6")
def test_pages_allow_no_inline_scripts_and_styles(ada_browser):
    answer = ada_browser.get("")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", answer.text)


def test_form_to_sign_in_of_another_tab_is_shown_again_with_the_name(browser, ada):
    token = browser.csrf_token()
    browser.client.delete_cookie("__Host-sentiment")
    browser.get("/sign-in")  # another tab, with a cookie of its own
    form = {"csrf_token": token, "username": "ada", "password": PASSWORD}
    answer = browser.client.post("/console/sign-in", data=form, headers={"Origin": ORIGIN})
    assert (answer.status_code, 'value="ada"' in answer.text) == (403, True)
    assert browser.sign_in().status_code == 303


LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("GET", "/api/v1/users/me", 401), ("POST", "/console/sign-in", 403)],
)
def test_error_of_a_link_from_another_site_keeps_its_status(client, method, path, status):
    answer = client.open(path, method=method, headers={**LINK, "Origin": "https://evil.example"})
    assert (answer.status_code, "http-equiv" in answer.text.lower()) == (status, False)
    # The browser may have a cookie that it did not send. A new cookie would sign the user out.
    assert "Set-Cookie" not in answer.headers


def test_form_that_was_cut_off_is_refused(open_browser, admin, ada):
    browser = open_browser(admin)
    token = browser.csrf_token()
    body = f"csrf_token={token}&rows_per_day=5000000&rows_per_month=9".encode()
    answer = browser.client.post(
        f"/console/team/{ada.id}",
        input_stream=io.BytesIO(body),
        content_type="application/x-www-form-urlencoded",
        headers={"Origin": ORIGIN},
        environ_overrides={"CONTENT_LENGTH": str(len(body) + 7), "wsgi.input_terminated": True},  # as gunicorn does
    )
    assert (answer.status_code, "shorter than its Content-Length" in answer.text) == (400, True)
