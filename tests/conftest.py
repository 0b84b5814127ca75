"""Fixtures: real PostgreSQL and Valkey, a migrated database, and a transaction around each test that is rolled back."""

import io
import os
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import flask_migrate
import hypothesis
import pytest
from harness import PASSWORD
from servers import Servers
from sqlalchemy import event

from sentiment_app.app import create_app
from sentiment_app.config import Settings
from sentiment_app.infrastructure import logs
from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import REDIS
from sentiment_app.infrastructure.refreshed import Refreshed
from sentiment_app.ml import artifact
from sentiment_app.ml.training import pipeline as training
from sentiment_app.registry import promotion, releases
from sentiment_app.sentiment.writer import WRITER, GroupWriter
from sentiment_app.users import service as users

# No test depends on the clock, and the everyday run always has the same examples.
hypothesis.settings.register_profile("repository", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("repository")

pytest_plugins = ["task_fixtures"]


@pytest.fixture(scope="session")
def server_urls():
    """URLs of PostgreSQL and Redis: from the environment, or of servers that run during the tests."""
    given = os.environ.get("TEST_DATABASE_URL"), os.environ.get("TEST_REDIS_URL")
    if all(given):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="sentiment-test-") as directory:
        Path(directory).chmod(0o755)
        servers = Servers(Path(directory))
        servers.start()
        yield given[0] or servers.database_url, given[1] or servers.redis_url
        servers.stop()


@pytest.fixture(scope="session")
def settings(server_urls, tmp_path_factory):
    values = {
        "ENVIRONMENT": "testing",
        "DATABASE_URL": server_urls[0],
        "REDIS_URL": server_urls[1],
        "JWT_SECRET_KEY": "a key that signs the tokens of tests only",
        "API_KEY_HASH_KEY": "a key that hashes the API keys of tests only",
        "MODEL_SIGNING_KEY": "a key that signs the models of tests only",
        "MODEL_POLL_SECONDS": "0",
        "MODEL_DIR": str(tmp_path_factory.mktemp("models")),
        "MODEL_CACHE_DIR": "/dev/null/no-cache",
        "PASSWORD_MEMORY_KIB": "64",
        "PASSWORD_ITERATIONS": "1",
        "AUTH_RATE_LIMIT": "10000 per minute",
        "LOGIN_RATE_LIMIT": "10000 per minute",
        "USER_RATE_LIMIT": "10000 per minute",
        "LOG_LEVEL": "WARNING",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        return Settings.from_env()


@pytest.fixture(scope="session")
def pipeline():
    """A pipeline fitted on the template sentences: small, quick, and good enough to separate positive from negative."""
    return training.train(training.TrainingData([], {}), replace(training.FAST, min_count=1))


@pytest.fixture(scope="session")
def model(pipeline):
    """That pipeline as an artifact, and its version."""
    scorer = training.compile_pipeline(pipeline)
    content = io.BytesIO()
    scorer.save(content)
    files = {artifact.SERVING: content.getvalue()}
    known = {"recipe": "templates", "parameters": {}, "data": [], "metrics": {}, "duration_seconds": 0.0}
    manifest, raw = artifact.describe(files, scorer, "tests", language="en", **known)
    return artifact.Artifact(raw, files[artifact.SERVING]), manifest["version"]


@pytest.fixture(scope="session")
def base_app(settings, model):
    """The application on a migrated database that has one active model."""
    app = create_app(settings)
    with app.app_context():
        flask_migrate.upgrade()
        releases.release(model[0], by="tests")
        promotion.activate(model[1], by="tests")
    with app.app_context():
        db.session.configure(join_transaction_mode="create_savepoint")
    yield app
    with app.app_context():
        flask_migrate.downgrade(revision="base")


@pytest.fixture
def make_app(base_app, settings):
    """Makes an application with other settings, inside the test's transaction, which is rolled back."""
    with base_app.app_context():
        engine = db.engine
    connection = engine.connect()
    transaction = connection.begin()
    # The transaction is idle while a test trains a model, which takes longer on a loaded machine.
    connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    REDIS.get(base_app).flushdb()

    @contextmanager
    def savepoint():
        with connection.begin_nested():
            yield connection

    def make(**changes):
        app = create_app(replace(settings, **changes)) if changes else base_app
        with app.app_context():
            db.engines[None] = connection
        WRITER.set(app, GroupWriter(savepoint, savepoint, retry_seconds=0.1))
        return app

    yield make
    with base_app.app_context():
        db.engines[None] = engine
    transaction.rollback()
    connection.close()
    logs.configure(settings.log_level)  # a test that captured stderr has closed the log's stream


@pytest.fixture
def app(make_app):
    app = make_app()
    with app.app_context():
        yield app


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def make_user(app):
    """Makes an account of a given name."""

    def make(username="ada", **options):
        return users.register(username, f"{username}@example.org", PASSWORD, **options)

    return make


@pytest.fixture
def sign_in(client):
    """Signs a user in, and returns the Authorization header."""

    def sign_in(user, client=client):
        answer = client.post("/api/v1/auth/login", json={"username": user.username, "password": PASSWORD})
        assert answer.status_code == 200, answer.json
        return {"Authorization": f"Bearer {answer.json['access_token']}"}

    return sign_in


@pytest.fixture
def ada(make_user):
    return make_user("ada")


@pytest.fixture
def as_ada(ada, sign_in):
    return sign_in(ada)


@pytest.fixture
def admin(make_user):
    return make_user("root", is_superuser=True)


@pytest.fixture
def as_admin(admin, sign_in):
    return sign_in(admin)


@pytest.fixture
def full():
    """Uses up a ConcurrencyLimit until the block ends."""

    @contextmanager
    def full(limit):
        with ExitStack() as places:
            for _ in range(limit.capacity):
                assert places.enter_context(limit.try_admit())
            yield

    return full


@pytest.fixture
def statements(app):
    """Lists the SQL statements that run in a block, without the reads that each process repeats every few seconds."""

    @contextmanager
    def statements():
        seen = []

        def keep(refreshed):
            if not refreshed._values:
                refreshed.read_again(0)

        def listen(_connection, _cursor, statement, *_):
            seen.append(statement)

        event.listen(db.engine, "before_cursor_execute", listen)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Refreshed, "_refresh", keep)
                yield seen
        finally:
            event.remove(db.engine, "before_cursor_execute", listen)

    return statements
