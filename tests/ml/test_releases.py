import json

import pytest
from sqlalchemy import update

from sentiment_app.extensions import db
from sentiment_app.ml.artifact import Artifact
from sentiment_app.ml.runtime import ModelError
from sentiment_app.sentiment import releases
from sentiment_app.sentiment import serving as serving_module
from sentiment_app.sentiment.models import ModelRelease
from sentiment_app.sentiment.serving import serving


@pytest.fixture
def second(app, model):
    """Another release of the same weights under another version."""
    manifest = json.loads(model[0].manifest) | {"version": "20990101-second00"}
    return releases.release(Artifact(json.dumps(manifest).encode(), model[0].serving), by="tests")


def test_an_activated_model_is_served_without_a_restart(client, as_ada, second):
    releases.activate(second, by="tests")
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "x"}, headers=as_ada)
    assert answer.json["model_version"] == second


def test_only_one_model_is_active(second, model):
    releases.activate(second, by="tests")
    states = {one.version: one.state for one in releases.releases()}
    assert states == {second: "active", model[1]: "previous"}


def test_a_corrupt_model_fails_the_gate_and_changes_nothing(second, model):
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(artifact=b"corrupt"))
    with pytest.raises(releases.GateError, match="digest"):
        releases.activate(second, by="tests")
    assert releases.active_version() == model[1]


def test_a_model_that_cannot_be_loaded_leaves_the_old_one_serving(client, as_ada, second, model):
    serving().refresh()
    db.session.execute(update(ModelRelease).where(ModelRelease.state == "active").values(state="previous"))
    changes = {"state": "active", "artifact": b"corrupt"}
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(changes))
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "x"}, headers=as_ada)
    assert (answer.status_code, answer.json["model_version"]) == (200, model[1])
    assert "digest" in client.get("/readyz").json["checks"]["model"]


def test_a_retired_model_is_not_activated(second):
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(state="retired"))
    with pytest.raises(releases.GateError, match="retired"):
        releases.activate(second, by="tests")


def test_an_unsound_artifact_is_not_released(app, model):
    with pytest.raises(ModelError):
        releases.release(model[0]._replace(serving=b"something else"), by="tests")


def test_releasing_again_signs_with_the_key_of_today(make_app, model, second):
    app = make_app(model_signing_key="another key, after the first one was exchanged")
    with app.app_context():
        with pytest.raises(releases.GateError, match="sign"):
            releases.activate(second, by="tests")
        releases.release(releases.fetch(second), by="tests")
        releases.activate(second, by="tests")
        assert releases.active_version() == second


def test_whatever_a_model_does_at_loading_the_old_one_serves_on(client, as_ada, second, model, monkeypatch):
    serving().refresh()
    releases.activate(second, by="tests")

    def bug(*_):
        raise KeyError("weights")

    monkeypatch.setattr(serving_module, "open_artifact", bug)
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "x"}, headers=as_ada)
    assert (answer.status_code, answer.json["model_version"]) == (200, model[1])
    assert client.get("/readyz").json["checks"]["model"] == "it does not load: KeyError"
