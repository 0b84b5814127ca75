"""The client for programs that wait for each answer."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from sentiment_client import errors
from sentiment_client.connection import Download, Settings, check_download, prepare, replacing
from sentiment_client.dataframe import to_dataframe
from sentiment_client.flow import Flow, Pause, Request
from sentiment_client.operations import Lines, Source, parse_row, results_request
from sentiment_client.progress_bar import Report, reporter
from sentiment_client.types import Analysis, Progress, Row

T = TypeVar("T")


class Client:
    """The service, for programs that wait for each answer. Use it in a `with` block, or close it.

    Args:
        url: of the service, such as https://sentiment.example.org; by default SENTIMENT_URL.
        key: an API key; by default SENTIMENT_KEY.
        patience: for how many seconds a request is repeated while it may succeed later.
        transport: see httpx; for tests, or for a proxy.

    Every method raises ApiError or ServiceUnreachableError.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience: float = 120,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        made = Settings(url, key, patience)
        self._operations = made.operations
        self._http = httpx.Client(**made.options, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def analyze(self, text: str, *, model: str | None = None, explain: bool = False, store: bool = True) -> Analysis:
        """Score a text. With `store=False`, it does not appear in your history."""
        return self._run(self._operations.analyze(text, model=model, explain=explain, store=store))

    def correct(self, text: str, label: str) -> None:
        """Say which label of a text is right. The operator of the service trains models with it."""
        self._run(self._operations.correct(text, label))

    def analyze_many(self, texts: Iterable[str], *, model: str | None = None, keep: bool = False) -> Iterator[Row]:
        """Score texts as a task, and return its rows with their texts. Then the task is deleted, unless `keep`."""
        if isinstance(texts, str | bytes):
            raise TypeError("Send a list of texts. For one text, use analyze; for a file, submit.")
        task = self.submit(texts, model=model)
        try:
            yield from task.wait().results()
        finally:
            if not keep:
                task.delete()

    def submit(
        self,
        source: Source,
        *,
        column: str | None = None,
        id_column: str | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        header: str | None = None,
        sheet: str | None = None,
        keep_columns: bool | None = None,
        model: str | None = None,
        webhook_url: str | None = None,
    ) -> "Task":
        """Create a task from a file, or from rows: strings, or objects with a `text` and perhaps a `custom_id`.

        Args:
            source: a path ending in .csv, .tsv, .ndjson, .json, .xlsx or .parquet, perhaps with .gz or .zst; or rows.
            column: with the texts; by default `text`, or the only column.
            id_column: with the custom_id.
            delimiter: of a CSV file; by default detected.
            encoding: of a CSV file; by default detected.
            header: "present" or "absent".
            sheet: of a workbook; by default the first.
            keep_columns: whether results can include the other columns of the file. By default they can.
            model: a released version; by default the active model.
            webhook_url: receives a request when the task has ended.

        Raises:
            ValueError: the ending of the file is not known.
        """
        is_file = isinstance(source, str | PathLike)
        options = {
            "column": column,
            "id_column": id_column,
            "delimiter": delimiter,
            "encoding": encoding,
            "header": header,
            "sheet": sheet,
            "keep_columns": is_file if keep_columns is None else keep_columns,
            "model": model,
            "webhook_url": webhook_url,
        }
        return Task(self, self._run(self._operations.submit(source, options)))

    def task(self, task_id: str) -> "Task":
        """A task that was created before."""
        return Task(self, self._run(self._operations.progress(task_id)))

    def tasks(self, *, status: str | None = None) -> list["Task"]:
        """Your tasks, newest first."""
        return [Task(self, progress) for progress in self._run(self._operations.tasks(status))]

    def models(self) -> list[dict[str, Any]]:
        """The released models, newest first."""
        items: list[dict[str, Any]] = self._run(self._operations.get("/sentiment/models"))["items"]
        return items

    def usage(self, *, since: str | None = None, until: str | None = None) -> dict[str, Any]:
        """The rows that were scored by day, key and model, and your quotas. Days are written as 2026-11-28."""
        query = {name: value for name, value in (("since", since), ("until", until)) if value}
        found: dict[str, Any] = self._run(self._operations.get("/users/me/usage", query))
        return found

    def _run(self, flow: Flow[T]) -> T:
        answer: Any = None
        try:
            while True:
                step = flow.send(answer)
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                else:
                    answer = self._send(step)
        except StopIteration as done:
            value: T = done.value
            return value

    def _send(self, request: Request) -> httpx.Response | httpx.RequestError:
        try:
            return self._http.request(**prepare(request))
        except httpx.RequestError as error:
            return error

    @contextlib.contextmanager
    def _stream(self, request: Request) -> Iterator[httpx.Response]:
        with self._http.stream(**prepare(request)) as response:
            if not response.is_success:
                retry_after = response.headers.get("Retry-After")
                raise errors.from_response(response.status_code, response.read(), retry_after)
            check_download(response, request)
            yield response


class Task:
    """A task of a Client. `progress` is its state when it was last asked for."""

    def __init__(self, client: Client, progress: Progress) -> None:
        self._client, self.progress = client, progress

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.status} {self.percent} %>"

    @property
    def id(self) -> str:
        """Its id."""
        return self.progress.task_id

    @property
    def status(self) -> str:
        """Its status."""
        return self.progress.status

    @property
    def percent(self) -> float:
        """How much of it is done."""
        return self.progress.percent

    def refresh(self) -> Self:
        """Ask for its state."""
        self.progress = self._client._run(self._client._operations.progress(self.id))
        return self

    def wait(self, progress: Report = False) -> Self:
        """Wait until it has completed. `progress=True` shows a bar; a function is called with each state.

        Raises:
            TaskFailedError: it failed, or was cancelled. The rows that are done can be read with `results`.
        """
        try:
            self.progress = self._client._run(self._client._operations.wait(self.id, reporter(progress)))
        except errors.TaskFailedError as error:
            self.progress = error.progress
            raise
        return self

    def results(self) -> Iterator[Row]:
        """The rows, in the order of the input. A download that is interrupted continues where it was."""
        after, download = -1, Download(self._client._operations.patience)
        while True:
            try:
                request = results_request(self.progress, ".ndjson", after=after)
                with self._client._stream(request) as response:
                    lines = Lines()
                    for piece in response.iter_bytes():
                        for line in lines.add(piece):
                            row = parse_row(line)
                            after = row.index
                            download.progressed()
                            yield row
                    lines.check_end(after, self.progress)
            except (httpx.RequestError, errors.ApiError) as error:
                time.sleep(download.interrupted(error))
            else:
                return

    def to_file(self, path: str | PathLike[str]) -> Path:
        """Write the results, with the texts and the columns that were kept, to a .csv, .xlsx, .parquet or .ndjson file.

        The file appears when it is complete.
        """
        target = Path(path)
        request = results_request(self.progress, target.suffix.lower())
        download = Download(self._client._operations.patience)
        with replacing(target) as part:
            while True:
                try:
                    with self._client._stream(request) as response, part.open("wb") as file:
                        for piece in response.iter_bytes():
                            file.write(piece)
                except (httpx.RequestError, errors.ApiError) as error:
                    time.sleep(download.interrupted(error))
                else:
                    return target

    def to_csv(self, path: str | PathLike[str]) -> Path:
        """Write the results to a CSV file."""
        return self.to_file(path if str(path).lower().endswith(".csv") else f"{path}.csv")

    def to_dataframe(self) -> Any:
        """The results as a pandas.DataFrame. Needs pandas."""
        return to_dataframe(self.results())

    def cancel(self) -> Self:
        """Cancel it. Finished results stay."""
        self.progress = self._client._run(self._client._operations.change(self.id, "cancel"))
        return self

    def retry(self) -> Self:
        """Score its failed rows again."""
        self.progress = self._client._run(self._client._operations.change(self.id, "retry"))
        return self

    def delete(self) -> None:
        """Delete it with its texts and results."""
        self._client._run(self._client._operations.delete(self.id))
