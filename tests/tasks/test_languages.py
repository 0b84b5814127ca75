"""Texts in another language than the model's: marked, scored or refused, singly and in tasks."""

import csv
import io
import platform

import pytest

from sentiment_app.infrastructure.queue import REDIS
from sentiment_app.ml import language
from sentiment_app.ml.runtime import Scorer
from sentiment_app.worker import Worker

ANALYZE, TASKS = "/api/v1/sentiment/analyze", "/api/v1/sentiment/tasks"
GERMAN = "Das Essen war leider kalt, und der Kellner war unfreundlich."
ENGLISH = "I love this phone, and the battery is great."

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="eldc has wheels for x86_64 only")

SENTENCES = {
    "de": ["Die Bedienung war super", "Das Zimmer war leider sehr laut und schmutzig", "Ich würde es wieder kaufen"],
    "fr": ["Le personnel était vraiment très gentil", "Je ne recommande pas ce produit à mes amis"],
    "es": ["La comida estaba deliciosa y muy barata", "No volveré nunca más a este hotel"],
    "it": ["Il servizio era pessimo e il cibo freddo", "Una vacanza bellissima con tutta la famiglia"],
    "pt": ["O quarto estava muito limpo e confortável", "Nunca mais compro nada nesta loja"],
    "nl": ["Het eten was heerlijk maar erg duur", "De kamer was klein en niet schoon"],
    "pl": ["Obsługa była bardzo miła i pomocna", "Nigdy więcej nie kupię tego telefonu"],
    "ja": ["とても良い商品でした。また買いたいです。", "配送が遅くて、箱が壊れていました。"],
    "zh": ["这个产品非常好用,我很喜欢。", "服务态度太差了,再也不来了。"],
}
SILENT = [
    "Wow!", "Super!", "Bravo!!", "Ja!", "Olé", "lol", "No!", "Merci!", "Danke schön", "Despacito", "",
    "😀😀😀", "https://example.com/a/b", "12345 678", "Kung Fu Panda", "El Camino",
    "das ist so funny lol I love it so much", "Great café, très chic, would come again with friends",
    "omg sooooo goood cant wait 4 the next 1", "Worst. Service. Ever.", "its not wat i xpected tbh",
    "The Schadenfreude in this film is delightful.", "I ordered the Bratwurst and the Kartoffelsalat.",
]  # fmt: skip


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in SENTENCES.items() for text in texts])
def test_language_of_a_sentence_is_found(code, text):
    assert language.find_other(text, None, "en") == code
    assert language.find_other(text, None, code) is None
    assert language.find_other(text, None, None) is None


@pytest.mark.parametrize("text", [*SILENT, GERMAN[:20] + "\ud800"])
def test_short_and_mixed_texts_are_not_marked(text):
    assert language.find_other(text, None, "en") is None


def test_text_of_which_the_model_knows_the_words_is_not_marked():
    assert language.find_other("Die Bedienung war super", 0.9, "en") is None


def test_most_frequent_language_is_that_of_most_texts():
    assert language.find_most_frequent([*SENTENCES["de"] * 3, *SENTENCES["fr"], "Wow!"]) == "de"
    assert language.find_most_frequent(["Wow!"]) is None


@pytest.fixture
def client_with(make_app):
    return lambda choice: make_app(other_languages=choice).test_client()


def work_for(client):
    Worker(client.application, REDIS.get(client.application), "default").work(burst=True, logging_level="WARNING")


def analyze(client, headers, text):
    return client.post(ANALYZE, json={"text": text}, headers=headers)


def test_text_is_marked_by_default(client, as_ada):
    marked = analyze(client, as_ada, GERMAN).json
    assert {warning["code"]: warning.get("language") for warning in marked["warnings"]}["other-language"] == "de"
    assert "seems to be in German" in marked["warnings"][0]["detail"]
    assert "warnings" not in analyze(client, as_ada, ENGLISH).json


def test_text_is_scored_without_a_mark_or_refused_as_the_operator_chooses(client_with, as_ada):
    scored = analyze(client_with("score"), as_ada, GERMAN).json
    assert [warning["code"] for warning in scored.get("warnings", [])] == ["low-coverage"]
    refusing = client_with("refuse")
    refused = analyze(refusing, as_ada, GERMAN)
    assert (refused.status_code, refused.json["type"].rpartition(":")[2]) == (422, "other-language")
    assert refused.json["errors"][0]["pointer"] == "/text"
    assert analyze(refusing, as_ada, ENGLISH).status_code == 200
    assert len(refusing.get("/api/v1/sentiment/history", headers=as_ada).json["items"]) == 2


def submit(client, headers):
    lines = "".join(f'"{text}"\n' for text in (ENGLISH, GERMAN, ENGLISH))
    return client.post(TASKS, data="text\n" + lines, content_type="text/csv", headers=headers).json["task_id"]


def test_rows_of_a_task_are_marked_and_counted(client, as_ada, work):
    task = submit(client, as_ada)
    work()
    shown = client.get(f"{TASKS}/{task}", headers=as_ada).json
    assert shown["summary"]["warnings"]["other-language"] == 1
    codes = [[warning["code"] for warning in row.get("warnings", [])] for row in shown["result"]]
    assert codes == [[], ["other-language", "low-coverage"], []]
    table = client.get(f"{TASKS}/{task}/results", headers={**as_ada, "Accept": "text/csv"}).text
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [row["warnings"] for row in rows] == ["", "other-language low-coverage", ""]


def test_refused_rows_of_a_task_fail(client_with, as_ada):
    client = client_with("refuse")
    task = submit(client, as_ada)
    work_for(client)
    shown = client.get(f"{TASKS}/{task}", headers=as_ada).json
    assert (shown["request_counts"]["completed"], shown["request_counts"]["failed"]) == (2, 1)
    assert "seems to be in German" in shown["result"][1]["error"]
    assert shown["summary"]["warnings"]["other-language"] == 0
    assert client.post(f"{TASKS}/{task}/retry", headers=as_ada).status_code == 409


def test_retry_after_the_operator_changed_the_choice_keeps_what_was_scored(client_with, as_ada, monkeypatch):
    client = client_with("mark")
    score_many = Scorer.assess_many

    def fail_once(scorer, texts):
        if any("fail" in text for text in texts):
            raise ValueError
        return score_many(scorer, texts)

    monkeypatch.setattr(Scorer, "assess_many", fail_once)
    lines = "".join(f'"{text}"\n' for text in (GERMAN, "It may fail today, I think.", ENGLISH))
    task = client.post(TASKS, data="text\n" + lines, content_type="text/csv", headers=as_ada).json["task_id"]
    work_for(client)
    monkeypatch.setattr(Scorer, "assess_many", score_many)
    refusing = client_with("refuse")
    assert refusing.post(f"{TASKS}/{task}/retry", headers=as_ada).status_code == 202
    work_for(refusing)
    shown = refusing.get(f"{TASKS}/{task}", headers=as_ada).json
    assert shown["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert shown["summary"]["warnings"]["other-language"] == 1
    assert refusing.get("/api/v1/users/me/usage", headers=as_ada).json["total_rows"] == 3
