"""Benchmarks: each compares with a baseline in the same run, and prints ratios with their spread.

The ratios matter: absolute values say more about the machine than about the product.
"""

import contextlib
import csv
import io
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import psutil
import uuid_utils.compat as uuid
from harness import ROOT, Product, call, free_port
from redis import Redis
from rq import Queue, Worker

from sentiment_app.ml import artifact
from sentiment_app.ml.runtime import Scorer
from sentiment_app.ml.training import datasets, experiment
from sentiment_app.ml.training.pipeline import SentimentPipeline

DATA, MODELS = ROOT / ".dev/data", ROOT / ".dev/models"
TEXT = "The service was quick and friendly, and I would certainly come back with my family."
CORES = 2


@click.group(help=__doc__)
def main() -> None:
    """The group of all benchmarks."""


def spread(name: str, values: list[float], unit: str = "") -> None:
    """Print the median and the spread of repeated measurements."""
    low, middle, high = min(values), statistics.median(values), max(values)
    click.echo(f"{name:58} {middle:12,.3f} {unit:6} ({low:,.3f} to {high:,.3f}, {len(values)} runs)")


def tweets() -> list[str]:
    """Real short texts."""
    datasets.fetch(DATA)
    return [row.text for row in datasets.read(DATA, 1000) if row.source == "tweets"]


def find_or_train_model() -> tuple[artifact.Artifact, str]:
    """The newest model of scripts/dev, or else a new fast model."""
    trained = [manifest for manifest in artifact.find_manifests(MODELS) if artifact.SERVING in manifest["files"]]
    if not trained:
        trained = [experiment.run(experiment.find_recipe("fast"), data_dir=DATA, model_dir=MODELS, progress=click.echo)]
    version = trained[0]["version"]
    return artifact.read(MODELS / version), version


@contextmanager
def product(**settings: str) -> Iterator[Product]:
    """The product, with its own servers."""
    with tempfile.TemporaryDirectory(prefix="sentiment-bench-") as directory:
        Path(directory).chmod(0o755)
        made = Product(Path(directory), *find_or_train_model())
        made.environment |= settings
        made.start()
        try:
            yield made
        finally:
            made.stop()


# -- web servers -----------------------------------------------------------------------------------------------------


@contextmanager
def gunicorn(config: str, environment: dict[str, str]) -> Iterator[None]:
    """Gunicorn with the configuration of the product, and some changed lines."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(config)
        file.flush()
        command = [sys.executable, "-m", "gunicorn", "-c", file.name]
        started = subprocess.Popen(  # noqa: S603  # ours
            command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        time.sleep(4)
        try:
            yield
        finally:
            started.terminate()
            started.wait()


class TimedAnswer(NamedTuple):
    """When a request was sent, how long its answer took in seconds, and whether its status was 200."""

    sent: float
    took: float
    is_good: bool


def drive(port: int, request: bytes, connections: int, seconds: float) -> list[TimedAnswer]:
    """Send a request over keep-alive connections, again as soon as it is answered."""
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request)
        selector.register(connection, selectors.EVENT_READ)
    answers: list[TimedAnswer] = []
    begun: dict[Any, bytes] = {}
    started = time.perf_counter()
    sent: defaultdict[Any, float] = defaultdict(lambda: started)
    while time.perf_counter() < started + seconds:
        for key, _ in selector.select(1):
            connection = key.fileobj  # type: ignore[assignment]  # what was registered
            answer = begun.pop(connection, b"") + connection.recv(65536)
            head, _, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if not length or len(body) < int(length[1]):
                begun[connection] = answer
                continue
            now = time.perf_counter()
            answers.append(TimedAnswer(sent[connection], now - sent[connection], answer.startswith(b"HTTP/1.1 200")))
            sent[connection] = now
            connection.sendall(request)
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]  # what was registered
    return answers


def analyze(token: str) -> bytes:
    """The request that is measured."""
    headers = f"Content-Type: application/json\r\nAuthorization: Bearer {token}\r\n"
    return http("/api/v1/sentiment/analyze", json.dumps({"text": TEXT}).encode(), headers)


def http(path: str, body: bytes = b"", headers: str = "") -> bytes:
    """A request as bytes."""
    method = "POST" if body else "GET"
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


# -- a switch of models ------------------------------------------------------------------------------------------------


@main.command("switch")
@click.option("--rounds", default=6, show_default=True)
@click.option("--connections", default=4, show_default=True)
def bench_switch(rounds: int, connections: int) -> None:
    """Compare the longest request while models are switched with the longest request without a switch."""
    stored = [entry["version"] for entry in artifact.find_manifests(MODELS) if artifact.SERVING in entry["files"]][:2]
    if len(stored) < 2:
        raise click.ClickException(
            "This needs two trained models. While scripts/dev runs, run: scripts/sentiment model train"
        )
    seconds = 6.0  # within which every process has switched
    with product(SCORING_RATE_LIMIT="1000000 per minute") as ours, ThreadPoolExecutor() as pool:
        for version in stored:
            with contextlib.suppress(FileExistsError):
                ours.store_model(artifact.read(MODELS / version), version)
            ours.run_or_fail("flask", "model", "release", version)
        ours.run_or_fail("flask", "user", "promote", "ada")
        token = ours.token()
        drive(ours.port, analyze(token), connections, seconds)
        pairs = []
        for number in range(rounds):
            calm = drive(ours.port, analyze(token), connections, seconds)
            path = f"/api/v1/sentiment/models/{stored[number % 2]}/activate?allow_worse=true"
            switch = pool.submit(call, ours.url + path, {}, token)
            busy = drive(ours.port, analyze(token), connections, seconds)
            assert switch.result()[0] == 200, switch.result()
            assert all(entry.is_good for entry in calm + busy)
            pairs.append([1000 * max(entry.took for entry in part) for part in (calm, busy)])
        spread("longest answer without a switch", [calm for calm, _ in pairs], "ms")
        spread("longest answer while the model is switched", [busy for _, busy in pairs], "ms")
        spread("time that the switch adds", [busy - calm for calm, busy in pairs], "ms")


# -- the model --------------------------------------------------------------------------------------------------------


def seconds_each(function: Callable[[], Any], number: int) -> float:
    """Seconds of a call, in the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(number):
            function()
        best = min(best, (time.perf_counter() - started) / number)
    return best


@main.command("model")
@click.option("--rounds", default=5, show_default=True)
def bench_model(rounds: int) -> None:
    """Compare the serving form with scikit-learn's predict_proba on the same texts."""
    import joblib  # noqa: PLC0415  # here only

    stored, version = find_or_train_model()
    scorer = Scorer.load(io.BytesIO(stored.serving))
    pipeline: SentimentPipeline = joblib.load(MODELS / version / artifact.PIPELINE)
    texts = tweets()
    long = " ".join(" ".join(texts[:60]).split()[:420])
    apart = np.abs(np.array(scorer.score_many(texts[:5000])) - pipeline.predict_proba(texts[:5000])).max()
    click.echo(f"model {version}: the largest difference on 5,000 tweets is {apart:.1e}")
    for name, text in ((f"a text of {len(TEXT.split())} words", TEXT), ("a text of 420 words", long)):
        ours = [seconds_each(partial(scorer.score, text), 200) for _ in range(rounds)]
        theirs = [seconds_each(partial(pipeline.predict_proba, [text]), 20) for _ in range(rounds)]
        explained = [seconds_each(partial(scorer.explain, text), 100) for _ in range(rounds)]
        spread(f"{name}: serving form", [entry * 1e6 for entry in ours], "us")
        spread(f"{name}: explained", [entry * 1e6 for entry in explained], "us")
        spread(f"{name}: scikit-learn / serving form", [slow / fast for fast, slow in zip(ours, theirs, strict=True)])
    some = texts[:5000]
    pairs = [
        [len(some) / seconds_each(partial(score, some), 1) for score in (scorer.score_many, pipeline.predict_proba)]
        for _ in range(rounds)
    ]
    spread("tweets per second, one core: serving form", [ours for ours, _ in pairs])
    spread("tweets per second, one core: serving form / scikit-learn", [ours / theirs for ours, theirs in pairs])


# -- batches ----------------------------------------------------------------------------------------------------------


def score_part(serving: bytes, texts: list[str]) -> int:
    """The job of a process in the first baseline."""
    return len(Scorer.load(io.BytesIO(serving)).score_many(texts))


def in_process(serving: bytes, texts: list[str]) -> float:
    """Rows per second of bare scoring, with a process for each core, after the model was loaded."""
    half = len(texts) // CORES
    parts = [texts[place * half : (place + 1) * half] for place in range(CORES)]
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(score_part, [serving] * CORES, [["warm up"]] * CORES))
        started = time.perf_counter()
        rows = sum(pool.map(score_part, [serving] * CORES, parts))
        return rows / (time.perf_counter() - started)


def naive_job(user_id: str, texts: list[str]) -> None:
    """A job of the second baseline: score, and insert with the ORM."""
    from sentiment_app.app import create_app  # noqa: PLC0415  # as in a tutorial: the forked job imports everything
    from sentiment_app.infrastructure.database import db  # noqa: PLC0415  # the same
    from sentiment_app.registry.serving import serving  # noqa: PLC0415  # the same
    from sentiment_app.sentiment import history  # noqa: PLC0415  # the same
    from sentiment_app.sentiment.models import SentimentRequest  # noqa: PLC0415  # the same

    with create_app().app_context():
        served = serving().current()
        for text in texts:
            scores = served.scorer.score(text)
            row_id = uuid.uuid7()
            db.session.add(
                SentimentRequest(
                    id=row_id,
                    user_id=user_id,
                    created_at=history.time_of_id(row_id),
                    text=text,
                    sentiment=scores.label,
                    **scores._asdict(),
                    model_version=served.version,
                    processing_time=0.0,
                )
            )
        db.session.commit()


def forking_workers(ours: Product, texts: list[str]) -> float:
    """Rows per second of RQ's default worker for each core, with ORM inserts in chunks of 1,000."""
    user = call(ours.url + "/api/v1/users/me", token=ours.token())[1]["id"]
    redis = Redis.from_url(ours.environment["REDIS_URL"])
    queue = Queue("naive", connection=redis)
    environment = ours.environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
    command = [sys.executable, "-m", "rq.cli", "worker", "naive", "--url", ours.environment["REDIS_URL"], "--quiet"]
    workers = [
        subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)  # noqa: S603  # ours
        for _ in range(CORES)
    ]
    try:
        return naive_rate(queue, user, texts)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()


def naive_rate(queue: Queue, user: str, texts: list[str]) -> float:
    """Rows per second, after the workers have started."""
    while len(Worker.all(connection=queue.connection)) < CORES:
        time.sleep(0.1)
    started = time.perf_counter()
    jobs = [
        queue.enqueue("benchmarks.naive_job", user, texts[place : place + 1000]) for place in range(0, len(texts), 1000)
    ]
    while any(job.get_status() not in ("finished", "failed") for job in jobs):
        time.sleep(0.05)
    rate = len(texts) / (time.perf_counter() - started)
    assert all(job.get_status() == "finished" for job in jobs)
    return rate


def task(url: str, token: str, body: bytes, media_type: str = "application/x-ndjson") -> float:
    """Upload a file and wait for its last result; returns the seconds."""
    started = time.perf_counter()
    headers = {"Content-Type": media_type, "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url + "/api/v1/sentiment/tasks", body, headers)  # noqa: S310  # our own
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310  # our own
        shown: dict[str, Any] = json.load(answer)
    while shown["status"] in ("queued", "running"):
        time.sleep(0.1)
        shown = call(f"{url}/api/v1/sentiment/tasks/{shown['task_id']}", token=token)[1]
    assert shown["request_counts"]["completed"] == shown["request_counts"]["total"], shown
    return time.perf_counter() - started


@contextmanager
def workers(ours: Product) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A worker for each core."""
    started = [ours.process("sentiment_app.worker") for _ in range(CORES)]
    time.sleep(5)
    try:
        yield started
    finally:
        for worker in started:
            worker.terminate()
            worker.wait()


def as_ndjson(some: list[str], rows: int) -> bytes:
    """A file with this number of rows."""
    return "".join(json.dumps({"text": some[place % len(some)]}) + "\n" for place in range(rows)).encode()


def as_csv(some: list[str], rows: int) -> bytes:
    """A file with this number of rows, and a number for each."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["custom_id", "text"])
    writer.writerows((place, some[place % len(some)]) for place in range(rows))
    return file.getvalue().encode()


def record_peak_memory(processes: list[psutil.Process], seen: dict[str, int]) -> None:
    """Remember the most memory that each kind of process has used."""
    for process in processes:
        with_children = [process, *process.children(recursive=True)]
        for entry in with_children:
            name = "worker" if "sentiment_app.worker" in entry.cmdline() else "web"
            seen[name] = max(seen.get(name, 0), entry.memory_info().rss)


@main.command("batch")
@click.option("--rounds", default=3, show_default=True)
@click.option("--rows", default=200_000, show_default=True, help="Rows of a task in each round.")
@click.option("--max-rows", default=1_000_000, show_default=True, help="Rows of the largest task.")
def bench_batch(rounds: int, rows: int, max_rows: int) -> None:
    """Compare a task, from submission to the last result, with bare scoring and with RQ's default worker."""
    some = tweets()
    texts = (some * (rows // len(some) + 1))[:rows]
    serving = find_or_train_model()[0].serving
    with product(WEB_CONCURRENCY="1") as ours:
        token = ours.token()
        naive = [forking_workers(ours, texts[:8_000]) for _ in range(rounds)]
        with workers(ours) as ours_too:
            body, table = as_ndjson(some, rows), as_csv(some, rows)
            triples = [
                (
                    in_process(serving, texts),
                    rows / task(ours.url, token, body),
                    rows / task(ours.url, token, table, "text/csv"),
                )
                for _ in range(rounds)
            ]
            rates = [rate for _, rate, _ in triples]
            spread("bare scoring in two processes, rows per second", [bare for bare, _, _ in triples])
            spread("RQ's default worker with ORM inserts, rows per second", naive)
            spread("a task, from submission to the last result, rows per second", rates)
            spread("task / bare scoring", [rate / bare for bare, rate, _ in triples])
            spread("task from CSV / bare scoring", [rate / bare for bare, _, rate in triples])
            spread("task / default worker", [rate / slow for rate, slow in zip(rates, naive, strict=True)])
            seen: dict[str, int] = {}
            size = 10_000
            while size <= max_rows:
                seconds = task(ours.url, token, as_ndjson(some, size))
                record_peak_memory([psutil.Process(entry.pid) for entry in (ours.web, *ours_too)], seen)
                sizes = ", ".join(f"{name} {size_ / 1e6:.0f} MB" for name, size_ in sorted(seen.items()))
                click.echo(f"{size:>9,} rows: {seconds:7.2f} s, {size / seconds:10,.0f} rows per second; {sizes}")
                size *= 10


CHUNKED = """
exec(open("deploy/gunicorn.conf.py").read())
from sentiment_app.tasks import submission
submission.CHUNK_ROWS = {rows}
bind, workers = "127.0.0.1:{port}", 1
"""


@main.command("chunks")
@click.option("--rounds", default=3, show_default=True)
@click.option("--rows", default=200_000, show_default=True, help="Rows of a task in each round.")
@click.argument("sizes", nargs=-1, type=int)
def bench_chunks(rounds: int, rows: int, sizes: tuple[int, ...]) -> None:
    """Compare tasks with different numbers of rows in a chunk: SIZES, by default 1000 2500 5000 10000."""
    body = as_ndjson(tweets(), rows)
    ports = {size: free_port() for size in sizes or (1_000, 2_500, 5_000, 10_000)}
    with product(WEB_CONCURRENCY="1") as ours, contextlib.ExitStack() as stack:
        for size, port in ports.items():
            stack.enter_context(gunicorn(CHUNKED.format(rows=size, port=port), ours.environment))
        stack.enter_context(workers(ours))
        token = ours.token()
        rates: defaultdict[int, list[float]] = defaultdict(list)
        for _ in range(rounds):
            for size, port in ports.items():
                rates[size].append(rows / task(f"http://127.0.0.1:{port}", token, body))
        for size, found in rates.items():
            spread(f"chunks of {size:,} rows: rows per second", found)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
