"""Takes pictures of all pages of the console. See scripts/screenshots."""

import argparse
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from browser import open_browser
from playwright.sync_api import Page

ROOT = Path(__file__).parent.parent
FLASK = [sys.executable, "-m", "flask"]
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1100, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1100, "height": 800}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}
PAGES = ("tasks", "models", "usage", "keys", "account", "feedback", "team", "audit", "nothing-here")
SENTENCES = (
    "The room was small, but the staff was lovely.",
    "I waited three weeks for a parcel that arrived broken.",
    "Check-in starts at three in the afternoon.",
    "Best coffee in town, and the cake is even better!",
    "The app keeps logging me out. Useless.",
    "Die Bedienung war sehr freundlich.",
    "",
    "=SUM(A1:A9) <script>alert(1)</script> good",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    name, password = f"screenshots-{secrets.token_hex(3)}", secrets.token_urlsafe(12)
    _flask("user", "create", name, f"{name}@example.org", "--admin", "--password-stdin", given=password)
    try:
        with open_browser() as browser:
            for look, settings in LOOKS.items():
                page = browser.new_page(**settings)
                page.set_default_timeout(60_000)
                _photograph(page, options.url, options.folder, look, (name, password))
                page.close()
    finally:
        _delete(name)


def _photograph(page: Page, url: str, folder: Path, look: str, account: tuple[str, str]) -> None:
    def save(name: str) -> None:
        page.screenshot(path=folder / f"{name}-{look}.png", full_page=True)

    page.goto(f"{url}/console")
    save("sign-in")
    page.get_by_label("Username").fill(account[0])
    page.get_by_label("Password").fill(account[1])
    page.get_by_role("button", name="Sign in").click()
    page.locator("[data-example]").first.click()
    page.get_by_text("Why?").wait_for()
    page.get_by_text("This is wrong").click()
    save("try")
    page.get_by_role("button", name="neutral").click()
    page.get_by_text("Thank you.").wait_for()
    save("try-corrected")
    rows = "".join(f'{number},{number % 5},"{SENTENCES[number % len(SENTENCES)]}"\n' for number in range(400))
    page.goto(f"{url}/console/files")
    page.locator("#file").set_input_files(
        {"name": "reviews.csv", "mimeType": "text/csv", "buffer": f"id,stars,review\n{rows}".encode()}
    )
    page.locator("#problem:not(:empty), #preview table").first.wait_for()
    page.get_by_label("Column with the texts").fill("review")
    page.get_by_label("Column with the texts").dispatch_event("change")
    page.locator("#preview table").wait_for()
    save("files")
    page.get_by_role("button", name="Score the file").click()
    page.get_by_text("completed").wait_for()
    save("task")
    page.locator("#rows tbody a").first.click()
    page.get_by_role("heading", name="Line").wait_for()
    save("row")
    for name in PAGES:
        page.goto(f"{url}/console/{name}")
        save(name)


def _delete(name: str) -> None:
    try:
        _flask("user", "delete", name, "--yes")
    except subprocess.CalledProcessError:
        sys.stderr.write(f"The account {name} stays, because it is the only administrator.\n")


def _flask(*command: str, given: str = "") -> None:
    subprocess.run([*FLASK, *command], cwd=ROOT, input=given, text=True, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # our own commands


if __name__ == "__main__":
    main()
