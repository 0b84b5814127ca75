"""Serve a trained model with numpy alone: one table row per vocabulary entry, no matrices.

A text's log-odds are `bias + sum of its features' weights / norm`, where the norm is the root of
the sum of the same features' squared idf. So a row holds the squared idf and one weight per head,
and scoring is: look up the rows, add them, three divisions. Temperatures are folded in.
"""

from __future__ import annotations

import io
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sentiment_app.ml.text import NEGATED, bigrams, terms, tokenize

Floats = npt.NDArray[np.float64]

COMMON: Final = (1 + math.log(1000)) ** 2
"""Squared idf of a term in one of a thousand texts. A rarer term may be a word of another language."""

_UNKNOWN: Final = 0
"""Row of features outside the vocabulary: all zero."""

TABLE_COLUMNS: Final = 4

LINES_BETWEEN_PAUSES: Final = 1_000
PAUSE_SECONDS: Final = 0.0005

LABELS: Final = ("negative", "neutral", "positive")


class ModelError(Exception):
    """A model, or a file to make a model from, is not valid."""


class ScoringError(Exception):
    """The model raised an error for a text, or returned no probabilities. The message never quotes the text."""


class Scores(NamedTuple):
    """Probability of each class."""

    negative: float
    neutral: float
    positive: float

    @property
    def label(self) -> str:
        """The most probable class."""
        return LABELS[self.index(max(self))]


class Assessment(NamedTuple):
    """Scores, and the share of the text's terms that are common in English; None if the model does not know it."""

    scores: Scores
    coverage: float | None


class Contribution(NamedTuple):
    """What a token contributes to the polarity log-odds. `start` and `end` are its span in the given text."""

    start: int
    end: int
    surface: str
    term: str
    contribution: float


class Explanation(NamedTuple):
    """The polarity log-odds (positive against negative) are the bias plus all contributions."""

    bias: float
    contributions: list[Contribution]


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x)) if x > -700 else 0.0


class Scorer:
    """The serving form of a trained pipeline.

    Args:
        vocabulary: the features, in the order of the rows of `table` after the first.
        table: squared idf, short polarity, long polarity and neutrality weight of each feature.
        biases: of the three heads, in the same order.
        blend: the lengths in terms between which the share of the long head grows, and its maximum.
    """

    def __init__(self, vocabulary: Iterable[str], table: Floats, biases: Floats, blend: Sequence[float]) -> None:
        self._rows = {feature: row for row, feature in enumerate(vocabulary, _UNKNOWN + 1)}
        self._table = table
        words = ((feature, row) for feature, row in self._rows.items() if " " not in feature)
        # Numbers and symbols belong to every language.
        common = {word for word, row in words if not word[:1].isalpha() or table[row, 0] <= COMMON}
        self._common = common | {NEGATED + word for word in common}
        self._biases = biases
        self._short, self._long, self._neutral = biases.tolist()
        self._first, self._last, self._limit = blend

    def _log_odds(self, words: list[str]) -> tuple[float, float]:
        rows = self._lookup(dict.fromkeys(words + bigrams(words)))
        squares, short, long, neutral = np.add.reduce(self._table.take(rows, axis=0)).tolist()
        norm = math.sqrt(squares) or 1.0
        share = self._share(len(words))
        polarity = (1 - share) * (self._short + short / norm) + share * (self._long + long / norm)
        return polarity, self._neutral + neutral / norm

    def score(self, text: str) -> Scores:
        """The scores of a text."""
        return self._score(terms(text))

    def _score(self, words: list[str]) -> Scores:
        polarity, neutrality = self._log_odds(words)
        polar, positive = _sigmoid(-neutrality), _sigmoid(polarity)
        negative = _sigmoid(-polarity)
        return Scores(polar * negative, _sigmoid(neutrality), polar * positive)

    def score_many(self, texts: Iterable[str]) -> list[Scores]:
        """Scores for each text."""
        return [self.score(text) for text in texts]

    def explain(self, text: str) -> Explanation:
        """Divide the polarity log-odds among the tokens. The two tokens of a pair share its weight."""
        tokens = tokenize(text)
        words = [token.term for token in tokens]
        features = words + bigrams(words)
        rows = self._lookup(features)
        found = self._table.take(rows, axis=0)
        repeats = Counter(features)
        # A feature counts once even if it occurs several times, so its occurrences share its weight.
        found /= np.array([repeats[feature] for feature in features] or [1])[: len(found), None]
        norm = math.sqrt(found[:, 0].sum()) or 1.0
        share = self._share(len(words))
        weights = ((1 - share) * found[:, 1] + share * found[:, 2]) / norm
        each = weights[: len(words)]
        each[:-1] += weights[len(words) :] / 2
        each[1:] += weights[len(words) :] / 2
        parts = [
            Contribution(token.start, token.end, text[token.start : token.end], token.term, value)
            for token, value in zip(tokens, each.tolist(), strict=True)
        ]
        return Explanation((1 - share) * self._short + share * self._long, parts)

    def assess(self, text: str) -> Assessment:
        """Scores, and the share of the text's terms that are common in English; 0 for a text without terms."""
        words = terms(text)
        known = sum(map(self._common.__contains__, words))
        return Assessment(self._score(words), known / len(words) if words else 0.0)

    def assess_many(self, texts: Iterable[str]) -> list[Assessment]:
        """The assessment of each text."""
        return [self.assess(text) for text in texts]

    def _lookup(self, features: Iterable[str]) -> list[int]:
        return list(map(self._rows.get, features, repeat(_UNKNOWN)))

    def _share(self, length: int) -> float:
        grown = (length - self._first) / (self._last - self._first)
        return self._limit * min(1.0, max(0.0, grown))

    def save(self, file: BinaryIO) -> None:
        """Write the model in numpy's .npz format."""
        blob = "\n".join(self._rows).encode("utf-8", "surrogatepass")
        np.savez(
            file,
            vocabulary=np.frombuffer(blob, dtype=np.uint8),
            table=self._table,
            biases=self._biases,
            blend=np.array([self._first, self._last, self._limit]),
        )

    @classmethod
    def load(cls, file: BinaryIO) -> Scorer:
        """Read a model written by `save`."""
        with np.load(file, allow_pickle=False) as arrays:
            vocabulary = _read_with_pauses(io.BytesIO(arrays["vocabulary"].tobytes()))
            scorer = cls(vocabulary, arrays["table"], arrays["biases"], arrays["blend"].tolist())
        if scorer._table.shape != (_UNKNOWN + 1 + len(scorer._rows), TABLE_COLUMNS):
            raise ModelError("the table of weights does not have a row for each feature")
        return scorer


def _read_with_pauses(blob: io.BytesIO) -> Iterator[str]:
    """The lines of a blob, with pauses in which other threads serve requests.

    A thread that only computes makes another thread wait for 5 ms whenever that thread needs the interpreter lock
    (`sys.getswitchinterval`). A request needs it about a dozen times.
    """
    lines = io.TextIOWrapper(blob, "utf-8", "surrogatepass", newline="\n")
    for number, line in enumerate(lines):
        if number % LINES_BETWEEN_PAUSES == 0:
            time.sleep(PAUSE_SECONDS)
        yield line.rstrip("\n")


class TextScorer(Protocol):
    """A model that scores texts: the compiled table of a recipe, or any other pipeline."""

    def score(self, text: str) -> Scores:
        """Probabilities of negative, neutral and positive."""

    def score_many(self, texts: Iterable[str]) -> list[Scores]:
        """Probabilities for each text."""

    def explain(self, text: str) -> Explanation | None:
        """What each token contributes; None if the model is not a sum of its tokens."""

    def assess(self, text: str) -> Assessment:
        """Scores, and how much of the text the model knows."""

    def assess_many(self, texts: Iterable[str]) -> list[Assessment]:
        """The assessment of each text."""


def sum_by_label(found: Floats, classes: Sequence[str]) -> Floats:
    """Probabilities of the three labels, shape (n, 3), from those of a model's classes, shape (n, classes).

    Several classes may have the same label, such as one star and two stars. A label without a class has 0.
    """
    summed = np.zeros((len(found), len(LABELS)))
    for index, label in enumerate(classes):
        summed[:, LABELS.index(label)] += found[:, index]
    return summed


class PipelineScorer:
    """Any fitted pipeline with `predict_proba`.

    Args:
        pipeline: the fitted pipeline.
        classes: the label of each of its classes, in the order of `classes_`.
    """

    def __init__(self, pipeline: Any, classes: Sequence[str]) -> None:
        self._pipeline = pipeline
        self._classes = classes

    def score(self, text: str) -> Scores:
        """Probabilities of negative, neutral and positive."""
        return self.score_many([text])[0]

    def score_many(self, texts: Iterable[str]) -> list[Scores]:
        """Probabilities for each text."""
        found = np.asarray(self._pipeline.predict_proba(list(texts)), dtype=np.float64)
        return [Scores(*row) for row in sum_by_label(found, self._classes).tolist()]

    def explain(self, text: str) -> None:
        """Return None, because such a model cannot be explained."""

    def assess(self, text: str) -> Assessment:
        """Scores. Such a model does not say which words it knows."""
        return Assessment(self.score(text), None)

    def assess_many(self, texts: Iterable[str]) -> list[Assessment]:
        """The assessment of each text."""
        return [Assessment(scores, None) for scores in self.score_many(texts)]


# How much the sum of the probabilities of a text may differ from 1: enough for single precision and rounding.
SUM_TOLERANCE: Final = 0.001


class Assessments(NamedTuple):
    """The assessments of n texts.

    Args:
        scores: probabilities, shape (n, 3), in the order of LABELS.
        coverage: shape (n,), NaN where the model does not know it.
        languages: by index, the codes of languages other than the model's.
    """

    scores: Floats
    coverage: Floats
    languages: dict[int, str]


def find_assessments(scorer: TextScorer, texts: Sequence[str]) -> Assessments:
    """The assessments of texts by any model, checked.

    Raises:
        ScoringError: the model raised an error, or at least one row is not three probabilities that sum to 1.
    """
    try:
        found = scorer.assess_many(texts)
        each, shares = zip(*found, strict=True) if found else ((), ())
        # To make an array of a flat list takes a third of the time.
        scores = np.array(list(chain.from_iterable(each)), dtype=np.float64).reshape(len(each), len(LABELS))
        coverage = np.array(shares, dtype=np.float64)  # None becomes NaN
    except Exception as error:  # noqa: BLE001  # an imported pipeline may raise anything
        raise _failure(error) from None
    if scores.shape != (len(texts), len(LABELS)) or not _are_probabilities(scores):
        raise _no_probabilities()
    return Assessments(scores, coverage, {})


def find_assessment(scorer: TextScorer, text: str) -> Assessment:
    """The assessment of a text by any model, checked.

    Raises:
        ScoringError: the model raised an error, or its scores are not three probabilities that sum to 1.
    """
    try:
        assessment = scorer.assess(text)
        negative, neutral, positive = assessment.scores
    except Exception as error:  # noqa: BLE001  # an imported pipeline may raise anything
        raise _failure(error) from None
    # A comparison with NaN is false, so NaN is refused, too. With numpy, this check would take as long as scoring.
    is_valid = negative >= 0 and neutral >= 0 and positive >= 0
    if not (is_valid and abs(negative + neutral + positive - 1) <= SUM_TOLERANCE):
        raise _no_probabilities()
    return assessment


def _are_probabilities(found: Floats) -> bool:
    return bool((found >= 0).all() and (np.abs(found.sum(axis=1) - 1) <= SUM_TOLERANCE).all())


def _failure(error: Exception) -> ScoringError:
    return ScoringError(f"The model cannot score this text ({type(error).__name__}).")


def _no_probabilities() -> ScoringError:
    return ScoringError("The model returned no valid probabilities for this text.")
