"""The Python client against the real service: programs of a few lines, the command, retries and lost connections."""

import asyncio
import csv
import gzip
import http.server
import json
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import httpx
import pytest
import sentiment_client
from python_calamine import CalamineWorkbook
from sentiment_client import AsyncClient, Client, Row
from sentiment_client.operations import RESULTS

CLIENT = Path(sentiment_client.__file__).parents[1]
ROWS = [
    {"text": f"{'Lovely' if number % 2 else 'Awful'} {number}", "custom_id": f"{number:03}"} for number in range(250)
]


pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture(scope="module")
def key(product):
    scopes = [part for scope in ("score", "tasks", "read") for part in ("--scope", scope)]
    return product.run_or_fail("flask", "user", "create-key", "ada", "--name", "client", *scopes).strip()


@pytest.fixture
def client(product, key):
    with Client(product.url, key) as client:
        yield client


@pytest.fixture
def reviews(tmp_path):
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "stars", "review"])
        writer.writerows([row["custom_id"], 5, row["text"]] for row in ROWS)
        writer.writerow(["250", 1, ""])
    return path


def test_program_of_four_lines_scores_a_file(product, key, reviews, tmp_path):
    program = f"""from sentiment_client import Client
client = Client({product.url!r}, {key!r})
client.submit({str(reviews)!r}, column="review").wait().to_file({str(tmp_path / "scored.csv")!r})
"""
    environment = {"PYTHONPATH": str(CLIENT)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=120)
    table = list(csv.DictReader((tmp_path / "scored.csv").read_text().splitlines()))
    assert len(table) == 251
    assert (table[5]["id"], table[5]["stars"], table[5]["text"]) == ("005", "5", "Lovely 5")
    assert table[5]["sentiment"] == "positive"
    assert (table[250]["sentiment"], table[250]["error"]) == ("", "The text must have 1 to 20,000 characters, not 0.")


def test_text_is_scored_with_an_explanation(client):
    answer = client.analyze("The food was wonderful.", explain=True, store=False)
    assert (answer.sentiment, answer.id) == ("positive", None)
    assert answer.confidence == max(answer.scores)
    assert "bias" in answer.explanation
    assert client.analyze("The food was wonderful.").id


def test_many_texts_come_back_in_their_order_and_leave_no_task(client):
    texts = (row["text"] for row in ROWS)
    found = list(client.analyze_many(texts))
    assert [row.text for row in found] == [row["text"] for row in ROWS]
    assert [row.index for row in found] == list(range(250))
    before = len(client.tasks())
    assert [row.sentiment for row in client.analyze_many(["", "The food was wonderful."])] == [None, "positive"]
    assert len(client.tasks()) == before


def test_rows_of_an_iterator_are_streamed_and_reported(client):
    seen = []
    task = client.submit(iter(ROWS)).wait(progress=seen.append)
    assert (seen[-1].status, seen[-1].total, seen[-1].has_ended) == ("completed", 250, True)
    assert [row.custom_id for row in task.results()] == [row["custom_id"] for row in ROWS]
    assert isinstance(next(task.results()), Row)
    again = client.task(task.id)
    assert (again.percent, repr(again)) == (100.0, f"<Task {task.id} completed 100.0 %>")
    task.delete()
    with pytest.raises(sentiment_client.NotFoundError):
        client.task(task.id)


@pytest.mark.parametrize("suffix", RESULTS)
def test_results_are_written_in_every_format(client, tmp_path, suffix):
    task = client.submit(ROWS).wait()
    path = task.to_file(tmp_path / f"results{suffix}")
    assert path.stat().st_size > 1000
    assert list(tmp_path.iterdir()) == [path]
    if suffix == ".xlsx":
        assert len(CalamineWorkbook.from_path(str(path)).get_sheet_by_index(0).to_python()) == 251
    if suffix == ".ndjson":
        assert json.loads(path.read_text().splitlines()[7])["text"] == "Lovely 7"


def test_compressed_and_other_files_are_sent_as_what_they_are(client, tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (tmp_path / "rows.ndjson.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "rows.tsv").write_text("text\tid\ngood\t1\n")
    (tmp_path / "rows.json").write_text(json.dumps(["good", "bad"]))
    totals = [client.submit(tmp_path / name).progress.total for name in ("rows.ndjson.gz", "rows.tsv", "rows.json")]
    assert totals == [250, 1, 2]
    with pytest.raises(ValueError, match="has none of these endings"):
        client.submit(tmp_path / "rows.docx")


def test_errors_have_names_and_pointers(client, product, reviews):
    with pytest.raises(sentiment_client.InvalidRequestError, match="Its columns are: id, stars, review") as found:
        client.submit(reviews, column="opinion")
    assert (found.value.status, found.value.errors[0].pointer) == (422, "/column")
    assert found.value.request_id
    with pytest.raises(sentiment_client.InvalidRequestError, match="text"):
        client.analyze("x" * 20_001)
    with pytest.raises(sentiment_client.AuthenticationError), Client(product.url, "snt_live_wrong") as stranger:
        stranger.analyze("good")
    with pytest.raises(sentiment_client.NotFoundError):
        client.analyze("good", model="19990101-00000000")
    with (
        pytest.raises(sentiment_client.ServiceUnreachableError),
        Client("http://127.0.0.1:9", "x", patience=0) as nobody,
    ):
        nobody.analyze("good")
    with pytest.raises(ValueError, match="SENTIMENT_URL"):
        Client()


def test_cancelled_task_is_an_error_with_its_progress(client):
    task = client.submit([f"good {number}" for number in range(20_000)])
    try:
        task.cancel()
    except sentiment_client.ConflictError:
        pytest.skip("the workers were faster than the cancellation")
    with pytest.raises(sentiment_client.TaskFailedError) as found:
        task.wait()
    assert found.value.progress.status == task.status == "cancelled"
    assert len(list(task.results())) == task.progress.completed  # the rows that were scored before
    assert task.retry().wait().status == "completed"


def test_right_label_is_stored(client):
    client.correct("The food was wonderful.", "positive")
    with pytest.raises(sentiment_client.ApiError) as found:
        client.correct("The food was wonderful.", "good")
    assert (found.value.status, found.value.errors[0].pointer) == (422, "/label")


def test_models_and_usage(client):
    assert [model["state"] for model in client.models()][:1]
    assert client.usage()["total_rows"] > 0


def test_dataframe_needs_pandas(client):
    task = client.submit(["good"]).wait()
    with pytest.raises(ImportError, match=r"pip install sentiment-client\[pandas\]"):
        task.to_dataframe()


def test_asynchronous_client_does_the_same(product, key, reviews, tmp_path):
    async def run():
        async with AsyncClient(product.url, key) as client:
            answers = await asyncio.gather(*(client.analyze("The food was wonderful.") for _ in range(5)))
            assert {answer.sentiment for answer in answers} == {"positive"}
            await client.correct("The food was wonderful.", "positive")
            task = await client.submit(reviews, column="review")
            await task.wait()
            assert [row.text async for row in task.results()][:2] == ["Awful 0", "Lovely 1"]
            await task.to_file(tmp_path / "scored.csv")
            await task.delete()
            assert [row.sentiment async for row in client.analyze_many(["The food was wonderful."])] == ["positive"]
            with pytest.raises(sentiment_client.NotFoundError):
                await client.task(task.id)

    asyncio.run(run())
    assert len((tmp_path / "scored.csv").read_text().splitlines()) == 252


def test_command_scores_a_file(product, key, reviews, tmp_path):
    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "sentiment_client.cli", *arguments],
            env={"PYTHONPATH": str(CLIENT), "SENTIMENT_URL": product.url, "SENTIMENT_KEY": key, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    target = tmp_path / "scored.xlsx"
    done = run("score", str(reviews), "--column", "review", "-o", str(target))
    assert (done.returncode, "251 rows" in done.stderr, "1 failed" in done.stderr) == (0, True, True), done.stderr
    assert target.exists()
    assert run("text", "The food was wonderful.").stdout.startswith("positive 0.")
    wrong = run("score", str(reviews), "--column", "opinion")
    assert (wrong.returncode, "Its columns are" in wrong.stderr, "Traceback" in wrong.stderr) == (1, True, False)
    assert run("score", str(tmp_path / "nothing.csv")).returncode == 1
    for output, reason in (("out.txt", "none of these endings"), ("nowhere/out.csv", "does not exist")):
        wrong = run("score", str(reviews), "--column", "review", "-o", output)
        assert (wrong.returncode, reason in wrong.stderr, "Task" in wrong.stderr) == (1, True, False)
    assert run("text", "good", SENTIMENT_KEY="").returncode == 1
    assert run("nonsense").returncode == 2
    assert "sentiment-client score reviews.csv" in run("--help").stdout


class Flaky(http.server.BaseHTTPRequestHandler):
    """Refuses or interrupts the first requests, and passes the others on to the service."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else None
        self.server.seen.append((self.command, self.path.partition("?")[0], self.headers.get("Idempotency-Key")))
        is_check = self.command == "GET" and "/tasks?" in self.path  # before an upload
        trouble = self.server.trouble.pop(0) if self.server.trouble and not is_check else None
        if trouble == "refuse":
            self.reply(503, b"{}", {"Retry-After": "0"})
            return
        if trouble == "reset":
            self.close_connection = True
            self.connection.close()
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        answer = httpx.request(self.command, self.server.url + self.path, content=body, headers=headers)
        self.reply(answer.status_code, answer.content, {"Content-Type": answer.headers["Content-Type"]}, trouble)

    def reply(self, status, body, headers, trouble=None):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if trouble == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def flaky(product):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    server.url, server.seen, server.trouble = product.url, [], []
    server.handle_error = lambda *_: None  # a connection that was closed on purpose
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def through_flaky(flaky, key):
    with Client(f"http://127.0.0.1:{flaky.server_address[1]}", key) as client:
        yield client


def test_submission_is_repeated_with_the_same_key(flaky, through_flaky, client, reviews):
    before = len(client.tasks())
    flaky.trouble = ["refuse", "reset", "cut"]
    task = through_flaky.submit(reviews, column="review")
    assert task.progress.total == 251
    keys = {key for method, path, key in flaky.seen if method == "POST"}
    assert (len(flaky.seen), len(keys)) == (5, 1)
    assert len(client.tasks()) == before + 1


def test_text_is_not_scored_twice_after_a_lost_answer(flaky, through_flaky):
    flaky.trouble = ["refuse", "cut"]
    with pytest.raises(sentiment_client.ServiceUnreachableError):
        through_flaky.analyze("good")
    assert len(flaky.seen) == 2


def test_interrupted_download_continues(flaky, through_flaky, client, tmp_path):
    task = through_flaky.task(client.submit(ROWS).wait().id)
    flaky.trouble = ["cut", "cut"]
    assert [row.custom_id for row in task.results()] == [row["custom_id"] for row in ROWS]
    flaky.trouble = ["cut"]
    assert task.to_file(tmp_path / "results.csv").read_text().count("\n") == len(ROWS) + 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_patience_ends(flaky, key):
    flaky.trouble = ["refuse"] * 1000
    with (
        Client(f"http://127.0.0.1:{flaky.server_address[1]}", key, patience=2) as client,
        pytest.raises(sentiment_client.UnavailableError),
    ):
        client.models()
    assert len(flaky.seen) >= 2


def test_wheel_is_built_and_has_the_types(tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(["scripts/build-client"], cwd=root, check=True, capture_output=True, text=True, timeout=300)
    names = zipfile.ZipFile(root / done.stdout.strip()).namelist()
    assert "sentiment_client/py.typed" in names
    assert "sentiment_client/client.py" in names
