import io
import json
import math
import unicodedata

import pytest

from sentiment_app.infrastructure.database import db
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.sentiment.schemas import AnalysisSchema
from sentiment_app.sentiment.writer import WRITER

URL = "/api/v1/sentiment/analyze"


def test_answer_has_scores_and_model_version(client, as_ada, model):
    answer = client.post(URL, json={"text": "What a great film, I love it."}, headers=as_ada)
    assert answer.status_code == 200
    body = answer.json
    assert set(body) == {"id", "sentiment", "confidence", "scores", "model_version", "processing_time", "coverage"}
    assert body["sentiment"] == "positive"
    assert body["confidence"] == body["scores"]["positive"]
    assert math.isclose(sum(body["scores"].values()), 1.0, abs_tol=1e-12)
    assert body["model_version"] == model[1]
    assert 0 < body["processing_time"] < 1


def test_answer_is_stored_for_the_caller(client, ada, as_ada):
    made = client.post(URL, json={"text": "Terrible."}, headers=as_ada).json
    row = db.session.get_one(SentimentRequest, made["id"])
    assert (row.user_id, row.text, row.sentiment) == (ada.id, "Terrible.", made["sentiment"])
    assert row.scores == made["scores"]


def test_json_is_compact(client, as_ada):
    answer = client.post(URL, json={"text": "Fine."}, headers=as_ada)
    assert b'", "' not in answer.data
    assert b'": ' not in answer.data


def test_explanation_adds_up_to_the_score(client, as_ada):
    text = "This is not good, İstanbul &amp; all… but I love it! 😀"
    body = client.post(URL, json={"text": text, "explain": True}, headers=as_ada).json
    total = body["explanation"]["bias"] + sum(entry["contribution"] for entry in body["explanation"]["contributions"])
    scores = body["scores"]
    assert math.isclose(total, math.log(scores["positive"] / scores["negative"]), abs_tol=1e-9)
    places = {text[entry["start"] : entry["end"]] for entry in body["explanation"]["contributions"]}
    assert {"good", "love"} <= places


@pytest.mark.parametrize("text", ["This is not good, but I love it!", "qwrt zxcv plmk"])
@pytest.mark.parametrize("explain", [True, False])
def test_answer_matches_its_schema(client, as_ada, text, explain):
    answer = client.post(URL, json={"text": text, "explain": explain}, headers=as_ada).json
    AnalysisSchema().load(answer)  # raises if a field is missing or unknown
    assert ("explanation" in answer, "warnings" in answer) == (explain, text.startswith("qwrt"))


def test_row_is_announced_only_after_its_body_arrived(app, client, as_ada):
    rows = WRITER.get(app)._rows
    expected = []

    class Body(io.BytesIO):
        def readinto(self, buffer):
            expected.append(set(rows._announced))
            return super().readinto(buffer)

    content = json.dumps({"text": "x"}).encode()
    more = {"input_stream": Body(content), "content_length": len(content), "content_type": "application/json"}
    assert client.post(URL, headers=as_ada, **more).status_code == 200
    assert expected
    assert not any(expected)


def test_text_is_normalised_before_it_is_counted_and_stored(client, as_ada):
    text = "e\u0301" * 20_000
    answer = client.post(URL, json={"text": text}, headers=as_ada)
    assert answer.status_code == 200
    assert db.session.get_one(SentimentRequest, answer.json["id"]).text == unicodedata.normalize("NFC", text)


@pytest.mark.asvs("2.2.1", "2.2.2", "15.3.5")
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/text"),
        ({"text": ""}, "/text"),
        ({"text": "x" * 20_001}, "/text"),
        ({"text": 7}, "/text"),
        ({"text": None}, "/text"),
        ({"text": "nul \0"}, "/text"),
        ({"text": "lone \ud800 surrogate"}, "/text"),
        ({"text": "a" + "\u0315" * 31}, "/text"),
        ({"text": "\u0439" * 40_001}, "/text"),
        ({"text": "x", "explain": "yes"}, "/explain"),
        ({"text": "x", "explain": 0}, "/explain"),
        ({"text": "x", "txet": "y"}, "/txet"),
        ({"text": "x", "a/b~c": "y"}, "/a~1b~0c"),
        ([], ""),
        ("x", ""),
    ],
)
def test_invalid_body_is_refused_with_pointer(client, as_ada, body, pointer):
    answer = client.post(URL, json=body, headers=as_ada)
    assert answer.status_code == 422
    assert answer.mimetype == "application/problem+json"
    assert [entry["pointer"] for entry in answer.json["errors"]] == [pointer]
    assert db.session.query(SentimentRequest).count() == 0


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 400, b'{"text": 1' + b"0" * 5000 + b"}"])
def test_body_that_is_not_json_is_malformed(client, as_ada, body):
    answer = client.post(URL, data=body, content_type="application/json", headers=as_ada)
    assert (answer.status_code, answer.json["type"]) == (400, "urn:sentiment-app:problem:malformed")


def test_other_content_type_is_refused(client, as_ada):
    answer = client.post(URL, data="text=x", content_type="text/plain", headers=as_ada)
    assert answer.status_code == 415


def test_body_over_the_limit_is_refused(client, as_ada):
    answer = client.post(URL, data=b" " * (256 * 1024 + 1), content_type="application/json", headers=as_ada)
    assert answer.status_code == 413
    assert answer.json["detail"] == "The body is too large. This route accepts at most 262144 bytes."


def test_text_of_many_commas_and_escapes_fits(client, as_ada, model):
    for text in ("a," * 10_000, "😀" * 20_000):
        answer = client.post(URL, data=json.dumps({"text": text}), content_type="application/json", headers=as_ada)
        assert answer.status_code == 200, answer.json


@pytest.mark.parametrize("body", [{f"k{i}": 0 for i in range(1000)}, {"text": [0] * 1000}, {"text": {"a": [[]] * 600}}])
def test_body_of_many_small_values_is_refused_before_it_is_parsed(client, as_ada, body, monkeypatch):
    monkeypatch.setattr("sentiment_app.web.operation.json", None)
    answer = client.post(URL, data=json.dumps(body), content_type="application/json", headers=as_ada)
    assert (answer.status_code, answer.json["detail"]) == (422, "The body has too many values. The limit is 500.")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_body_in_another_encoding_than_utf_8_is_malformed(client, as_ada, encoding):
    """Its values could not be counted before it is parsed."""
    answer = client.post(URL, data='{"text": "∀"}'.encode(encoding), content_type="application/json", headers=as_ada)
    assert (answer.status_code, answer.json["type"]) == (400, "urn:sentiment-app:problem:malformed")


def test_body_may_begin_with_a_byte_order_mark(client, as_ada, model):
    body = '{"text": "fine"}'.encode("utf-8-sig")
    assert client.post(URL, data=body, content_type="application/json", headers=as_ada).status_code == 200
