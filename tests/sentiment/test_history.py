import uuid
from datetime import UTC, datetime, timedelta

import pytest

URL = "/api/v1/sentiment/history"


@pytest.fixture
def analyze(client):
    def analyze(headers, *texts):
        answers = [client.post("/api/v1/sentiment/analyze", json={"text": text}, headers=headers) for text in texts]
        return [answer.json for answer in answers]

    return analyze


def texts(page):
    return [entry["text"] for entry in page["items"]]


def test_history_is_newest_first(client, as_ada, analyze):
    analyze(as_ada, "one", "two", "three")
    page = client.get(URL, headers=as_ada).json
    assert (texts(page), page["next_cursor"]) == (["three", "two", "one"], None)


def test_history_row_equals_the_answer(client, as_ada, analyze):
    before = datetime.now(UTC) - timedelta(milliseconds=1)  # because ids have a precision of a millisecond
    (made,) = analyze(as_ada, "one")
    row = client.get(f"{URL}/{made['id']}", headers=as_ada).json
    kept = set(made) - {"coverage", "warnings"}  # these fields are not stored
    assert {name: row[name] for name in kept} == {name: made[name] for name in kept}
    assert before <= datetime.fromisoformat(row["created_at"]) <= datetime.now(UTC)


def test_pages_are_stable_under_inserts(client, as_ada, analyze):
    analyze(as_ada, *"abcdef")
    first = client.get(f"{URL}?limit=2", headers=as_ada).json
    analyze(as_ada, "late")
    second = client.get(f"{URL}?limit=2&cursor={first['next_cursor']}", headers=as_ada).json
    third = client.get(f"{URL}?limit=2&cursor={second['next_cursor']}", headers=as_ada).json
    assert texts(first) + texts(second) + texts(third) == list("fedcba")
    assert third["next_cursor"] is None


def test_filter_by_sentiment(client, as_ada, analyze):
    made = analyze(as_ada, "I love it, great", "I hate it, terrible", "wonderful, I love it")
    wanted = [entry["id"] for entry in reversed(made) if entry["sentiment"] == "positive"]
    page = client.get(f"{URL}?sentiment=positive", headers=as_ada).json
    assert [entry["id"] for entry in page["items"]] == wanted
    assert 0 < len(wanted) < 3


def test_filter_by_date(client, as_ada, analyze):
    analyze(as_ada, "now")
    hour = timedelta(hours=1)
    before, after = ((datetime.now(UTC) + shift).isoformat() for shift in (-hour, hour))
    found = {}
    for name, query in {
        "since before": {"since": before},
        "since after": {"since": after},
        "until before": {"until": before},
        "until after": {"until": after},
    }.items():
        found[name] = texts(client.get(URL, query_string=query, headers=as_ada).json)
    assert found == {"since before": ["now"], "since after": [], "until before": [], "until after": ["now"]}


def test_since_and_until_have_microsecond_precision(client, as_ada, analyze):
    analyze(as_ada, "x")
    (row,) = client.get(URL, headers=as_ada).json["items"]
    made, step = datetime.fromisoformat(row["created_at"]), timedelta(microseconds=1)
    queries = ({"since": made}, {"since": made + step}, {"until": made}, {"until": made + step})
    found = [client.get(URL, query_string=query, headers=as_ada).json["items"] for query in queries]
    assert [len(items) for items in found] == [1, 0, 0, 1]


@pytest.mark.parametrize("end", ["9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999999-14:00"])
def test_last_moment_of_datetime_is_a_valid_bound(client, as_ada, analyze, end):
    analyze(as_ada, "x")
    assert texts(client.get(URL, query_string={"until": end}, headers=as_ada).json) == ["x"]
    assert texts(client.get(URL, query_string={"since": end}, headers=as_ada).json) == []


@pytest.mark.asvs("2.2.1", "15.3.7")
@pytest.mark.parametrize(
    "query",
    [
        "limit=1&limit=2",
        "limit=1_0",
        "limit=%D9%A1",
        "sentiment=happy",
        "since=yesterday",
        "since=2026-01-01T00:00:00",
        "until=0",
    ],
)
def test_error_points_to_invalid_filter(client, as_ada, query):
    answer = client.get(f"{URL}?{query}", headers=as_ada)
    assert answer.status_code == 422
    assert answer.json["errors"][0]["pointer"] == "/" + query.partition("=")[0]


@pytest.mark.asvs("8.2.2")
def test_row_of_another_user_is_not_found(client, make_user, sign_in, as_ada, analyze):
    (made,) = analyze(as_ada, "mine")
    as_bob = sign_in(make_user("bob"))
    assert texts(client.get(URL, headers=as_bob).json) == []
    assert client.get(f"{URL}/{made['id']}", headers=as_bob).status_code == 404
    assert client.delete(f"{URL}/{made['id']}", headers=as_bob).status_code == 404
    assert client.get(f"{URL}/{made['id']}", headers=as_ada).status_code == 200


def test_deleted_row_is_gone(client, as_ada, analyze):
    (made,) = analyze(as_ada, "mine")
    assert client.delete(f"{URL}/{made['id']}", headers=as_ada).status_code == 204
    assert client.get(f"{URL}/{made['id']}", headers=as_ada).status_code == 404
    assert client.delete(f"{URL}/{made['id']}", headers=as_ada).status_code == 404


def test_unknown_row_is_not_found(client, as_ada):
    assert client.get(f"{URL}/{uuid.uuid4()}", headers=as_ada).status_code == 404


@pytest.mark.parametrize(("proxies", "stored"), [(1, 1), (0, 2)])
def test_request_repeated_by_nginx_is_stored_once(make_app, as_ada, proxies, stored):
    client = make_app(trusted_proxies=proxies).test_client()
    key = {"X-Request-Key": "1795534000.123-" + "0123456789abcdef" * 2}
    ids = {
        client.post("/api/v1/sentiment/analyze", json={"text": "x"}, headers=as_ada | key).json["id"] for _ in range(2)
    }
    rows = client.get(URL, headers=as_ada).json["items"]
    assert {row["id"] for row in rows} == ids
    assert len(rows) == stored
    assert all(uuid.UUID(entry).version == 7 for entry in ids)
    if proxies:
        assert datetime.fromisoformat(rows[0]["created_at"]).timestamp() == 1795534000.123


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize(
    "instant",
    [
        "2026-01-27T00:00:00+16:00",
        "2026-01-27T00:00:00-16:00",
        "2026-01-27T00:00:00+23:59",
        "2026-01-27T00:00:00-23:59",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "0001-01-01T00:00:00-23:59",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59.999999+23:59",
        "9999-12-31T23:59:59.999999-23:59",
    ],
)
def test_any_offset_is_a_valid_bound(client, as_ada, analyze, name, instant):
    analyze(as_ada, "now")
    answer = client.get(URL, query_string={name: instant}, headers=as_ada)
    assert answer.status_code == 200
    is_before_now = instant < "2026-02"
    assert len(answer.json["items"]) == ((name == "since") == is_before_now)


@pytest.mark.parametrize("instant", ["2026-11-27T00:00:00+24:00", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z"])
def test_invalid_time_is_refused(client, as_ada, instant):
    answer = client.get(URL, query_string={"since": instant}, headers=as_ada)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/since")
