import re

import pytest
from harness import PASSWORD

ORIGIN = "http://localhost"
TOKEN = re.compile(r'name="csrf_token" value="([0-9a-f]{64})"')


class Browser:
    """A client that sends forms as a browser does: with its cookie, the Origin, and the CSRF token of a page."""

    def __init__(self, client):
        self.client = client

    def get(self, path, **options):
        return self.client.get(f"/console{path}", **options)

    def csrf_token(self, page="/sign-in"):
        return TOKEN.search(self.get(page).text)[1]

    def post(self, path, form=(), **options):
        data = {"csrf_token": self.csrf_token(), **dict(form)}
        return self.client.post(f"/console{path}", data=data, headers={"Origin": ORIGIN}, **options)

    def sign_in(self, username="ada", password=PASSWORD, **form):
        return self.post("/sign-in", {"username": username, "password": password, **form})


@pytest.fixture
def browser(app):
    """The browser of somebody who has not signed in."""
    return Browser(app.test_client())


@pytest.fixture
def open_browser(app):
    """Opens a browser, and signs a user in."""

    def open_browser(user):
        browser = Browser(app.test_client())
        assert browser.sign_in(user.username).status_code == 303
        return browser

    return open_browser


@pytest.fixture
def ada_browser(open_browser, ada):
    return open_browser(ada)


@pytest.fixture
def admin_browser(open_browser, admin):
    return open_browser(admin)
