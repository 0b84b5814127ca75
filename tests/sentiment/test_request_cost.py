"""What a request costs in round trips: each takes longer than most of the work of the request itself."""

import pytest
from harness import PASSWORD
from redis.connection import AbstractConnection

ANALYZE = "/api/v1/sentiment/analyze"
BATCH = "/api/v1/sentiment/analyze/batch"
MODELS = "FROM model_releases"
BATCH_STATEMENTS = 23


@pytest.fixture
def as_key(client, as_ada):
    body = {"current_password": PASSWORD, "name": "key", "scopes": ["score", "tasks"]}
    key = client.post("/api/v1/users/me/api-keys", json=body, headers=as_ada).json["key"]
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def count(client, statements, monkeypatch):
    """Sends a request twice, and returns the SQL statements and the number of Redis round trips of the second."""
    sent = []
    send = AbstractConnection.send_packed_command

    def record(self, command, *arguments, **options):
        sent.append(command)
        return send(self, command, *arguments, **options)

    def count(path, headers, **body):
        assert client.post(path, json=body, headers=headers).status_code == 200
        with monkeypatch.context() as patch, statements() as seen:
            patch.setattr(AbstractConnection, "send_packed_command", record)
            assert client.post(path, json=body, headers=headers).status_code == 200
        # Tests run within a transaction, so a unit of work is a savepoint, and they ask for the active model each time.
        own = [entry for entry in seen if not entry.startswith(("SAVEPOINT", "RELEASE")) and MODELS not in entry]
        return own, len(sent)

    return count


@pytest.mark.parametrize("credential", ["as_ada", "as_key"])
def test_scored_text_takes_one_statement_and_one_round_trip_to_redis(count, request, credential):
    seen, round_trips = count(ANALYZE, request.getfixturevalue(credential), text="I love it")
    assert [entry.split(" (")[0] for entry in seen] == ["EXECUTE store_rows"]
    assert round_trips == 1


def test_batch_at_once_takes_no_job_and_as_many_statements_for_many_texts(count, as_ada):
    headers = {**as_ada, "Prefer": "wait=5"}
    few, many = (count(BATCH, headers, texts=["I love it"] * number) for number in (1, 500))
    assert [len(seen) for seen, _ in (few, many)] == [BATCH_STATEMENTS, BATCH_STATEMENTS]
    assert few[1] == 1
