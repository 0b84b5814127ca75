"""The Python client when something is wrong: with its arguments, with what answers, or on the way.

The answers are made up, because the real service does not give them.
"""

import json
import pickle

import httpx
import pytest
import sentiment_client
from sentiment_client import ApiError, Client, FieldError, NotFoundError, ServiceUnreachableError, TaskFailedError
from sentiment_client.flow import read_file
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
    made, _ = client(httpx.Response(200, json=TASK), httpx.Response(200, content=lines.encode()))
    assert [row.text[1] for row in made.task("t").results()] == list(ends)


def test_results_wait_for_a_service_that_is_unavailable():
    good = httpx.Response(200, content=json.dumps(ROW).encode() + b"\n")
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
    answer = httpx.Response(200, json=TASK), httpx.Response(200, content=b"a,b\n")
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
