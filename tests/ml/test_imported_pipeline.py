"""Imported scikit-learn pipelines are served from signed joblib files, and a crafted file is never loaded."""

import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
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


@pytest.mark.parametrize("labels", [["good", "bad", "meh"] * 2, [0, 2, 0, 2, 0, 2]])
def test_pipeline_with_other_labels_is_refused(flask, tmp_path, labels):
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, labels)
    joblib.dump(fitted, tmp_path / "own.joblib")
    done = flask("import", str(tmp_path / "own.joblib"))
    assert (done.exit_code, "needs predict_proba" in done.output) == (1, True)


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
