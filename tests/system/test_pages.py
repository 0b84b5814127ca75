"""The documentation pages in a real browser: they load nothing from other hosts, and "Try it out" works."""

import pytest
from browser import CHROMIUM, open_browser
from harness import PASSWORD
from playwright.sync_api import expect

PATIENCE_MS = 180_000

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (on Debian: apt install chromium)"
)


@pytest.fixture
def page(product):
    """A browser page. The test fails after a request to another host or an error in a script."""
    wrong = []
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        # On a busy machine, a page takes longer than Playwright's five seconds.
        expect.set_options(timeout=PATIENCE_MS)
        page.set_default_timeout(PATIENCE_MS)
        page.on(
            "request",
            lambda request: request.url.startswith((product.url, "data:", "blob:")) or wrong.append(request.url),
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        yield page
    assert not wrong


@pytest.mark.asvs("3.6.1")
def test_try_it_out_works_after_authorize(product, page, tmp_path):
    page.goto(product.url + "/docs")
    page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".modal-ux")
    dialog.get_by_label("username:").fill("ada")
    dialog.get_by_label("password:").fill(PASSWORD)
    dialog.get_by_role("button", name="Apply given OAuth2 credentials").click()
    expect(dialog.get_by_role("button", name="Remove authorization")).to_be_visible()
    dialog.get_by_role("button", name="Close").first.click()
    operation = page.locator("#operations-sentiment-sentiment_analyze")
    operation.click()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
    expect(operation.locator(".live-responses-table")).to_contain_text("model_version")
    page.screenshot(path=tmp_path / "docs.png")


@pytest.mark.asvs("3.6.1")
def test_redoc_shows_every_operation(product, page, tmp_path):
    page.goto(product.url + "/redoc")
    for summary in ("Score a text", "Sign in with username and password", "Your scored texts, newest first"):
        expect(page.get_by_role("heading", name=summary)).to_be_visible()
    page.screenshot(path=tmp_path / "redoc.png")
