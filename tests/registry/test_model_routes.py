"""Models over HTTP: the list of releases, records, model cards, and activation by administrators."""

import json
import re

import pytest
from sqlalchemy import update

from sentiment_app.infrastructure.database import db
from sentiment_app.ml.artifact import Artifact
from sentiment_app.registry import cards, releases
from sentiment_app.registry.models import ModelRelease

MODELS = "/api/v1/sentiment/models"
ANALYZE = "/api/v1/sentiment/analyze"


@pytest.fixture
def second(app, model):
    manifest = json.loads(model[0].manifest) | {"version": "20990101-second00", "recipe": "<script>alert(1)</script>"}
    return releases.release(Artifact(json.dumps(manifest).encode(), model[0].serving), by="tests")


def test_released_models_are_listed(client, as_ada, model, second):
    items = client.get(MODELS, headers=as_ada).json["items"]
    assert {item["version"]: item["state"] for item in items} == {second: "candidate", model[1]: "active"}


def test_model_has_its_manifest(client, as_ada, model):
    record = client.get(f"{MODELS}/{model[1]}", headers=as_ada).json
    assert (record["recipe"], record["state"]) == ("templates", "active")
    assert set(record["files"]) == {"serving.npz"}


@pytest.mark.parametrize("path", ["", "/card"])
def test_unknown_model_is_not_found(client, as_ada, path):
    assert client.get(f"{MODELS}/nope{path}", headers=as_ada).status_code == 404
    assert client.get(f"{MODELS}/%00{path}", headers=as_ada).status_code == 404


def test_administrator_activates_model(client, admin, as_admin, as_ada, second):
    answer = client.post(f"{MODELS}/{second}/activate", headers=as_admin)
    assert (answer.status_code, answer.json["state"]) == (200, "active")
    assert client.post(ANALYZE, json={"text": "x"}, headers=as_ada).json["model_version"] == second
    event = client.get(f"{MODELS}/{second}/events", headers=as_admin).json["items"][0]
    assert (event["action"], event["by"]) == ("activated", str(admin.id))


def test_user_cannot_activate_model(client, as_ada, second):
    assert client.post(f"{MODELS}/{second}/activate", headers=as_ada).status_code == 403
    assert client.get(f"{MODELS}/{second}/events", headers=as_ada).status_code == 403


def test_refused_promotion_answers_409_with_reason(client, as_admin, second):
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(artifact=b"corrupt"))
    answer = client.post(f"{MODELS}/{second}/activate", headers=as_admin)
    assert (answer.status_code, answer.json["type"]) == (409, "urn:sentiment-app:problem:promotion-refused")
    assert "digest" in answer.json["detail"]


@pytest.mark.parametrize(
    ("accept", "mimetype"),
    [(None, "text/markdown"), ("*/*", "text/markdown"), ("text/html,*/*;q=0.8", "text/html")],
)
def test_card_is_markdown_or_html(client, as_ada, model, accept, mimetype):
    headers = {**as_ada, **({"Accept": accept} if accept else {})}
    answer = client.get(f"{MODELS}/{model[1]}/card", headers=headers)
    assert (answer.status_code, answer.mimetype) == (200, mimetype)
    assert model[1] in answer.text
    assert "Known limits" in answer.text


@pytest.mark.asvs("1.2.1")
def test_source_with_a_vertical_bar_keeps_the_columns_of_the_card(model):
    numbers = dict.fromkeys(("accuracy", "macro_f1", "macro_recall", "auc", "log_loss", "calibration_error"), 0.5)
    measured = {**numbers, "texts": 10, "counts": {"negative": 5, "positive": 5}}
    manifest = json.loads(model[0].manifest) | {"metrics": {"by_source": {"a|b": measured, "c": measured}}}
    page = cards.markdown(manifest)
    rows = re.findall(r"^\| .*\(two classes\).*$", page, re.MULTILINE)
    assert len(rows) == 2
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
    assert rows[0].startswith("| a\\|b (two classes) |")


@pytest.mark.asvs("1.2.1")
def test_html_in_manifest_is_escaped(client, as_ada, second):
    answer = client.get(f"{MODELS}/{second}/card", headers={**as_ada, "Accept": "text/html"})
    assert "<script" not in answer.text
    assert "script-src" not in answer.headers["Content-Security-Policy"]


def test_docs_show_card_of_active_model(client, model):
    answer = client.get("/docs/model")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert model[1] in answer.text


def test_unknown_terms_cause_a_warning(client, as_ada):
    known = client.post(ANALYZE, json={"text": "I love this phone"}, headers=as_ada).json
    assert known["coverage"] == pytest.approx(1.0)
    assert "warnings" not in known
    unknown = client.post(ANALYZE, json={"text": "Zażółć gęślą jaźń"}, headers=as_ada).json
    assert unknown["coverage"] == pytest.approx(0.0)
    assert [entry["code"] for entry in unknown["warnings"]] == ["low-coverage"]


@pytest.mark.parametrize(
    "text",
    [
        "Das Essen war schrecklich und der Service miserabel",
        "La comida estaba deliciosa y el personal muy amable",
        "Il servizio era pessimo e il cibo freddo",
        "Le personnel était très gentil et la chambre propre",
    ],
)
def test_other_language_causes_a_warning(client, as_ada, text):
    assert client.post(ANALYZE, json={"text": text}, headers=as_ada).json["warnings"]


@pytest.mark.parametrize("text", [" ", "\n", "、"])
def test_text_without_terms_has_no_coverage(client, as_ada, text):
    answer = client.post(ANALYZE, json={"text": text}, headers=as_ada)
    assert (answer.status_code, answer.json["coverage"]) == (200, 0.0)
    assert answer.json["warnings"]
