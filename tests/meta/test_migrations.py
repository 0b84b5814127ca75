"""Migrations: each upgrade and downgrade works on a separate database, and the models match the result."""

from dataclasses import replace

import flask_migrate
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from sentiment_app.app import create_app
from sentiment_app.infrastructure.database import db


@pytest.fixture
def app(settings):
    server = sa.create_engine(settings.database_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS migrations_test")
        connection.exec_driver_sql("CREATE DATABASE migrations_test")
    server.dispose()
    url = sa.make_url(settings.database_url).set(database="migrations_test")
    app = create_app(replace(settings, database_url=url.render_as_string(hide_password=False)))
    with app.app_context():
        yield app
        for engine in db.engines.values():
            engine.dispose()


def tables():
    return set(sa.inspect(db.engine).get_table_names()) - {"alembic_version"}


def test_each_migration_goes_up_and_down(app):
    revisions = [entry.revision for entry in ScriptDirectory("migrations").walk_revisions()][::-1]
    seen = [tables()]
    for revision in revisions:
        flask_migrate.upgrade(revision=revision)
        seen.append(tables())
    for before in seen[-2::-1]:
        flask_migrate.downgrade(revision="-1")
        assert tables() == before


def test_models_match_migrations(app):
    flask_migrate.upgrade()
    flask_migrate.check()
    assert tables() == set(db.metadata.tables)


def test_migration_adds_up_totals_of_ended_tasks(app):
    flask_migrate.upgrade(revision="0005")
    with db.engine.begin() as connection:
        connection.exec_driver_sql(
            """
            INSERT INTO users (id, username, email, password_hash) VALUES (gen_random_uuid(), 'ada', 'a@b.c', 'x');
            INSERT INTO tasks (id, user_id, status, model_version, total)
                SELECT gen_random_uuid(), id, 'completed', 'v1', 6 FROM users;
            INSERT INTO task_chunks (id, task_id, first, size, state, texts, keys, completed, failed, counts,
                    confidence_sum, histogram)
                SELECT gen_random_uuid(), id, first, 3, 'done', '', '', 2, 1, '{1,0,1}', 1.5, '{0,0,0,0,0,0,0,1,1,0}'
                FROM tasks, unnest(ARRAY[0, 3]) AS first;
            """
        )
    flask_migrate.upgrade(revision="0006")
    with db.engine.begin() as connection:
        totals = "SELECT completed, failed, counts, confidence_sum, histogram FROM tasks"
        found = connection.exec_driver_sql(totals).one()
    assert tuple(found) == (4, 2, [2, 0, 2], 3.0, [0, 0, 0, 0, 0, 0, 0, 2, 2, 0])
