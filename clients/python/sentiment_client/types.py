"""What the service returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Scores(NamedTuple):
    """The probability of each label. They sum to 1."""

    negative: float
    neutral: float
    positive: float


class FieldError(NamedTuple):
    """A wrong field of a request: where it is ("body", "query" or "header"), a JSON pointer to it, and the reason."""

    location: str
    pointer: str
    detail: str


@dataclass(frozen=True)
class Analysis:
    """A scored text.

    `id` is None if the text was not stored. `warnings` are reasons to doubt the scores, such as "low-coverage".
    `explanation` has the bias and the contribution of each term, if it was asked for.
    """

    sentiment: str
    confidence: float
    scores: Scores
    model_version: str
    id: str | None = None
    coverage: float | None = None
    warnings: tuple[str, ...] = ()
    explanation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Row:
    """A row of a task: its scores, or the `error` that says why it has none."""

    index: int
    line: int
    custom_id: str | None
    sentiment: str | None = None
    confidence: float | None = None
    scores: Scores | None = None
    coverage: float | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None
    text: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """The state of a task. `details` is the whole answer of the service."""

    task_id: str
    status: str
    total: int
    completed: int
    failed: int
    percent: float
    rows_per_second: float | None
    seconds_left: float | None
    details: Mapping[str, Any]

    @property
    def has_ended(self) -> bool:
        """Whether no more rows will be scored."""
        return self.status in ("completed", "failed", "cancelled", "expired")


def read_analysis(body: Mapping[str, Any]) -> Analysis:
    """An analysis from JSON. Fields that a newer service has added are ignored."""
    return Analysis(
        sentiment=body["sentiment"],
        confidence=body["confidence"],
        scores=_read_scores(body["scores"]),
        model_version=body["model_version"],
        id=body.get("id"),
        coverage=body.get("coverage"),
        warnings=_read_warnings(body),
        explanation=body.get("explanation"),
    )


def read_row(body: Mapping[str, Any]) -> Row:
    """A row of a task from JSON."""
    return Row(
        index=body["index"],
        line=body["line"],
        custom_id=body["custom_id"],
        sentiment=body.get("sentiment"),
        confidence=body.get("confidence"),
        scores=_read_scores(body["scores"]) if "scores" in body else None,
        coverage=body.get("coverage"),
        warnings=_read_warnings(body),
        error=body.get("error"),
        text=body.get("text"),
        columns=body.get("columns") or {},
    )


def read_progress(body: Mapping[str, Any]) -> Progress:
    """The state of a task from JSON."""
    counts = body["request_counts"]
    return Progress(
        task_id=body["task_id"],
        status=body["status"],
        total=counts["total"],
        completed=counts["completed"],
        failed=counts["failed"],
        percent=body["percent"],
        rows_per_second=body["rows_per_second"],
        seconds_left=body["seconds_left"],
        details=body,
    )


def _read_scores(scores: Mapping[str, float]) -> Scores:
    return Scores(scores["negative"], scores["neutral"], scores["positive"])


def _read_warnings(body: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(warning["code"] for warning in body.get("warnings", ()))
