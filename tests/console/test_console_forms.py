"""What people send with the forms of the console, and what happens with hostile values."""

import io
import json
import re
from uuid import uuid4

import pytest
from harness import PASSWORD
from sqlalchemy import update

from sentiment_app.feedback import service as feedback
from sentiment_app.infrastructure.database import db
from sentiment_app.ml.artifact import Artifact
from sentiment_app.registry import releases
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.tasks.models import Task
from sentiment_app.usage.models import UsageRecord
from sentiment_app.users import api_keys
from sentiment_app.users import service as users


@pytest.fixture
def candidate(app, model):
    """Another release of the same weights under another version."""
    manifest = json.loads(model[0].manifest) | {"version": "20990101-second00"}
    return releases.release(Artifact(json.dumps(manifest).encode(), model[0].serving), by="tests")


def problem_of(answer):
    return answer.text.partition('role="alert">')[2].partition("</div>")[0]


def test_text_is_scored_counted_and_not_stored(ada_browser):
    answer = ada_browser.post("", {"text": "The food was wonderful.\r\nReally <b>"})
    assert (answer.status_code, "positive" in answer.text, "&lt;b&gt;" in answer.text) == (200, True, True)
    assert db.session.query(SentimentRequest).count() == 0
    assert [record.rows for record in db.session.query(UsageRecord)] == [1]


def test_right_label_is_stored_listed_and_deleted(ada_browser, ada):
    text = 'It took "two" days.\n<script>alert(1)</script>'
    scored = ada_browser.post("", {"text": text})
    assert "This is wrong" in scored.text
    answer = ada_browser.post("/feedback", {"text": text.replace("\n", "\r\n"), "label": "positive"})
    assert (answer.status_code, answer.location) == (303, "/console/feedback?done=stored")
    (given,) = feedback.page(ada.id, 10, None)
    assert (given.text, given.label) == (text, "positive")
    page = ada_browser.client.get(answer.location)
    assert [wanted in page.text for wanted in ("Thank you", "&lt;script&gt;", "<script>alert")] == [True, True, False]
    assert "right label of 1 text." in ada_browser.get("/account").text
    assert ada_browser.post(f"/feedback/{given.id}/delete").location == "/console/feedback?done=deleted"
    assert ada_browser.post(f"/feedback/{given.id}/delete").status_code == 404
    assert "There is no feedback" in ada_browser.get("/feedback?done=deleted").text


def test_feedback_is_listed_in_pages(ada_browser, ada):
    for number in range(21):
        feedback.store(ada.id, "neutral", text=f"text {number}")
    first = ada_browser.get("/feedback").text
    following = re.search(r'href="/console(/feedback\?cursor=[^"]+)"', first)[1]
    second = ada_browser.get(following).text
    assert ("text 20<" in first, "text 0<" in first, "text 0<" in second) == (True, False, True)


@pytest.mark.parametrize(
    "form",
    [{}, {"text": "x"}, {"label": "positive"}, {"text": "x", "label": "happy"}, {"text": "\0", "label": "neutral"}],
)
def test_wrong_feedback_is_refused(ada_browser, ada, form):
    assert ada_browser.post("/feedback", form).status_code == 422
    assert ada_browser.client.post("/console/feedback", data=form, headers={"Origin": "null"}).status_code == 403
    assert feedback.count(ada.id) == 0


def test_two_models_are_shown_side_by_side(ada_browser, candidate):
    answer = ada_browser.post("", {"text": "The food was wonderful.", "other": candidate})
    assert answer.text.count("<article>") == 2
    assert ada_browser.post("", {"text": "x", "other": "19990101-00000000"}).status_code == 404


@pytest.mark.parametrize("text", ["", " ", "\0", "x" * 20_001])
def test_text_that_cannot_be_scored_is_explained(ada_browser, text):
    answer = ada_browser.post("", {"text": text})
    assert answer.status_code == 422
    assert "Traceback" not in answer.text


def test_numbers_of_any_length_are_refused_without_an_error(ada_browser):
    form = {"name": "x", "scopes": "score", "current_password": PASSWORD}
    for number in ("9" * 5000, "-1", "1e3", "\u0663"):
        answer = ada_browser.post("/keys", {**form, "rows_per_day": number})
        assert (answer.status_code, "rows per day" in problem_of(answer)) == (422, True), number


def test_key_has_the_limits_of_the_form(ada_browser, ada):
    form = {
        "name": "<script>",
        "scopes": ["score", "read"],
        "networks": "192.0.2.0/24 2001:db8::/32",
        "rate": "100 per minute",
        "rows_per_day": "5",
        "rows_per_month": "",
        "expires_in_days": "",
        "current_password": PASSWORD,
    }
    answer = ada_browser.post("/keys", form)
    assert (answer.status_code, "<script>" in answer.text.partition("<main")[2]) == (200, False)
    (key,) = api_keys.list_keys(ada.id)
    assert (key.scopes, key.networks) == (["read", "score"], ["192.0.2.0/24", "2001:db8::/32"])
    assert (key.rows_per_day, key.rows_per_month, key.expires_at) == (5, None, None)


def test_empty_quota_is_the_setting_again(admin_browser, ada):
    change = f"/team/{ada.id}"
    assert admin_browser.post(change, {"rows_per_day": "5", "rows_per_month": "6"}).status_code == 303
    assert (users.get(ada.id).rows_per_day, users.get(ada.id).rows_per_month) == (5, 6)
    assert admin_browser.post(change, {"rows_per_day": "", "rows_per_month": ""}).status_code == 303
    assert (users.get(ada.id).rows_per_day, users.get(ada.id).rows_per_month) == (None, None)


def test_form_of_many_fields_and_of_other_types_is_refused(ada_browser):
    assert ada_browser.post("/keys", {f"f{number}": "x" for number in range(200)}).status_code == 422
    headers = {"Origin": "http://localhost"}
    assert ada_browser.client.post("/console/keys", json={}, headers=headers).status_code == 415
    assert ada_browser.client.post("/console/keys", data={"a": "x" * 20_000}, headers=headers).status_code == 413


def upload(browser, content, name="reviews.csv", path="/files", **form):
    return browser.post(path, {**form, "file": (io.BytesIO(content), name)}, content_type="multipart/form-data")


def test_uploaded_file_keeps_its_columns_if_asked(ada_browser, work):
    answer = upload(ada_browser, b"id,text\n7,good\n", keep="columns")
    assert answer.status_code == 303
    work()
    page = ada_browser.client.get(answer.location)
    assert "completed</strong>: 1 of 1 rows" in page.text
    table = ada_browser.client.get(f"{answer.location}/results.csv")
    assert "attachment" in table.headers["Content-Disposition"]
    assert table.text.splitlines()[0].startswith("index,line,custom_id,id,text,")
    wide = ",".join(f"c{number}" for number in range(200))
    content = f"text,{wide}\ngood{',x' * 200}\n".encode()
    assert upload(ada_browser, content, keep="columns").status_code == 422
    assert upload(ada_browser, content).status_code == 303


def test_preview_stores_nothing(ada_browser):
    answer = upload(ada_browser, b"text\ngood\n", path="/files/preview")
    assert (answer.status_code, '<td dir="auto">good</td>' in answer.text) == (200, True)
    assert db.session.query(Task).count() == 0


def test_rows_are_filtered_and_explained(ada_browser, work):
    task = upload(ada_browser, b'text\ngood\n""\nThe food was awful.\n').location
    work()
    for show, expected in (("failed", "1 to 20,000 characters"), ("negative", "awful"), ("", "good")):
        assert expected in ada_browser.client.get(f"{task}?show={show}").text
    assert "good" not in ada_browser.client.get(f"{task}?show=failed").text.partition('id="rows"')[2]
    assert ada_browser.client.get(f"{task}?show=nonsense").status_code == 422
    row = ada_browser.client.get(f"{task}/rows/0").text
    assert ("(bias)" in row, 'name="text" value="good"' in row) == (True, True)
    assert "There is no result" in ada_browser.client.get(f"{task}/rows/2147483646").text
    assert ada_browser.client.get(f"{task}/rows/{'9' * 30}").status_code == 404
    assert ada_browser.client.get(f"{task}/results.exe").status_code == 404


def test_page_that_asks_for_the_state_is_reloaded_at_the_end(ada_browser, work):
    task = upload(ada_browser, b"text\ngood\n").location
    poll = {"HX-Request": "true", "HX-Trigger": "state"}
    assert "HX-Refresh" not in ada_browser.client.get(task, headers=poll).headers
    work()
    assert ada_browser.client.get(task, headers=poll).headers["HX-Refresh"] == "true"
    assert "HX-Refresh" not in ada_browser.client.get(task).headers


def test_row_of_a_model_that_is_gone_has_no_explanation(ada_browser, work):
    task = upload(ada_browser, b"text\ngood\n").location
    work()
    db.session.execute(update(Task).values(model_version="19990101-00000000"))
    db.session.commit()
    assert "cannot explain" in ada_browser.client.get(f"{task}/rows/0").text


@pytest.mark.parametrize(
    "source", [{"texts": 0, "macro_recall": 1.0}, {"texts": 5, "macro_recall": 1.0, "accuracy": 1}]
)
def test_model_with_other_measures_is_shown(admin_browser, app, model, source):
    changes = {
        "version": "20990101-other000",
        "metrics": {"by_source": {"<script>alert(1)": {"texts_sha256": "x", **source}}},
    }
    manifest = json.loads(model[0].manifest) | changes
    releases.release(Artifact(json.dumps(manifest).encode(), model[0].serving), by="tests")
    for path in ("/models", "/models/20990101-other000"):
        answer = admin_browser.get(path)
        assert (answer.status_code, "<script>alert" in answer.text) == (200, False)


def test_reliability_slices_and_behaviour_of_a_model_are_shown(ada_browser, app, model):
    bins = [{"confidence": 0.5, "accuracy": 0.25, "share": 0.4}, {"confidence": 0.9, "accuracy": 1.0, "share": 0.6}]
    kinds = [{"kind": "<b>irony", "sentences": 80, "failures": 20}]
    parts = [{"name": "up to 10 terms", "texts": 1234, "accuracy": 0.75}]
    metrics = {"by_source": {}, "reliability": bins, "slices": parts, "behaviour": kinds}
    manifest = json.loads(model[0].manifest) | {"version": "20990101-curve000", "metrics": metrics}
    releases.release(Artifact(json.dumps(manifest).encode(), model[0].serving), by="tests")
    shown = ada_browser.get("/models/20990101-curve000").text
    for expected in ('points="50.00,75.00 90.00,0.00"', "1,234", "0.750", "&lt;b&gt;irony", "25 %", "60.0 %"):
        assert expected in shown
    assert "Reliability" not in ada_browser.get(f"/models/{model[1]}").text


def test_task_of_nobody_is_not_found(ada_browser):
    for path in ("", "/rows/0", "/results.csv"):
        assert ada_browser.get(f"/tasks/{uuid4()}{path}").status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/usage?days=366", 200),
        ("/usage?days=0", 422),
        ("/usage?days=" + "9" * 5000, 422),
        ("/audit?event=", 200),
        ("/feedback?done=x", 422),
        ("/feedback?cursor=zzz", 422),
        ("/audit?event=x", 422),
        ("/tasks?cursor=zzz", 422),
        ("/sign-in?done=%ed%a0%80", 200),
        ("/register?invitation=%00%ff", 200),
        ("/models?done=x", 200),
        ("/assets/../pages.py", 404),
        ("/assets/%2e%2e/pages.py", 404),
    ],
)
def test_odd_queries_have_answers(admin_browser, path, status):
    assert admin_browser.get(path).status_code == status


def test_link_for_a_password_is_shown_once(admin_browser, ada):
    shown = admin_browser.post(f"/team/{ada.id}/password-reset").text
    assert "http://localhost/console/password?token=" in shown
    assert "password?token=" not in admin_browser.get("/team").text


def test_model_is_activated_and_rolled_back(admin_browser, candidate, model):
    assert admin_browser.post("/models/rollback").status_code == 409  # there is no previous model
    assert admin_browser.post(f"/models/{candidate}/activate", {"allow_worse": "true"}).status_code == 303
    assert releases.active_version() == candidate
    assert admin_browser.post("/models/rollback").location == "/console/models?done=rolled-back"
    assert releases.active_version() == model[1]
    assert admin_browser.get(f"/models/{candidate}").status_code == 200
    assert admin_browser.get(f"/models/{candidate}/card").status_code == 200
