import json
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from sentiment_app.infrastructure.database import db
from sentiment_app.ml.artifact import Artifact, sign
from sentiment_app.ml.runtime import ModelError
from sentiment_app.registry import promotion, releases
from sentiment_app.registry import serving as serving_module
from sentiment_app.registry.models import ModelRelease
from sentiment_app.registry.serving import serving


@pytest.fixture
def second(app, model):
    """Another release of the same weights under another version."""
    manifest = json.loads(model[0].manifest) | {"version": "20990101-second00"}
    return releases.release(Artifact(json.dumps(manifest).encode(), model[0].serving), by="tests")


def test_activated_model_is_served_without_restart(client, as_ada, second):
    promotion.activate(second, by="tests")
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "x"}, headers=as_ada)
    assert answer.json["model_version"] == second


def test_only_one_model_is_active(second, model):
    promotion.activate(second, by="tests")
    states = {entry.version: entry.state for entry in releases.releases()}
    assert states == {second: "active", model[1]: "previous"}


def test_corrupt_model_is_not_activated(second, model):
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(artifact=b"corrupt"))
    with pytest.raises(promotion.PromotionError, match="digest"):
        promotion.activate(second, by="tests")
    assert releases.active_version() == model[1]


def test_old_model_is_served_if_new_model_does_not_load(client, as_ada, second, model):
    serving().refresh()
    db.session.execute(update(ModelRelease).where(ModelRelease.state == "active").values(state="previous"))
    changes = {"state": "active", "artifact": b"corrupt"}
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(changes))
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "x"}, headers=as_ada)
    assert (answer.status_code, answer.json["model_version"]) == (200, model[1])
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["status"], ready.json["checks"]["model"]) == (200, "degraded", "ok")
    assert "digest" in ready.json["checks"]["model_switch"]


def test_new_process_serves_previous_model_if_active_does_not_load(make_app, second, model, as_ada):
    promotion.activate(second, by="tests")
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(artifact=b"corrupt"))
    client = make_app(model_poll_seconds=60.0).test_client()
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "x"}, headers=as_ada)
    assert (answer.status_code, answer.json["model_version"]) == (200, model[1])
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (200, "degraded")
    assert "digest" in ready.json["checks"]["model_switch"]


@pytest.mark.asvs("2.3.1")
def test_retired_model_cannot_be_activated(second):
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(state="retired"))
    with pytest.raises(promotion.PromotionError, match="retired"):
        promotion.activate(second, by="tests")


def test_invalid_artifact_is_not_released(app, model):
    with pytest.raises(ModelError):
        releases.release(model[0]._replace(serving=b"something else"), by="tests")


def test_second_release_signs_with_current_key(make_app, model, second):
    app = make_app(model_signing_key="another key, after the first key was rotated")
    with app.app_context():
        with pytest.raises(promotion.PromotionError, match="sign"):
            promotion.activate(second, by="tests")
        releases.release(releases.fetch(second), by="tests")
        promotion.activate(second, by="tests")
        assert releases.active_version() == second


def test_any_error_at_loading_keeps_old_model(client, as_ada, second, model, monkeypatch):
    serving().refresh()
    promotion.activate(second, by="tests")

    def bug(*_):
        raise KeyError("weights")

    monkeypatch.setattr(serving_module, "open_artifact", bug)
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "x"}, headers=as_ada)
    assert (answer.status_code, answer.json["model_version"]) == (200, model[1])
    assert client.get("/readyz").json["checks"]["model_switch"] == "the active model does not load: KeyError"


def released(model, version, recall=None, texts="the same", failures=None):
    manifest = json.loads(model[0].manifest) | {"version": version}
    if recall:
        manifest["metrics"] = {"by_source": {"tweets": {"macro_recall": recall, "texts_sha256": texts, "texts": 1000}}}
    if failures is not None:
        kinds = [{"kind": "idioms", "sentences": 100, "failures": failures}]
        manifest["metrics"] = {**manifest["metrics"], "behaviour": kinds}
    return releases.release(Artifact(json.dumps(manifest).encode(), model[0].serving), by="tests")


def states():
    return {version: state for version, state in releases.states().items() if version.startswith("v")}


def actions(version):
    return [entry.action for entry in reversed(releases.events(version))]


def test_second_rollback_undoes_the_first(app, model):
    for version in ("v1", "v2", "v3"):
        promotion.activate(released(model, version), by="tests")
    assert states() == {"v1": "candidate", "v2": "previous", "v3": "active"}
    assert promotion.rollback(by="tests") == "v2"
    assert states() == {"v1": "candidate", "v2": "active", "v3": "previous"}
    assert promotion.rollback(by="tests") == "v3"
    assert actions("v2") == ["released", "activated", "rolled back"]


def test_rollback_needs_a_previous_model(app):
    with pytest.raises(promotion.ModelStateError):
        promotion.rollback(by="tests")


def test_corrupt_previous_model_cannot_be_rolled_back_to(app, model):
    for version in ("v1", "v2"):
        promotion.activate(released(model, version), by="tests")
    db.session.execute(update(ModelRelease).where(ModelRelease.version == "v1").values(artifact=b"corrupt"))
    with pytest.raises(promotion.PromotionError, match="digest"):
        promotion.rollback(by="tests")
    assert states() == {"v1": "previous", "v2": "active"}
    assert actions("v1")[-1] == "refused"


def test_worse_model_needs_allow_worse(app, model):
    promotion.activate(released(model, "v1", 0.75), by="tests")
    worse = released(model, "v2", 0.70)
    with pytest.raises(promotion.PromotionError, match=r"0\.700.*0\.750"):
        promotion.activate(worse, by="tests")
    assert releases.active_version() == "v1"
    assert actions("v2") == ["released", "refused"]
    promotion.activate(released(model, "v3", 0.74), by="tests")  # within the tolerance
    promotion.activate(worse, by="tests", allow_worse=True)
    assert releases.active_version() == "v2"


def test_model_that_fails_more_of_the_behavioural_suite_needs_allow_worse(app, model):
    promotion.activate(released(model, "v1", 0.75, failures=10), by="tests")
    worse = released(model, "v2", 0.75, failures=16)
    with pytest.raises(promotion.PromotionError, match=r"16\.0% of the behavioural suite.*v1 fails on 10\.0%"):
        promotion.activate(worse, by="tests")
    promotion.activate(released(model, "v3", 0.75, failures=15), by="tests")  # within the tolerance
    promotion.activate(released(model, "v4", 0.75), by="tests")  # not measured
    promotion.activate(worse, by="tests", allow_worse=True)
    assert releases.active_version() == "v2"


@pytest.mark.parametrize("candidate", [{}, {"recall": 0.9, "texts": "others"}])
def test_model_that_cannot_be_compared_needs_allow_worse(app, model, candidate):
    promotion.activate(released(model, "v1", 0.75), by="tests")
    other = released(model, "v2", **candidate)
    with pytest.raises(promotion.PromotionError, match="no metrics on the texts"):
        promotion.activate(other, by="tests")
    promotion.activate(other, by="tests", allow_worse=True)
    assert releases.active_version() == "v2"


def test_active_model_cannot_be_retired(app, model):
    with pytest.raises(promotion.ModelStateError, match="is active"):
        promotion.retire(model[1], by="tests")


def test_retired_model_can_be_reinstated(second):
    promotion.retire(second, by="tests")
    promotion.retire(second, by="tests")
    promotion.reinstate(second, by="tests")
    assert releases.states()[second] == "candidate"
    assert actions(second) == ["released", "retired", "reinstated"]


@pytest.mark.asvs("16.3.4")
def test_failed_load_is_in_the_audit_log(client, as_ada, second):
    serving().refresh()
    promotion.activate(second, by="tests")
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(artifact=b"corrupt"))
    serving().refresh()
    assert actions(second)[-1] == "not loaded"


def test_request_can_name_a_released_model(client, as_ada, second):
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "x", "model": second}, headers=as_ada)
    assert (answer.status_code, answer.json["model_version"]) == (200, second)


def test_few_named_models_stay_loaded(client, as_ada, model):
    for number in range(4):
        version = released(model, f"v{number}")
        answer = client.post("/api/v1/sentiment/analyze", json={"text": "x", "model": version}, headers=as_ada)
        assert answer.json["model_version"] == version
    assert list(serving()._pinned) == ["v2", "v3"]


@pytest.mark.parametrize("prepare", [lambda version: promotion.retire(version, by="tests"), lambda _: None])
def test_unknown_or_retired_model_cannot_be_named(client, as_ada, second, prepare):
    prepare(second)
    name = second if releases.states()[second] == "retired" else "nope"
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "x", "model": name}, headers=as_ada)
    assert (answer.status_code, answer.json["type"]) == (404, "urn:sentiment-app:problem:unknown-model")
    assert answer.json["errors"][0]["pointer"] == "/model"


def test_retired_model_is_no_longer_served_by_name(client, as_ada, second):
    body = {"text": "x", "model": second}
    assert client.post("/api/v1/sentiment/analyze", json=body, headers=as_ada).status_code == 200
    promotion.retire(second, by="tests")
    assert client.post("/api/v1/sentiment/analyze", json=body, headers=as_ada).status_code == 404


def test_cache_is_used_and_verified(make_app, tmp_path, second):
    with make_app(model_cache_dir=tmp_path).app_context():
        expected = releases.fetch(second)
        assert releases.fetch_cached(second) == expected
        (file,) = tmp_path.iterdir()
        db.session.execute(update(ModelRelease).values(artifact=b"not read"))
        assert releases.fetch_cached(second) == expected
        file.write_bytes(b"tampered")
        assert releases.fetch_cached(second).serving == b"not read"


@pytest.mark.parametrize("piece", [1000, 1024**2])
def test_artifact_is_fetched_in_pieces(second, model, monkeypatch, piece):
    monkeypatch.setattr(releases, "PIECE_BYTES", piece)
    assert len(model[0].serving) % 1000 != 0  # so that the last piece is shorter
    assert releases.fetch(second).serving == model[0].serving


OLD_KEY = "the signing key before the rotation"


def test_models_survive_rotation_of_signing_key(app, second, model):
    signed = {entry.version: sign(entry.manifest, OLD_KEY) for entry in releases.releases()}
    for version, signature in signed.items():
        db.session.execute(update(ModelRelease).where(ModelRelease.version == version).values(signature=signature))
    done = app.test_cli_runner().invoke(args=["model", "sign", "--old-key-stdin"], input=OLD_KEY)
    assert done.exit_code == 0, done.output
    assert {line.split()[0] for line in done.output.splitlines()} == {second, model[1]}
    assert releases.verify(second)
    assert app.test_cli_runner().invoke(args=["model", "sign", "--old-key-stdin"], input=OLD_KEY).output == ""


def test_model_signed_with_unknown_key_is_not_resigned(app, second, model):
    values = {"signature": "0" * 64}
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(values))
    db.session.commit()
    done = app.test_cli_runner().invoke(args=["model", "sign", "--old-key-stdin"], input=OLD_KEY)
    assert done.exit_code == 1
    assert "neither key" in done.output
    with pytest.raises(ModelError, match="signature"):
        releases.verify(second)
    assert releases.verify(model[1])


def test_requests_that_load_models_are_limited(client, as_ada, second, full):
    body = {"text": "x", "model": second}
    with full(serving().loading):
        answer = client.post("/api/v1/sentiment/analyze", json=body, headers=as_ada)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert client.post("/api/v1/sentiment/analyze", json=body, headers=as_ada).json["model_version"] == second


def test_metrics_are_compared_with_model_active_at_the_switch(app, model, monkeypatch):
    promotion.activate(released(model, "v1", 0.70), by="tests")
    better, candidate = released(model, "v2", 0.90), released(model, "v3", 0.71)
    verify = releases.verify

    def verify_and_lose(version):
        monkeypatch.setattr(releases, "verify", verify)
        manifest = verify(version)
        promotion.activate(better, by="another")
        return manifest

    monkeypatch.setattr(releases, "verify", verify_and_lose)
    with pytest.raises(promotion.PromotionError, match=r"0\.710.*v2 has 0\.900"):
        promotion.activate(candidate, by="tests")
    assert releases.active_version() == "v2"
    assert actions("v3") == ["released", "refused"]


def test_repeated_activation_does_not_undo_a_later_one(app, model):
    for version in ("v1", "v2"):
        released(model, version)
    event, first, second = uuid4(), releases.manifest_of("v1"), releases.manifest_of("v2")
    promotion._activate("v1", "tests", "activated", event, verified=first, allow_worse=True)
    promotion._activate("v2", "tests", "activated", uuid4(), verified=second, allow_worse=True)
    promotion._activate(
        "v1", "tests", "activated", event, verified=first, allow_worse=True
    )  # as if the answer to its first commit was lost
    assert releases.active_version() == "v2"


def test_nan_metrics_are_refused(app, model):
    promotion.activate(released(model, "v1", 0.9), by="tests")
    with pytest.raises(promotion.PromotionError, match="nan"):
        promotion.activate(released(model, "v2", float("nan")), by="tests")


def test_model_released_again_during_check_is_not_activated(app, model, monkeypatch):
    promotion.activate(released(model, "v1", 0.90), by="tests")
    candidate, verify = released(model, "v2", 0.95), releases.verify

    def verify_and_change(version):
        manifest = verify(version)
        released(model, "v2", 0.10)
        return manifest

    monkeypatch.setattr(releases, "verify", verify_and_change)
    with pytest.raises(promotion.PromotionError, match="released again"):
        promotion.activate(candidate, by="tests")
    assert releases.active_version() == "v1"


def measured(model, version, sources, against=None):
    """Releases a model with a recall and a number of texts for each source."""
    manifest = json.loads(model[0].manifest) | {"version": version}
    by_source = {
        name: {"macro_recall": recall, "texts": texts, "texts_sha256": f"the texts of {name}"}
        for name, (recall, texts) in sources.items()
    }
    manifest["metrics"] = {"by_source": by_source, **({"against": against} if against else {})}
    return releases.release(Artifact(json.dumps(manifest).encode(), model[0].serving), by="tests")


def test_sources_count_by_their_texts(app, model):
    promotion.activate(measured(model, "v1", {"tiny": (0.5, 5), "large": (0.9, 5000)}), by="tests", allow_worse=True)
    with pytest.raises(promotion.PromotionError, match=r"large, tiny is 0\.500, and the active model v1 has 0\.900"):
        promotion.activate(measured(model, "v2", {"tiny": (0.9, 5), "large": (0.5, 5000)}), by="tests")
    promotion.activate(measured(model, "v3", {"tiny": (0.1, 5), "large": (0.9, 5000)}), by="tests")


def test_every_basis_is_compared(app, model):
    promotion.activate(measured(model, "v1", {"tiny": (0.5, 5), "large": (0.9, 5000)}), by="tests", allow_worse=True)
    lost = {"version": "v1", "texts": 5000, "macro_recall": 0.5, "its_macro_recall": 0.9}
    with pytest.raises(promotion.PromotionError, match=r"5,000 texts that neither model was trained on is 0\.500"):
        promotion.activate(measured(model, "v2", {"tiny": (0.5, 5)}, against=lost), by="tests")


def test_release_under_another_name_is_not_activated(app, model):
    for version in ("v1", "v2"):
        released(model, version)
    columns = ModelRelease.manifest, ModelRelease.signature, ModelRelease.artifact
    other = db.session.execute(select(*columns).where(ModelRelease.version == "v2")).one()
    db.session.execute(update(ModelRelease).where(ModelRelease.version == "v1").values(**other._mapping))
    with pytest.raises(promotion.PromotionError, match="the manifest belongs to the version v2"):
        promotion.activate("v1", by="tests")
