"""Requests per second of the product beside what people would choose instead, in interleaved rounds.

The contenders use the same PostgreSQL, the same Valkey and the same model, with two worker processes each:

- hello: a bare Flask application under gunicorn (threads). It shows what the machine can do.
- usual Flask: what most tutorials build.
- FastAPI twin: a careful asynchronous application under uvicorn.

`scripts/baselines/` has their code. wrk sends the requests (on Debian: apt install wrk).
"""

import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import jwt
import matplotlib as mpl
import psutil
import psycopg2
from benchmarks import find_or_train_model, in_process, product, spread, tweets, workers
from harness import ROOT, Product, free_port

from sentiment_app.ml import artifact

WEB_PROCESSES = 2
TEXT = (
    "The service was quick and friendly, the food was good, and I would certainly come back with my whole family soon."
)
SECRET = "a secret that signs the tokens of the baselines only"  # noqa: S105  # pragma: allowlist secret
HELLO, USUAL, TWIN, OURS = "hello", "usual Flask", "FastAPI twin", "this product"
CONNECTIONS = (1, 16, 64)
TEXTS = (32, 256)
BATCH_CONNECTIONS = 4

WRK_SCRIPT = """
local file = io.open("{body}")
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {token}"
{prefer}
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format('\\nRESULT {{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "failed": %d}}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
"""

BASELINE_SCHEMA = """
CREATE TABLE users (id int PRIMARY KEY, username text UNIQUE);
CREATE TABLE analyses (
    id uuid PRIMARY KEY, user_id int REFERENCES users, text text, sentiment text, confidence float,
    created_at timestamptz
);
CREATE INDEX ON analyses (user_id, created_at);
INSERT INTO users VALUES (1, 'ada');
CREATE TABLE "user" (id serial PRIMARY KEY, username varchar(80) UNIQUE);
CREATE TABLE analysis (
    id serial PRIMARY KEY, user_id int REFERENCES "user", text text, sentiment varchar(16), confidence float,
    created_at timestamp
);
CREATE TABLE audit_entry (id serial PRIMARY KEY, user_id int REFERENCES "user", action varchar(80));
INSERT INTO "user" (username) VALUES ('ada');
"""


class Contender(NamedTuple):
    """A running service: its processes (with those of PostgreSQL and Valkey by name), and how it is called."""

    name: str
    port: int
    processes: dict[str, psutil.Process]
    token: str
    single: str
    batch: str | None = None


class Measurement(NamedTuple):
    """What wrk measured in one round: per second, milliseconds, and CPU microseconds per request by process."""

    rate: float
    p50: float
    p99: float
    cpu: dict[str, float]


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and of its running children, in seconds."""
    total = 0
    for entry in (process, *process.children(recursive=True)):
        try:
            times = entry.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return float(total)


def memory(process: psutil.Process) -> float:
    """Memory of a process and its children in MB. Pages that they share count once."""
    return float(sum(entry.memory_full_info().pss for entry in (process, *process.children(recursive=True)))) / 1e6


def measure(contender: Contender, path: str, body: Any, connections: int, seconds: float) -> Measurement:
    """Send a request again and again over keep-alive connections."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "body").write_text(json.dumps(body))
        prefer = 'wrk.headers["Prefer"] = "wait=30"' if contender.name == OURS and "texts" in body else ""
        script = WRK_SCRIPT.format(body=f"{directory}/body", token=contender.token, prefer=prefer)
        (Path(directory) / "wrk.lua").write_text(script)
        before = {name: cpu_seconds(process) for name, process in contender.processes.items()}
        command = [
            *("wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:.0f}s"),
            *("--timeout", "30s", "--script", f"{directory}/wrk.lua", f"http://127.0.0.1:{contender.port}{path}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # ours
    found = json.loads(done.stdout.partition("RESULT ")[2])
    if found["failed"] or not found["requests"]:
        raise click.ClickException(f"{contender.name} failed {found['failed']} of {found['requests']:.0f} requests.")
    used = {name: cpu_seconds(process) - before[name] for name, process in contender.processes.items()}
    cpu = {name: seconds / found["requests"] * 1e6 for name, seconds in used.items()}
    return Measurement(found["requests"] / found["seconds"], found["p50"], found["p99"], cpu)


def answers(port: int) -> bool:
    """Whether a web server answers any request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return bool(connection.getresponse().status)
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def served(command: list[str], environment: dict[str, str], port: int) -> Iterator[psutil.Process]:
    """A baseline, when it answers."""
    started = subprocess.Popen(  # noqa: S603  # ours
        [sys.executable, "-m", *command], env=environment, cwd=ROOT / "scripts/baselines", stdout=subprocess.DEVNULL
    )
    try:
        while not answers(port):
            if started.poll() is not None:
                raise click.ClickException(f"{' '.join(command)} has ended with status {started.returncode}.")
            time.sleep(0.1)
        time.sleep(2)  # until its other worker has loaded the model, too
        yield psutil.Process(started.pid)
    finally:
        started.terminate()
        started.wait()


@contextmanager
def contenders(ours: Product) -> Iterator[list[Contender]]:
    """All contenders, each with its own database in the same PostgreSQL."""
    servers = find_servers(ours)
    connection = psycopg2.connect(ours.servers.database_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE baselines")
    connection.close()
    url = ours.servers.database_url.replace("/postgres?", "/baselines?")
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(BASELINE_SCHEMA)
    connection.close()
    version = find_or_train_model()[1]
    environment = ours.environment | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts/baselines'}",
        "BASELINE_DATABASE_URL": url,
        "BASELINE_REDIS_URL": ours.environment["REDIS_URL"],
        "BASELINE_SECRET": SECRET,
        "BASELINE_MODEL": str(ours.models / version / artifact.SERVING),
    }
    token = jwt.encode({"sub": "1", "type": "access", "jti": "1", "exp": time.time() + 86_400}, SECRET)
    ports = {name: free_port() for name in (HELLO, USUAL, TWIN)}
    gunicorn = ["gunicorn", "--workers", str(WEB_PROCESSES), "--worker-class", "gthread", "--threads", "8"]
    gunicorn += ["--keep-alive", "75", "--log-level", "error", "--no-control-socket", "--bind"]
    commands = {
        HELLO: [*gunicorn, f"127.0.0.1:{ports[HELLO]}", "hello:app"],
        USUAL: [*gunicorn, f"127.0.0.1:{ports[USUAL]}", "usual_flask:app"],
        TWIN: [
            *("uvicorn", "fastapi_twin:app", "--workers", str(WEB_PROCESSES), "--port", str(ports[TWIN])),
            *("--no-access-log", "--log-level", "error"),
        ],
    }
    with ExitStack() as stack:
        found = []
        for name, command in commands.items():
            web = stack.enter_context(served(command, environment, ports[name]))
            single, batch = ("/", None) if name == HELLO else ("/analyze", "/analyze/batch")
            found.append(Contender(name, ports[name], {"web": web, **servers}, token, single, batch))
        paths = "/api/v1/sentiment/analyze", "/api/v1/sentiment/analyze/batch"
        found.append(Contender(OURS, ours.port, {"web": psutil.Process(ours.web.pid), **servers}, ours.token(), *paths))
        yield found


def find_servers(ours: Product) -> dict[str, psutil.Process]:
    """PostgreSQL and Valkey."""
    connection = psycopg2.connect(ours.servers.database_url)
    postmaster = psutil.Process(connection.info.backend_pid).parent()
    connection.close()
    socket = urlsplit(ours.environment["REDIS_URL"]).path
    valkey = next(
        process
        for process in psutil.process_iter(["name"])
        if process.info["name"] == "valkey-server"
        and any(entry.laddr == socket for entry in process.net_connections("unix"))
    )
    assert postmaster
    return {"PostgreSQL": postmaster, "Valkey": valkey}


Table = dict[str, dict[int, list[Measurement]]]
"""Measurements by contender, and by connections or texts per request."""


def compare(rounds: list[Measurement], base: list[Measurement]) -> list[float]:
    """The throughput in each round as a ratio to that of a baseline in the same round."""
    return [measured.rate / baseline.rate for measured, baseline in zip(rounds, base, strict=True)]


def show(title: str, table: Table, baseline: str) -> None:
    """Print rates, latencies, CPU, and the ratio to a baseline within each round."""
    for number in next(iter(table.values())):
        click.secho(f"\n{title.format(number)}", bold=True)
        base = table[baseline][number]
        for name, measured in table.items():
            rounds = measured[number]
            ratios = compare(rounds, base)
            cpu = {part: statistics.median(entry.cpu[part] for entry in rounds) for part in rounds[0].cpu}
            spread(f"{name}: requests per second", [entry.rate for entry in rounds])
            spread(f"{name}: ratio to {baseline}", ratios)
            click.echo(
                f"{'':4}p50 {statistics.median(entry.p50 for entry in rounds):.1f} ms, "
                f"p99 {statistics.median(entry.p99 for entry in rounds):.1f} ms; CPU per request in us: "
                + ", ".join(f"{part} {value:,.0f}" for part, value in cpu.items())
            )


def as_json(table: Table) -> dict[str, Any]:
    """All measurements, for a file."""
    return {
        name: {str(number): [entry._asdict() for entry in rounds] for number, rounds in measured.items()}
        for name, measured in table.items()
    }


def draw(table: Table, path: Path) -> None:
    """Draw the ratios to hello as bars, with their range."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  # after the backend was chosen

    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    names = [name for name in table if name != HELLO]
    for index, name in enumerate(names):
        ratios = [compare(table[name][number], table[HELLO][number]) for number in CONNECTIONS]
        middles = [statistics.median(found) for found in ratios]
        ranges = [
            [middle - min(found) for middle, found in zip(middles, ratios, strict=True)],
            [max(found) - middle for middle, found in zip(middles, ratios, strict=True)],
        ]
        offset = (index - (len(names) - 1) / 2) * 0.25
        positions = [group + offset for group, _ in enumerate(CONNECTIONS)]
        axes.bar(positions, middles, 0.23, yerr=ranges, capsize=3, label=name)
    axes.set_xticks(
        range(len(CONNECTIONS)), [f"{number} connection{'s' if number > 1 else ''}" for number in CONNECTIONS]
    )
    axes.set_ylabel("throughput / bare Flask hello")
    axes.legend(frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def measure_single_texts(found: list[Contender], rounds: int, seconds: float) -> Table:
    """Send one text per request, over 1, 16 and 64 connections."""
    table: Table = defaultdict(lambda: defaultdict(list))
    for contender in found:  # warm up
        measure(contender, contender.single, {"text": TEXT}, 16, 2)
    steps = [(number, contender) for number in CONNECTIONS for contender in found]
    with click.progressbar(steps * rounds, label="One text per request") as bar:
        for number, contender in bar:
            measured = measure(contender, contender.single, {"text": TEXT}, number, seconds)
            table[contender.name][number].append(measured)
    return table


def measure_batches(ours: Product, found: list[Contender], rounds: int, seconds: float) -> tuple[Table, list[float]]:
    """Send several texts per request. Also returns the texts per second of bare scoring, measured in each round."""
    table: Table = defaultdict(lambda: defaultdict(list))
    some = tweets()
    serving = find_or_train_model()[0].serving
    bare = []
    with workers(ours) as processes:
        for number, process in enumerate(processes, 1):
            found[-1].processes[f"worker {number}"] = psutil.Process(process.pid)
        for contender in found:  # warm up
            if contender.batch:
                measure(contender, contender.batch, {"texts": some[: TEXTS[0]]}, BATCH_CONNECTIONS, 10)
        with click.progressbar(range(rounds), label="Several texts per request") as bar:
            for _ in bar:
                bare.append(in_process(serving, (some * 10)[:40_000]))
                for number in TEXTS:
                    for contender in found:
                        if contender.batch:
                            body = {"texts": some[:number]}
                            measured = measure(contender, contender.batch, body, BATCH_CONNECTIONS, seconds)
                            table[contender.name][number].append(measured)
    for number, _ in enumerate(processes, 1):
        del found[-1].processes[f"worker {number}"]
    return table, bare


def show_texts_per_second(batch: Table, bare: list[float]) -> None:
    """Print the texts per second as ratios to bare scoring in the same round."""
    click.secho(f"\nTexts per second as a ratio to bare scoring in {WEB_PROCESSES} processes", bold=True)
    for name, measured in batch.items():
        for number, entries in measured.items():
            ratios = [entry.rate * number / rate for entry, rate in zip(entries, bare, strict=True)]
            spread(f"{name}: {number} texts per request", ratios)


@click.command(help=__doc__)
@click.option("--rounds", default=4, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Length of each measurement.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all measurements to this file.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw the ratios to this file (SVG, PNG).")
@click.option("--single-only", is_flag=True, help="Send one text per request only.")
def main(rounds: int, seconds: float, json_path: Path | None, plot_path: Path | None, single_only: bool) -> None:
    """Measure all contenders, and print the results."""
    if not shutil.which("wrk"):
        raise click.ClickException("wrk is not installed. On Debian: apt install wrk")
    with product(WEB_CONCURRENCY=str(WEB_PROCESSES)) as ours, contenders(ours) as found:
        single = measure_single_texts(found, rounds, seconds)
        sizes = {
            contender.name: {name: memory(process) for name, process in contender.processes.items()}
            for contender in found
        }
        batch, bare = ({}, []) if single_only else measure_batches(ours, found, rounds, seconds)
    show("{} connections, one text per request", single, HELLO)
    if batch:
        show(f"{{}} texts per request, {BATCH_CONNECTIONS} connections", batch, USUAL)
        show_texts_per_second(batch, bare)
    click.secho("\nMemory in MB", bold=True)
    for name, size in sizes.items():
        click.echo(f"{name:20} " + ", ".join(f"{part} {value:,.0f}" for part, value in size.items()))
    if json_path:
        json_path.write_text(json.dumps({"single": as_json(single), "batch": as_json(batch), "memory_mb": sizes}))
    if plot_path:
        draw(single, plot_path)


if __name__ == "__main__":
    main()
