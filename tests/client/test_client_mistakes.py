"""The Python client when something is wrong: with its arguments, with what answers, or on the way.

The answers are made up, because the real service does not give them.
"""

import base64
import hmac
import json
import pickle
import time
from email.utils import formatdate

import httpx
import pytest
import sentiment_client
from sentiment_client import ApiError, Client, FieldError, NotFoundError, ServiceUnreachableError, TaskFailedError
from sentiment_client.flow import pause_before, read_file
from sentiment_client.progress_bar import Bar
from sentiment_client.types import read_progress

TASK = {
    "task_id": "t",
    "status": "completed",
    "request_counts": {"total": 1, "completed": 1, "failed": 0},
    "percent": 100.0,
    "rows_per_second": None,
    "seconds_left": None,
}
SCORES = {"negative": 0.0, "neutral": 0.1, "positive": 0.9}
ROW = {"index": 0, "line": 1, "custom_id": None, "sentiment": "positive", "confidence": 0.9, "scores": SCORES}


def client(*answers, patience=30):
    """A client that gets these answers, and the last of them again and again; and the requests that it sent."""
    sent, rest = [], list(answers)

    def answer(request):
        sent.append((request.method, request.url.path, request.read()))
        given = rest.pop(0) if len(rest) > 1 else rest[0]
        if isinstance(given, Exception):
            raise given
        return given

    return Client("http://x.test", "k", patience=patience, transport=httpx.MockTransport(answer)), sent


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)


def problem(status, **members):
    return httpx.Response(status, json={"type": "urn:x:some-kind", "detail": "No.", **members})


@pytest.mark.parametrize(
    ("url", "key", "reason"),
    [
        ("127.0.0.1:8000", "k", "must begin with https://"),
        ("http://[::1", "k", "The url is not valid"),
        ("http://127.0.0.1:99999", "k", "The url is not valid"),
        ("https://", "k", "The url is not valid"),
        ("http://x", "snt_…", "The key has characters"),
        ("http://x", "a\nb", "The key has characters"),
        ("http://x", " \n", "Give the url and the key"),
    ],
)
def test_wrong_url_or_key_is_named_at_once(url, key, reason):
    with pytest.raises(ValueError, match=reason):
        Client(url, key)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json=[1]),
        httpx.Response(200, json={"sentiment": "positive"}),
        httpx.DecodingError("not gzip"),
        httpx.UnsupportedProtocol("ftp"),
    ],
)
def test_answer_of_something_else_is_named_and_not_repeated(answer):
    made, sent = client(answer)
    with pytest.raises(ServiceUnreachableError):
        made.analyze("good")
    assert len(sent) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"errors": [1]}', b'{"errors": [{"pointer": 1}]}'])
def test_error_without_a_problem_document_is_still_an_error(body):
    with pytest.raises(ApiError) as found:
        client(httpx.Response(422, content=body))[0].analyze("good")
    assert found.value.status == 422


def test_pointers_of_any_type_are_text():
    wrong = [{"in": "body", "pointer": 1, "detail": "x"}]
    with pytest.raises(ApiError) as found:
        client(problem(422, errors=wrong))[0].analyze("good")
    assert found.value.errors == (FieldError("body", "1", "x"),)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"text": "I hate it"}, "not dict"),
        (b"abc", "not bytes"),
        (type("DataFrame", (), {"columns": ["review"], "__iter__": lambda self: iter(["review"])})(), "tolist"),
        ([["a", "b"]], "Row 1 is list"),
        (["a", None], "Row 2 is NoneType"),
    ],
)
def test_rows_that_are_something_else_are_refused(rows, reason):
    made, _ = client(httpx.Response(200, json=TASK))
    with pytest.raises(TypeError, match=reason):
        made.submit(rows)


def test_text_is_not_taken_for_texts_or_a_path():
    made, sent = client(httpx.Response(200, json=TASK))
    with pytest.raises(TypeError, match="Send a list of texts"):
        list(made.analyze_many("secret.csv"))
    assert sent == []


def test_rows_may_contain_every_line_end():
    ends = "\u2028\u2029\x85\x0b"
    lines = "".join(json.dumps({**ROW, "text": f"a{end}b"}, ensure_ascii=False) + "\n" for end in ends)
    made, _ = client(httpx.Response(200, json=TASK), results(lines.encode()))
    assert [row.text[1] for row in made.task("t").results()] == list(ends)


def test_results_wait_for_a_service_that_is_unavailable():
    good = results(json.dumps(ROW).encode() + b"\n")
    made, sent = client(httpx.Response(200, json=TASK), problem(503), httpx.ConnectError("down"), good)
    assert len(list(made.task("t").results())) == 1
    assert len(sent) == 4


def test_deletion_and_retry_whose_answers_were_lost_have_happened():
    task = httpx.Response(200, json=TASK)
    made, _ = client(task, httpx.ReadError("lost"), problem(404))
    made.task("t").delete()
    made, _ = client(task, httpx.ReadError("lost"), problem(409), task)
    assert made.task("t").retry().status == "completed"
    made, _ = client(task, problem(404))
    with pytest.raises(NotFoundError):
        made.task("t").delete()


def test_unknown_status_of_a_newer_service_has_not_ended():
    assert not read_progress({**TASK, "status": "paused"}).has_ended


def test_errors_can_be_pickled():
    for error in (
        NotFoundError(404, "kind", "detail", [FieldError("body", "/a", "b")]),
        TaskFailedError(read_progress(TASK)),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))


def test_file_that_grows_is_sent_as_it_was(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"x" * 1000)
    assert sum(map(len, read_file(file, 900))) == 900


def test_results_are_written_to_a_name_of_their_own(tmp_path):
    results_ = httpx.Response(200, content=b"a,b\n", headers={"Content-Type": "text/csv"})
    answer = httpx.Response(200, json=TASK), results_
    made, _ = client(*answer)
    (tmp_path / "r.csv.part").write_text("mine")
    assert made.task("t").to_csv(tmp_path / "results.2026").name == "results.2026.csv"
    assert {path.name for path in tmp_path.iterdir()} == {"r.csv.part", "results.2026.csv"}


def test_empty_secret_of_a_webhook_is_refused():
    with pytest.raises(sentiment_client.WebhookError, match="The secret is empty"):
        sentiment_client.verify_webhook("", {}, b"{}")


def test_both_clients_offer_the_same():
    for first, second in (
        (sentiment_client.Client, sentiment_client.AsyncClient),
        (sentiment_client.Task, sentiment_client.AsyncTask),
    ):
        assert {name for name in dir(first) if name[0] != "_"} == {name for name in dir(second) if name[0] != "_"}


def test_text_that_may_have_been_stored_is_not_sent_again():
    unknown = httpx.Response(503, json={"type": "urn:x:outcome-unknown", "detail": "No."})
    made, sent = client(unknown)
    with pytest.raises(sentiment_client.UnavailableError):
        made.analyze("good")
    assert len(sent) == 1
    made, sent = client(problem(503), httpx.Response(200, json={**ROW, "model_version": "v"}))
    assert made.analyze("good").sentiment == "positive"
    assert len(sent) == 2


def results(content):
    return httpx.Response(
        200, content=content, headers={"Content-Type": "application/x-ndjson", "Content-Length": str(len(content))}
    )


TWO = {**TASK, "request_counts": {"total": 2, "completed": 2, "failed": 0}}
LINES = [json.dumps({**ROW, "index": index}).encode() + b"\n" for index in range(2)]


@pytest.mark.parametrize("cut", [LINES[0], LINES[0] + LINES[1][:-9], b""])
def test_results_that_were_cut_off_are_continued(cut):
    made, _ = client(httpx.Response(200, json=TWO), results(cut), results(LINES[0] * (not cut) + LINES[1]))
    assert [row.index for row in made.task("t").results()] == [0, 1]
    made, _ = client(httpx.Response(200, json=TWO), results(cut), patience=0)
    with pytest.raises(ServiceUnreachableError, match="cut off"):
        list(made.task("t").results())


def test_patience_of_a_download_begins_anew_with_each_row():
    total = 40
    task = {**TASK, "request_counts": {"total": total, "completed": total, "failed": 0}}
    lines = [results(json.dumps({**ROW, "index": index}).encode() + b"\n") for index in range(total)]
    made, sent = client(httpx.Response(200, json=task), *lines)
    assert len(list(made.task("t").results())) == total
    assert len(sent) == total + 1


def test_page_of_a_proxy_is_not_taken_for_results(tmp_path):
    page = httpx.Response(200, html="<html>Please sign in</html>")
    for read in (lambda task: list(task.results()), lambda task: task.to_file(tmp_path / "b.csv")):
        made, _ = client(httpx.Response(200, json=TASK), page)
        with pytest.raises(ServiceUnreachableError, match="text/html instead of results"):
            read(made.task("t"))
    assert list(tmp_path.iterdir()) == []


def test_file_of_unknown_length_is_refused(tmp_path):
    endless = httpx.Response(200, content=iter([b"a,b\n"]), headers={"Content-Type": "text/csv"})
    del endless.headers["Transfer-Encoding"]
    made, _ = client(httpx.Response(200, json=TASK), endless)
    with pytest.raises(ServiceUnreachableError, match="its end could be missing"):
        made.task("t").to_file(tmp_path / "b.csv")


def test_file_is_downloaded_again_after_an_interruption(tmp_path):
    good = httpx.Response(200, content=b"a,b\n", headers={"Content-Type": "text/csv"})
    made, sent = client(httpx.Response(200, json=TASK), problem(429), httpx.ReadError("lost"), good)
    assert made.task("t").to_file(tmp_path / "b.csv").read_bytes() == b"a,b\n"
    assert len(sent) == 4
    made, _ = client(httpx.Response(200, json=TASK), problem(503), patience=0)
    with pytest.raises(ApiError):
        made.task("t").to_file(tmp_path / "c.csv")


def test_file_behind_a_link_is_replaced(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    good = httpx.Response(200, content=b"a,b\n", headers={"Content-Type": "text/csv"})
    made, _ = client(httpx.Response(200, json=TASK), good)
    made.task("t").to_file(tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_bytes() == b"a,b\n"
    with pytest.raises(IsADirectoryError):
        client(httpx.Response(200, json=TASK), good)[0].task("t").to_file(make_folder(tmp_path / "d.csv"))


def make_folder(path):
    path.mkdir()
    return path


@pytest.mark.parametrize("retry_after", [None, "0", "Sat, 28 Nov 2020 12:00:00 GMT", "nonsense", "²"])
def test_pause_is_never_empty(retry_after):
    assert pause_before(0, retry_after) >= 0.25


def test_pause_lasts_until_the_date_in_retry_after():
    later = formatdate(time.time() + 100, usegmt=True)
    assert 95 < pause_before(0, later) < 105


def test_id_of_a_task_is_no_path():
    made, sent = client(httpx.Response(200, json=TASK))
    with pytest.raises(ValueError, match="is not the id of a task"):
        made.task("../../users/me?x=")
    assert sent == []


@pytest.mark.parametrize("counts", [None, {}, [1], {"total": 1}])
def test_answer_with_unexpected_parts_is_named(counts):
    made, _ = client(httpx.Response(200, json={**TASK, "request_counts": counts}))
    with pytest.raises(ServiceUnreachableError):
        made.task("t")


def test_half_of_a_surrogate_pair_reaches_the_service():
    made, sent = client(problem(422))
    with pytest.raises(ApiError):
        made.analyze("\ud800")
    assert b"\\ud800" in sent[0][2]


SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()  # pragma: allowlist secret


@pytest.mark.parametrize("timestamp", ["9" * 400, " 1764000000", "١٧٦٤", "-1", "1e9", "", None, 17])
def test_timestamp_that_is_no_number_of_seconds_is_refused(timestamp):
    headers = {"webhook-id": "a", "webhook-timestamp": timestamp, "webhook-signature": "v1,x"}
    with pytest.raises(sentiment_client.WebhookError):
        sentiment_client.verify_webhook(SECRET, headers, b"{}")


@pytest.mark.parametrize("body", ["\ud800", b"not JSON"])
def test_webhook_with_a_strange_body_is_refused(body):
    now = str(int(time.time()))
    content = body if isinstance(body, bytes) else b""
    signature = base64.b64encode(hmac.digest(b"k" * 24, b".".join((b"a", now.encode(), content)), "sha256")).decode()
    headers = {"webhook-id": "a", "webhook-timestamp": now, "webhook-signature": f"v1,{signature}"}
    with pytest.raises(sentiment_client.WebhookError):
        sentiment_client.verify_webhook(SECRET, headers, body)


def test_bar_writes_lines_where_nobody_sees_a_bar(capsys):
    bar = Bar()
    for percent in range(0, 101, 5):
        bar(read_progress({**TASK, "status": "running", "percent": percent}))
    lines = capsys.readouterr().err
    assert (lines.count("\n"), "\r" in lines) == (11, False)
