"""The client for asyncio. Its methods are those of Client, as coroutines."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable
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


class AsyncClient:
    """The service, for asyncio. The arguments and methods are those of Client; use it in an `async with` block."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience: float = 120,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        made = Settings(url, key, patience)
        self._operations = made.operations
        self._http = httpx.AsyncClient(**made.options, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def analyze(
        self, text: str, *, model: str | None = None, explain: bool = False, store: bool = True
    ) -> Analysis:
        """Score a text."""
        return await self._run(self._operations.analyze(text, model=model, explain=explain, store=store))

    async def correct(self, text: str, label: str) -> None:
        """Say which label of a text is right."""
        await self._run(self._operations.correct(text, label))

    async def analyze_many(
        self, texts: Iterable[str], *, model: str | None = None, keep: bool = False
    ) -> AsyncIterator[Row]:
        """Score texts as a task, and return its rows with their texts. Then the task is deleted, unless `keep`."""
        if isinstance(texts, str | bytes):
            raise TypeError("Send a list of texts. For one text, use analyze; for a file, submit.")
        task = await self.submit(texts, model=model)
        try:
            await task.wait()
            async for row in task.results():
                yield row
        finally:
            if not keep:
                await task.delete()

    async def submit(self, source: Source, *, keep_columns: bool | None = None, **options: Any) -> "AsyncTask":
        """Create a task from a file, or from rows. See Client.submit."""
        keeps = isinstance(source, str | PathLike) if keep_columns is None else keep_columns
        progress = await self._run(self._operations.submit(source, {**options, "keep_columns": keeps}))
        return AsyncTask(self, progress)

    async def task(self, task_id: str) -> "AsyncTask":
        """A task that was created before."""
        return AsyncTask(self, await self._run(self._operations.progress(task_id)))

    async def tasks(self, *, status: str | None = None) -> list["AsyncTask"]:
        """Your tasks, newest first."""
        return [AsyncTask(self, progress) for progress in await self._run(self._operations.tasks(status))]

    async def models(self) -> list[dict[str, Any]]:
        """The released models, newest first."""
        items: list[dict[str, Any]] = (await self._run(self._operations.get("/sentiment/models")))["items"]
        return items

    async def usage(self, *, since: str | None = None, until: str | None = None) -> dict[str, Any]:
        """The rows that were scored by day, key and model, and your quotas."""
        query = {name: value for name, value in (("since", since), ("until", until)) if value}
        found: dict[str, Any] = await self._run(self._operations.get("/users/me/usage", query))
        return found

    async def _run(self, flow: Flow[T]) -> T:
        answer: Any = None
        try:
            while True:
                step = flow.send(answer)
                answer = await (asyncio.sleep(step.seconds) if isinstance(step, Pause) else self._send(step))
        except StopIteration as done:
            value: T = done.value
            return value

    async def _send(self, request: Request) -> httpx.Response | httpx.RequestError:
        prepared = prepare(request)
        if callable(request.content):
            pieces = prepared["content"]
            prepared["content"] = _in_threads(pieces) if request.reads_file else _in_the_loop(pieces)
        try:
            return await self._http.request(**prepared)
        except httpx.RequestError as error:
            return error

    @contextlib.asynccontextmanager
    async def _stream(self, request: Request) -> AsyncIterator[httpx.Response]:
        async with self._http.stream(**prepare(request)) as response:
            if not response.is_success:
                retry_after = response.headers.get("Retry-After")
                raise errors.from_response(response.status_code, await response.aread(), retry_after)
            check_download(response, request)
            yield response


class AsyncTask:
    """A task of an AsyncClient. The methods are those of Task."""

    def __init__(self, client: AsyncClient, progress: Progress) -> None:
        self._client, self.progress = client, progress

    def __repr__(self) -> str:
        return f"<AsyncTask {self.id} {self.progress.status} {self.progress.percent} %>"

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

    async def refresh(self) -> Self:
        """Ask for its state."""
        self.progress = await self._client._run(self._client._operations.progress(self.id))
        return self

    async def wait(self, progress: Report = False) -> Self:
        """Wait until it has completed. See Task.wait."""
        try:
            self.progress = await self._client._run(self._client._operations.wait(self.id, reporter(progress)))
        except errors.TaskFailedError as error:
            self.progress = error.progress
            raise
        return self

    async def results(self) -> AsyncIterator[Row]:
        """The rows, in the order of the input. A download that is interrupted continues where it was."""
        after, download = -1, Download(self._client._operations.patience)
        while True:
            try:
                request = results_request(self.progress, ".ndjson", after=after)
                async with self._client._stream(request) as response:
                    lines = Lines()
                    async for piece in response.aiter_bytes():
                        for line in lines.add(piece):
                            row = parse_row(line)
                            after = row.index
                            download.progressed()
                            yield row
                    lines.check_end(after, self.progress)
            except (httpx.RequestError, errors.ApiError) as error:
                await asyncio.sleep(download.interrupted(error))
            else:
                return

    async def to_file(self, path: str | PathLike[str]) -> Path:
        """Write the results to a .csv, .xlsx, .parquet or .ndjson file, which appears when it is complete."""
        target = Path(path)
        request = results_request(self.progress, target.suffix.lower())
        download = Download(self._client._operations.patience)
        with replacing(target) as part:
            while True:
                try:
                    async with self._client._stream(request) as response:
                        with part.open("wb") as file:
                            async for piece in response.aiter_bytes():
                                await asyncio.to_thread(file.write, piece)
                except (httpx.RequestError, errors.ApiError) as error:
                    await asyncio.sleep(download.interrupted(error))
                else:
                    return target

    async def to_csv(self, path: str | PathLike[str]) -> Path:
        """Write the results to a CSV file."""
        return await self.to_file(path if str(path).lower().endswith(".csv") else f"{path}.csv")

    async def to_dataframe(self) -> Any:
        """The results as a pandas.DataFrame. Needs pandas."""
        return to_dataframe([row async for row in self.results()])

    async def cancel(self) -> Self:
        """Cancel it. Finished results stay."""
        self.progress = await self._client._run(self._client._operations.change(self.id, "cancel"))
        return self

    async def retry(self) -> Self:
        """Score its failed rows again."""
        self.progress = await self._client._run(self._client._operations.change(self.id, "retry"))
        return self

    async def delete(self) -> None:
        """Delete it with its texts and results."""
        await self._client._run(self._client._operations.delete(self.id))


async def _in_the_loop(pieces: Iterable[bytes]) -> AsyncIterable[bytes]:
    """Pieces that are made here, because their source may belong to this thread."""
    for piece in pieces:
        yield piece


async def _in_threads(pieces: Iterable[bytes]) -> AsyncIterable[bytes]:
    """Pieces that are read in threads, because reading a file blocks."""
    rest = iter(pieces)
    while (piece := await asyncio.to_thread(next, rest, None)) is not None:
        yield piece
