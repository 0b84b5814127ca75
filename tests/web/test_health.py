from dataclasses import replace
from types import SimpleNamespace

import pytest
from sqlalchemy import text, update

from sentiment_app.app import create_app
from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import REDIS
from sentiment_app.registry.models import ModelRelease


@pytest.fixture(params=["/readyz", "/health"])
def url(request):
    return request.param


def test_livez_answers(client):
    assert client.get("/livez").json == {"status": "ok"}


def test_readyz_is_ok(client, url):
    answer = client.get(url)
    assert answer.status_code == 200
    assert answer.json == {
        "status": "ok",
        "checks": dict.fromkeys(
            ["database", "database_resources", "migrations", "model", "model_switch", "redis"], "ok"
        ),
    }


def test_readyz_is_degraded_without_redis(make_app, url):
    answer = make_app(redis_url="unix:///nowhere").test_client().get(url)
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert answer.json["checks"]["redis"] != "ok"


def test_redis_that_refuses_writes_is_reported(client, app, url):
    REDIS.get(app).config_set("maxmemory", 1)
    try:
        answer = client.get(url)
    finally:
        REDIS.get(app).config_set("maxmemory", 0)
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert answer.json["checks"]["redis"].startswith("refuses writes")


def test_full_disk_answers_503_and_is_reported(client, as_ada, url):
    db.session.execute(
        text("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON sentiment_requests EXECUTE FUNCTION refuse()
        """)
    )
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "I love it"}, headers=as_ada)
    assert (answer.status_code, answer.json["type"]) == (503, "urn:sentiment-app:problem:unavailable")
    assert answer.headers["Retry-After"]
    assert "disk space" in answer.json["detail"]
    answer = client.get(url)
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert "disk space" in answer.json["checks"]["database_resources"]


def test_dead_pooled_connection_does_not_fail_readyz(settings, base_app):
    app = create_app(settings)
    with app.app_context():
        pooled = db.session.scalar(text("SELECT pg_backend_pid()"))
    with base_app.app_context():
        db.session.execute(text(f"SELECT pg_terminate_backend({pooled}, 5000)"))
    assert app.test_client().get("/readyz").status_code == 200
    with app.app_context():
        db.engine.dispose()


def test_missing_migrations_are_reported(client, url):
    db.session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    answer = client.get(url)
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
    assert "at revision 0001" in answer.json["checks"]["migrations"]
    assert answer.headers["Retry-After"]


def test_readyz_accepts_newer_migrations(client, url):
    db.session.execute(text("UPDATE alembic_version SET version_num = 'newer'"))
    assert client.get(url).json["checks"]["migrations"] == "ok"


def test_readyz_fails_without_model(make_app, url, as_ada):
    client = make_app(release="fresh").test_client()
    db.session.execute(update(ModelRelease).values(state="retired"))
    answer = client.get(url)
    assert (answer.status_code, answer.json["checks"]["model"]) == (503, "no model is active")
    scored = client.post("/api/v1/sentiment/analyze", json={"text": "x"}, headers=as_ada)
    assert (scored.status_code, scored.json["type"]) == (503, "urn:sentiment-app:problem:no-model")


@pytest.mark.asvs("16.5.1")
def test_readyz_fails_without_postgresql_and_shows_no_secret(settings, url):
    away = "postgresql+psycopg2://someone:hunter2secret@/gone?host=/nowhere"
    client = create_app(replace(settings, database_url=away, database_retry_seconds=0.1)).test_client()
    answer = client.get(url)
    assert (answer.status_code, answer.json["checks"]["database"]) == (503, "does not answer")
    assert "hunter2secret" not in answer.text
    assert client.get("/livez").status_code == 200


def test_version_is_shown(client, model):
    answer = client.get("/version").json
    assert answer["model_version"] == model[1]
    assert answer["version"].count(".") == 2


@pytest.mark.asvs("13.4.5")
@pytest.mark.parametrize(
    ("metrics_bind", "internal", "public"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464), ("127.0.0.1", 8000)),
        ("unix:/run/sentiment/metrics.sock", "/run/sentiment/metrics.sock", "/run/sentiment/web.sock"),
    ],
)
def test_metrics_are_served_only_at_internal_address(make_app, metrics_bind, internal, public):
    client = make_app(metrics_bind=metrics_bind).test_client()
    for name, status in ((internal, 200), (public, 404)):
        arrived = {"gunicorn.socket": SimpleNamespace(getsockname=lambda name=name: name)}
        # The Host header must not matter.
        answer = client.get("/metrics", base_url="http://127.0.0.1:9464", environ_overrides=arrived)
        assert answer.status_code == status


def test_metrics_contain_requests_and_no_texts(client, as_ada, model):
    client.post("/api/v1/sentiment/analyze", json={"text": "a secret text"}, headers=as_ada)
    assert client.get("/metrics").status_code == 404
    arrived = {"gunicorn.socket": SimpleNamespace(getsockname=lambda: ("127.0.0.1", 9464))}
    answer = client.get("/metrics", environ_overrides=arrived)
    assert answer.status_code == 200
    assert f'sentiment_scored_rows_total{{model_version="{model[1]}"' in answer.text
    assert 'route="/api/v1/sentiment/analyze",status="200"' in answer.text
    names = "build_info", "queue_jobs", "queue_oldest_wait_seconds", "model_age_seconds", "commit_rows_bucket"
    for name in (*names, "rate_limiter_fallbacks_total"):
        assert f"\nsentiment_{name}" in answer.text
    assert "a secret text" not in answer.text


def test_unknown_path_is_not_a_label(client):
    client.get("/some/secret/path")
    assert "/some/secret/path" not in client.get("/metrics", base_url="http://127.0.0.1:9464").text
