"""Imported scikit-learn pipelines are served from signed joblib files, and a crafted file is never loaded."""

import importlib
import json
import pickle
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC
from sqlalchemy import update

from sentiment_app.infrastructure.database import db
from sentiment_app.ml.artifact import digest
from sentiment_app.registry import promotion, releases
from sentiment_app.registry.models import ModelRelease
from sentiment_app.registry.serving import serving

TEXTS = ["good fine", "bad awful", "on monday", "good good", "awful", "at noon"]
LABELS = ["positive", "negative", "neutral"] * 2


class Bomb:
    """Creates a file when it is unpickled, as a crafted joblib file could."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture
def flask(make_app, tmp_path):
    app = make_app(model_dir=tmp_path / "models")
    with app.app_context():
        runner = app.test_cli_runner()
        yield lambda *arguments: runner.invoke(args=["model", *arguments])


@pytest.fixture
def imported(flask, tmp_path):
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)
    joblib.dump(fitted, tmp_path / "own.joblib")
    done = flask("import", str(tmp_path / "own.joblib"))
    assert done.exit_code == 0, done.output
    version = done.output.split()[0]
    for command in ("release", "activate"):
        assert flask(command, version).exit_code == 0
    return version, fitted


def test_pipeline_that_cannot_score_texts_is_refused(flask, tmp_path):
    joblib.dump(LogisticRegression().fit([[1.0], [2.0], [3.0]], LABELS[:3]), tmp_path / "numbers.joblib")
    done = flask("import", str(tmp_path / "numbers.joblib"))
    assert (done.exit_code, "cannot score texts" in done.output) == (1, True)


def test_imported_pipeline_is_served_as_it_is(client, as_ada, imported):
    version, fitted = imported
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "good", "explain": True}, headers=as_ada).json
    assert answer["model_version"] == version
    assert "explanation" not in answer
    expected = dict(zip(fitted.classes_, fitted.predict_proba(["good"])[0], strict=True))
    assert answer["scores"] == pytest.approx(expected)


def test_unsigned_joblib_file_is_never_loaded(imported, tmp_path, client):
    version, _ = imported
    target = tmp_path / "it ran"
    bomb = pickle.dumps(Bomb(target))
    changes = {"artifact": bomb, "state": "candidate"}
    db.session.execute(update(ModelRelease).where(ModelRelease.version == version).values(changes))
    with pytest.raises(promotion.PromotionError, match="digest"):
        promotion.activate(version, by="tests")
    manifest = releases.fetch(version).manifest.decode()
    forged = manifest.replace(releases.manifest_of(version)["files"]["pipeline.joblib"], digest(bomb)).encode()
    db.session.execute(update(ModelRelease).where(ModelRelease.version == version).values(manifest=forged))
    with pytest.raises(promotion.PromotionError, match="signature"):
        promotion.activate(version, by="tests")
    assert not target.exists()
    pickle.loads(bomb)
    assert target.exists()  # so the bomb was real


@pytest.mark.parametrize(
    ("labels", "option", "columns"),
    [
        (["good", "bad", "meh"] * 2, "good=positive,bad=negative,meh=neutral", {"bad": 0, "meh": 1, "good": 2}),
        ([0, 2, 1, 0, 2, 1], "2,1,0", {2: 0, 1: 1, 0: 2}),
        ([0, 1] * 3, "0=negative,1=positive", {0: 0, 1: 2}),
        (["neg", "pos"] * 3, None, {"neg": 0, "pos": 2}),
    ],
)
def test_labels_of_the_classes_are_given_or_known(flask, tmp_path, labels, option, columns):
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, labels)
    joblib.dump(fitted, tmp_path / "own.joblib")
    if option:
        refused = flask("import", str(tmp_path / "own.joblib"))
        assert (refused.exit_code, "--labels" in refused.output) == (1, True)
    done = flask("import", str(tmp_path / "own.joblib"), *(["--labels", option] if option else []))
    assert done.exit_code == 0, done.output
    scored = json.loads(flask("score", "good fine", "--model", done.output.split()[0], "--json").output)
    probabilities = dict(zip(fitted.classes_.tolist(), fitted.predict_proba(["good fine"])[0], strict=True))
    expected = [0.0, 0.0, 0.0]
    for name, index in columns.items():
        expected[index] = probabilities[name]
    assert list(scored["scores"].values()) == pytest.approx(expected)


def test_classifier_without_probabilities_is_refused_with_the_remedy(flask, tmp_path):
    joblib.dump(make_pipeline(TfidfVectorizer(), LinearSVC()).fit(TEXTS, LABELS), tmp_path / "own.joblib")
    done = flask("import", str(tmp_path / "own.joblib"))
    assert (done.exit_code, "Wrap a classifier without it in CalibratedClassifierCV" in done.output) == (1, True)


def test_search_over_parameters_is_imported(flask, tmp_path):
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1.0]}, cv=2).fit(TEXTS * 2, LABELS * 2)
    joblib.dump(search, tmp_path / "own.joblib")
    assert flask("import", str(tmp_path / "own.joblib")).exit_code == 0


def test_pipeline_that_needs_a_missing_module_names_it(flask, tmp_path, monkeypatch):
    (tmp_path / "my_features.py").write_text("def clean(texts):\n    return texts\n")
    monkeypatch.syspath_prepend(tmp_path)
    clean = importlib.import_module("my_features").clean
    fitted = make_pipeline(FunctionTransformer(clean), TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)
    joblib.dump(fitted, tmp_path / "own.joblib")
    monkeypatch.undo()
    sys.modules.pop("my_features")
    done = flask("import", str(tmp_path / "own.joblib"))
    assert (done.exit_code, "needs the module my_features" in done.output) == (1, True)


def test_file_that_is_not_a_pipeline_is_refused(flask, tmp_path):
    (tmp_path / "x.joblib").write_bytes(b"nonsense")
    done = flask("import", str(tmp_path / "x.joblib"))
    assert (done.exit_code, "cannot be loaded" in done.output) == (1, True)


def nothing_found(texts):
    return np.full((len(texts), 3), np.nan)


def more_than_one(texts):
    return np.full((len(texts), 3), 0.9)


def less_than_zero(texts):
    return np.tile([-0.5, 0.5, 1.0], (len(texts), 1))


def too_few(texts):
    return np.full((len(texts), 2), 0.5)


def trouble(texts):
    raise RuntimeError(texts[0])


@pytest.mark.parametrize("predict", [nothing_found, more_than_one, less_than_zero, too_few, trouble])
def test_unscorable_text_is_refused_and_not_stored(app, client, as_ada, imported, monkeypatch, predict):
    with app.app_context():
        monkeypatch.setattr(serving().current().scorer._pipeline, "predict_proba", predict, raising=False)
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "my secret"}, headers=as_ada)
    assert (answer.status_code, answer.json["type"]) == (422, "urn:sentiment-app:problem:unscorable-text")
    assert answer.json["errors"][0]["pointer"] == "/text"
    assert "secret" not in answer.text
    assert client.get("/api/v1/sentiment/history", headers=as_ada).json["items"] == []
