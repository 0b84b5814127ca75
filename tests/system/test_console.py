"""The console in a real browser: people score texts and files, switch models, and see no error in its log."""

import csv
import io
import re
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import CHROMIUM, open_browser
from harness import PASSWORD
from playwright.sync_api import expect

PATIENCE_MS = 90_000
PAGES = (
    "",
    "/files",
    "/tasks",
    "/models",
    "/usage",
    "/keys",
    "/account",
    "/feedback",
    "/team",
    "/audit",
    "/sign-in",
    "/register",
)
HOSTILE = '<img src=x onerror="document.title=1">"\'{{7*7}}'
# A browser logs each answer with an error status as an error.
ANSWERED = "Failed to load resource"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (on Debian: apt install chromium)"
)


@pytest.fixture(scope="module")
def chromium():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def open_page(chromium, product):
    """Opens pages. The test fails after a request to another host, an error in a script, or a violation of the CSP."""
    contexts, wrong = [], []

    def watch(page):
        page.set_default_timeout(PATIENCE_MS)
        own = (product.url, "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(own) or wrong.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: message.type == "error" and ANSWERED not in message.text and wrong.append(message.text),
        )
        return page

    def open_page(**options):
        contexts.append(chromium.new_context(base_url=product.url, **options))
        return watch(contexts[-1].new_page())

    expect.set_options(timeout=PATIENCE_MS)  # on a busy machine, a page takes longer than Playwright's five seconds
    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def sign_in(page, username="ada"):
    page.goto("/console")
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Try a text")).to_be_visible()
    return page


@pytest.fixture(scope="module")
def administrator(product):
    product.run_or_fail(
        "flask", "user", "create", "boss", "boss@example.org", "--admin", "--password-stdin", given=PASSWORD
    )
    return "boss"


def choose_file(page, content, name="reviews.csv"):
    page.goto("/console/files")
    page.locator("#file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})


def test_new_administrator_chooses_a_password_and_a_sentence_lights_up(product, open_page):
    link = product.run_or_fail("flask", "user", "welcome", "--url", product.url).strip()
    page = open_page()
    page.goto(link)
    page.get_by_label("New password").fill("password1")
    page.get_by_role("button", name="Set the password").click()
    expect(page.get_by_role("alert")).to_contain_text("most common passwords")
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_role("button", name="Set the password").click()
    page.get_by_role("button", name="The room was small").click()
    expect(page.locator("#result h2")).to_contain_text("positive")
    expect(page.locator("#result .marked span[class^=up]", has_text="lovely")).to_be_visible()
    expect(page.locator("#result tbody tr").first).to_contain_text("(bias)")
    # The page scores while somebody types, and clears the result of an empty text.
    page.get_by_role("textbox").fill("The food was awful.")
    expect(page.locator("#result h2")).to_contain_text("negative")
    page.get_by_role("textbox").fill("")
    expect(page.locator("#result h2")).to_have_count(0)
    expect(page.get_by_role("link", name="Team")).to_be_visible()


@pytest.mark.parametrize("has_scripts", [True, False])
def test_wrong_label_is_corrected(open_page, has_scripts):
    page = sign_in(open_page(java_script_enabled=has_scripts))
    text = f"It took two days. {HOSTILE}"
    page.get_by_role("textbox").fill(text)
    if not has_scripts:  # scripts score the text while it is typed
        page.get_by_role("button", name="Score", exact=True).click()
    page.get_by_text("This is wrong").click()
    page.get_by_role("group").get_by_role("button", name="positive").click()
    expect(page.get_by_role("status").filter(has_text="Thank you")).to_be_visible()
    if has_scripts:  # the result stays
        expect(page.locator("#result h2")).to_be_visible()
        page.get_by_role("link", name="See all your feedback").click()
    row = page.get_by_role("row", name=text)
    expect(row).to_contain_text("positive")
    row.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("status")).to_contain_text("deleted")
    expect(row).to_have_count(0)


def test_words_of_any_script_are_marked_where_they_are(product, open_page):
    page = sign_in(open_page())
    text = "👍🏽 great 👨‍👩‍👧 cafe\u0301, שלום awful مرحبا"
    page.get_by_role("textbox").fill(text)
    expect(page.locator(".marked span[class^=up]", has_text=re.compile("^great$"))).to_be_visible()
    expect(page.locator(".marked span[class^=down]", has_text=re.compile("^awful$"))).to_be_visible()
    assert page.locator(".marked").inner_text() == text.replace("e\u0301", "é")


def test_file_is_previewed_scored_and_comes_back_with_its_columns(open_page, worker):
    page = sign_in(open_page())
    rows = "".join(f'{number};5;"{"Lovely" if number % 2 else "Awful"}"\n' for number in range(300))
    choose_file(page, f"id;{HOSTILE};opinion\n{rows}".encode())
    # Several columns, none of them named text: the page says so, and offers a choice.
    expect(page.get_by_role("alert")).to_contain_text("opinion")
    expect(page.get_by_label("Column with the texts")).to_be_focused()
    assert page.locator("#columns option").evaluate_all("found => found.map(option => option.value)") == [
        "id",
        HOSTILE,
        "opinion",
    ]
    page.get_by_label("Column with the texts").fill("opinion")
    page.get_by_label("Column with the texts").press("Tab")
    expect(page.locator("#preview tbody tr")).to_have_count(20)
    page.get_by_label("Column with an id").select_option("id")
    expect(page.locator("#preview tbody tr").first).to_contain_text("0Awful")
    page.get_by_role("button", name="Score the file").click()
    expect(page.get_by_role("status")).to_contain_text("completed: 300 of 300 rows")
    expect(page.locator("figcaption").first).to_contain_text("150")
    expect(page.locator("svg.columns").last.locator("rect").first).to_be_attached()
    page.get_by_role("link", name="negative").click()
    expect(page.locator("#rows tbody tr")).to_have_count(50)
    expect(page.locator("#rows tbody")).not_to_contain_text("Lovely")
    page.get_by_role("link", name="Next rows").click()
    expect(page.locator("#rows tbody")).to_contain_text("102")
    expect(page.locator("#rows th").last).to_have_text(HOSTILE)
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    table = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert len(table) == 300
    assert (table[7]["custom_id"], table[7][HOSTILE], table[7]["text"]) == ("7", "5", "Lovely")
    page.locator("#rows tbody a").first.click()
    expect(page.locator(".bars tbody tr").first).to_contain_text("(bias)")


def test_wrong_file_is_explained(open_page):
    page = sign_in(open_page())
    choose_file(page, b"%PDF-1.7\n\x00\x01", "reviews.csv")
    expect(page.get_by_role("alert")).to_contain_text("PDF")
    choose_file(page, b"text\ngood\n", "reviews.docx")
    expect(page.get_by_role("alert")).to_contain_text(".xlsx")


def test_upload_that_is_cancelled_leaves_no_task(product, open_page):
    page = sign_in(open_page(), "ada")
    page.goto("/console/tasks")
    before = page.locator("tbody tr").count()
    choose_file(page, b"text\n" + b"good\n" * 2_000_000)
    expect(page.locator("#preview tbody tr")).to_have_count(20)
    slow = page.context.new_cdp_session(page)
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
    slow.send("Network.emulateNetworkConditions", limits)
    page.get_by_role("button", name="Score the file").click()
    page.get_by_role("button", name="Cancel the upload").click()
    expect(page.locator("#sent")).to_be_hidden()
    slow.send("Network.emulateNetworkConditions", {**limits, "uploadThroughput": -1})
    page.goto("/console/tasks")
    assert page.locator("tbody tr").count() == before


def test_double_click_uploads_once(open_page):
    page = sign_in(open_page())
    page.goto("/console/tasks")
    before = page.locator("tbody tr").count()
    choose_file(page, b"text\ngood\n")
    expect(page.locator("#preview tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Score the file").dblclick()
    expect(page.get_by_role("heading", name="Task of")).to_be_visible()
    page.goto("/console/tasks")
    assert page.locator("tbody tr").count() == before + 1


def test_progress_continues_after_the_worker_was_killed(product, open_page, worker):
    page = sign_in(open_page())
    choose_file(page, b"text\n" + b"".join(b"good %d\n" % number for number in range(30_000)))
    page.get_by_role("button", name="Score the file").click()
    expect(page.get_by_role("status")).to_contain_text("of 30,000 rows")
    extra = product.process("sentiment_app.worker")
    extra.kill()
    extra.wait()
    product.run_or_fail("flask", "tasks", "reconcile")
    expect(page.get_by_role("status")).to_contain_text("completed: 30,000 of 30,000 rows")
    # The buttons and the rows follow.
    expect(page.get_by_role("button", name="XLSX")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(page.locator("#rows tbody tr")).to_have_count(50)


def test_model_is_switched_and_switched_back(product, second, open_page, administrator):
    page = sign_in(open_page(), administrator)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto("/console/models")
    before = page.locator("tr", has=page.get_by_text("active", exact=True)).get_by_role("link").inner_text()
    page.get_by_role("link", name=second).click()
    page.get_by_role("button", name="Activate").click()
    expect(page.locator("tr", has=page.get_by_text("active", exact=True)).get_by_role("link")).to_have_text(second)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("status")).to_contain_text("active again")
    expect(page.locator("tr", has=page.get_by_text("active", exact=True)).get_by_role("link")).to_have_text(before)


def test_key_is_shown_once_and_works(product, open_page):
    page = sign_in(open_page())
    page.goto("/console/keys")
    page.get_by_label("Name").fill(HOSTILE)
    page.get_by_label("Your password").last.fill("wrong wrong")
    page.get_by_role("button", name="Create the key").click()
    expect(page.get_by_role("alert")).to_contain_text("not your current password")
    page.get_by_label("Your password").last.fill(PASSWORD)
    page.get_by_role("button", name="Create the key").click()
    key = page.locator("#key").inner_text()
    expect(page.get_by_role("cell", name=HOSTILE)).to_be_visible()
    answer = page.request.post(
        product.url + "/api/v1/sentiment/analyze", data={"text": "good"}, headers={"Authorization": f"Bearer {key}"}
    )
    assert answer.json()["sentiment"] == "positive"
    page.goto("/console/keys")
    assert key not in page.content()


def test_signing_out_in_one_tab_signs_out_in_the_other(open_page):
    page = sign_in(open_page())
    other = page.context.new_page()
    other.goto("/console")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_contain_text("You have signed out")
    other.get_by_label("An English text").fill("good")  # htmx reloads the page, which asks to sign in
    expect(other.get_by_role("button", name="Sign in")).to_be_visible()


def test_people_without_scripts_sign_in_and_score_texts_and_files(open_page, worker):
    page = sign_in(open_page(java_script_enabled=False))
    page.get_by_label("An English text").fill("The food was wonderful.")
    page.get_by_role("button", name="Score").click()
    expect(page.locator("#result h2")).to_contain_text("positive")
    choose_file(page, b"text\ngood\nbad\n")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview tbody tr")).to_have_count(2)
    choose_file(page, b"text\ngood\nbad\n")
    page.get_by_role("button", name="Score the file").click()
    expect(page.get_by_role("heading", name="Task of")).to_be_visible()


def test_keyboard_alone_is_enough_to_score_a_text(open_page):
    page = open_page()
    page.goto("/console")
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Try a text")).to_be_visible()
    page.keyboard.type("The food was wonderful.")
    expect(page.locator("#result h2")).to_contain_text("positive")


@contextmanager
def no_wider_than_the_screen(page):
    yield
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), page.url


@pytest.mark.parametrize("look", ["light", "dark", "narrow"])
def test_pages_are_accessible(open_page, administrator, look):
    width = 390 if look == "narrow" else 1100
    scheme = "dark" if look == "dark" else "light"
    page = sign_in(open_page(viewport={"width": width, "height": 800}, color_scheme=scheme), administrator)
    page.get_by_role("button", name="The room was small").click()
    expect(page.locator("#result h2")).to_be_visible()
    axe, found = Axe(), []
    for path in (None, *PAGES, "/nothing-here"):
        with no_wider_than_the_screen(page):
            if path is not None:
                page.goto(f"/console{path}")
        violations = axe.run(page).response["violations"]
        serious = [violation for violation in violations if violation["impact"] in ("serious", "critical")]
        found += [(path, violation["id"], [node["html"] for node in violation["nodes"]][:3]) for violation in serious]
    assert not found
