"""How long requests take after years of use, and while old data are deleted.

The rows of history, accounts and tasks are generated within PostgreSQL. Choose fewer rows on a small machine.
"""

import http.client
import json
import statistics
import time
from typing import Any

import click
import psutil
import psycopg2
from benchmarks import product
from harness import Product
from http_benchmarks import OURS, TEXT, Contender, find_servers, measure

API = "/api/v1"
REPEATS = 200
CONNECTIONS = 4
SECONDS = 2.0

ADD_USERS = """
INSERT INTO users (id, username, email, password_hash)
SELECT uuidv7(), 'user' || number, 'user' || number || '@example.org', '!' FROM generate_series(1, %s) AS number
"""
# The rows of an account, spread over a number of days that ended some days ago. Their ids contain their time.
ADD_ROWS = """
WITH given AS (
    SELECT uuidv7(-(random() * %(days)s + %(ended)s) * interval '1 day') AS id, owner.id AS user_id, random() AS share
    FROM generate_series(1, %(rows)s) AS given(number)
    JOIN (SELECT id, row_number() OVER (ORDER BY id) AS number FROM users WHERE username LIKE %(names)s) AS owner
        ON owner.number = 1 + given.number %% (SELECT count(*) FROM users WHERE username LIKE %(names)s)
)
INSERT INTO sentiment_requests
    (id, user_id, created_at, text, sentiment, negative, neutral, positive, model_version, processing_time)
SELECT id, user_id, uuid_extract_timestamp(id), 'A text that was scored some time ago, of usual length.',
    CASE WHEN share < 0.5 THEN 'negative' ELSE 'positive' END, 1 - share, 0, share, 'generated', 0.00002
FROM given
"""
ADD_TASKS = """
INSERT INTO tasks (id, user_id, status, model_version, total, completed, finished_at, expires_at)
SELECT uuidv7(-random() * interval '20 days'), id, 'completed', 'generated', 10, 10, now(), now() + interval '30 days'
FROM users, generate_series(1, %s) WHERE username = 'ada'
"""


class Caller:
    """Sends requests of ada over one connection."""

    def __init__(self, ours: Product) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", ours.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {ours.token()}", "Content-Type": "application/json"}

    def call(self, path: str, body: Any = None) -> Any:
        """The JSON of a successful answer."""
        given = json.dumps(body) if body else None
        self._connection.request("POST" if body else "GET", path, given, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return json.loads(content)

    def milliseconds(self, path: str, body: Any = None) -> float:
        """The median time of a request."""
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            self.call(path, body)
            times.append(time.perf_counter() - started)
        return statistics.median(times) * 1000


def time_requests(ours: Product) -> dict[str, float]:
    """Milliseconds of each kind of request."""
    caller = Caller(ours)
    first = caller.call(f"{API}/sentiment/history?limit=50")
    deep = f"&cursor={first['next_cursor']}" if first.get("next_cursor") else ""
    return {
        "analyze": caller.milliseconds(f"{API}/sentiment/analyze", {"text": TEXT}),
        "history, first page": caller.milliseconds(f"{API}/sentiment/history?limit=50"),
        "history, next page": caller.milliseconds(f"{API}/sentiment/history?limit=50{deep}"),
        "tasks, first page": caller.milliseconds(f"{API}/sentiment/tasks?limit=50"),
        "usage": caller.milliseconds(f"{API}/users/me/usage"),
        "readyz": caller.milliseconds("/readyz"),
    }


def execute(ours: Product, *statements: tuple[str, Any]) -> None:
    """Run statements, each in a transaction of its own."""
    connection = psycopg2.connect(ours.servers.database_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement, values in statements:
            cursor.execute(statement, values)
        cursor.execute("VACUUM ANALYZE")
    connection.close()


def add_rows(rows: int, names: str, days: int, ended: int = 0) -> tuple[str, dict[str, Any]]:
    """The statement that adds rows to the accounts whose names match a pattern."""
    return ADD_ROWS, {"rows": rows, "names": names, "days": days, "ended": ended}


def slowdown(ours: Product, *command: str) -> list[float]:
    """The throughput of requests while a command runs, as ratios to the median before."""
    web = {"web": psutil.Process(ours.web.pid), **find_servers(ours)}
    contender = Contender(OURS, ours.port, web, ours.token(), f"{API}/sentiment/analyze")

    def rate() -> float:
        return measure(contender, contender.single, {"text": TEXT}, CONNECTIONS, SECONDS).rate

    rate()  # warm up
    before = statistics.median(rate() for _ in range(5))
    started = time.perf_counter()
    process = ours.process("sentiment_app", *command)
    ratios = []
    while process.poll() is None:
        ratios.append(rate() / before)
    assert process.returncode == 0, ours.log.read_text()[-2000:]
    click.echo(f"  {' '.join(command)} took {time.perf_counter() - started:.1f} s")
    return ratios


@click.command(help=__doc__)
@click.option("--rows", default=10_000_000, show_default=True, help="Rows of history, of all accounts.")
@click.option("--users", default=10_000, show_default=True)
@click.option("--tasks", default=100_000, show_default=True, help="Tasks of one user.")
@click.option("--deleted", default=1_000_000, show_default=True, help="Rows that expire, and rows of an erased user.")
def main(rows: int, users: int, tasks: int, deleted: int) -> None:
    """Generate rows, and measure before, after and while they are deleted."""
    with product(WEB_CONCURRENCY="2", USER_RATE_LIMIT="1000000 per minute") as ours:
        execute(ours, (ADD_TASKS, (50,)))  # a page of tasks
        few = time_requests(ours)
        execute(
            ours,
            (ADD_USERS, (users,)),
            (ADD_TASKS, (tasks,)),
            add_rows(rows, "user%", days=360),
            add_rows(rows // 100, "ada", days=360),
        )
        many = time_requests(ours)
        click.secho(f"\nMedian milliseconds of {REPEATS} requests", bold=True)
        click.echo(f"{'':24}{'new':>10}{f'{rows:,} rows':>18}{'ratio':>8}")
        for name, before in few.items():
            click.echo(f"{name:24}{before:10.1f}{many[name]:18.1f}{many[name] / before:8.2f}")
        click.secho(f"\nThroughput of requests while {deleted:,} rows are deleted, as a ratio to before", bold=True)
        execute(ours, add_rows(deleted, "user%", days=30, ended=400))
        show("expired rows", slowdown(ours, "purge"))
        execute(ours, add_rows(deleted, "user1", days=360))
        show("rows of one user", slowdown(ours, "user", "delete", "user1", "--yes"))


def show(name: str, ratios: list[float]) -> None:
    """Print the median and the worst ratio."""
    click.echo(f"{name:24}{statistics.median(ratios):8.2f} (lowest {min(ratios):.2f}, {len(ratios)} measurements)")


if __name__ == "__main__":
    main()
