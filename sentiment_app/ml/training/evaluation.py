"""Evaluation: the usual metrics, for three classes or for two."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr
from sklearn import metrics

from sentiment_app.ml.runtime import LABELS
from sentiment_app.ml.text import NEGATED, terms
from sentiment_app.ml.training.datasets import Row

NEUTRAL = LABELS.index("neutral")
CALIBRATION_BINS = 15

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def evaluate(scores: Floats, truth: Integers) -> dict[str, Any]:
    """Compare scores with the true labels.

    If no text is neutral, the negative and positive scores are renormalised to sum to 1, and "evaluated_on" says so.

    Args:
        scores: probabilities, shape (n, 3), in the order of LABELS.
        truth: indexes of the true labels in LABELS, shape (n,).
    """
    scores, classes = relevant_scores(scores, truth)
    # A class without texts would count as a class whose texts are all missed.
    present = [label for label in classes if (truth == label).any()]
    guess = np.array(classes)[scores.argmax(axis=1)]
    confidence = scores.max(axis=1)
    return {
        "evaluated_on": "three classes" if len(classes) == 3 else "negative and positive, renormalised",
        "texts": len(truth),
        "counts": {LABELS[label]: int((truth == label).sum()) for label in classes},
        "accuracy": float(metrics.accuracy_score(truth, guess)),
        "macro_f1": float(metrics.f1_score(truth, guess, labels=present, average="macro", zero_division=0)),
        "macro_recall": float(metrics.recall_score(truth, guess, labels=present, average="macro", zero_division=0)),
        "auc": _auc(scores, truth, classes),
        "log_loss": float(metrics.log_loss(truth, scores, labels=classes)),
        "calibration_error": calibration_error(confidence, guess == truth),
        "confusion": metrics.confusion_matrix(truth, guess, labels=classes).tolist(),
    }


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error over bins of equal width (Guo et al., 2017, "On Calibration")."""
    return float(sum(share * abs(accuracy - mean) for mean, accuracy, share in reliability(confidence, correct)))


def reliability(confidence: Floats, correct: npt.NDArray[np.bool_]) -> list[tuple[float, float, float]]:
    """For each bin of confidence that is not empty: the mean confidence, the accuracy, and the share of texts."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return [
        (
            float(confidence[bins == number].mean()),
            float(correct[bins == number].mean()),
            float((bins == number).mean()),
        )
        for number in np.unique(bins)
    ]


def mcnemar(first_right: npt.NDArray[np.bool_], second_right: npt.NDArray[np.bool_]) -> dict[str, float]:
    """McNemar's exact test (1947) of the hypothesis that two models are equally good."""
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    differ = only_first + only_second
    # Twice the binomial tail. scipy.stats gives the same value, and takes a second to import.
    p_value = min(1.0, 2 * float(bdtr(min(only_first, only_second), differ, 0.5))) if differ else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p_value": p_value}


class Slice(TypedDict):
    """The accuracy of two models on a part of the texts."""

    name: str
    texts: int
    first: float
    second: float


class Comparison(TypedDict):
    """Two models, evaluated on the same texts."""

    versions: tuple[str, str]
    first: dict[str, Any]
    second: dict[str, Any]
    mcnemar: dict[str, float]
    slices: list[Slice]


def compare(versions: tuple[str, str], first: Floats, second: Floats, rows: Sequence[Row]) -> Comparison:
    """Evaluate two models on the same texts, as a whole and by slices.

    Args:
        versions: the versions of the models.
        first: the scores of the first model, shape (n, 3).
        second: the scores of the second model, shape (n, 3).
        rows: the n texts with their true labels.
    """
    truth = np.array([row.label for row in rows])
    rights = is_right(first, truth), is_right(second, truth)
    return Comparison(
        versions=versions,
        first=evaluate(first, truth),
        second=evaluate(second, truth),
        mcnemar=mcnemar(*rights),
        slices=[
            Slice(
                name=name,
                texts=int(part.sum()),
                first=float(rights[0][part].mean()),
                second=float(rights[1][part].mean()),
            )
            for name, part in slices(rows).items()
            if part.any()
        ],
    )


def slices(rows: Sequence[Row]) -> dict[str, npt.NDArray[np.bool_]]:
    """Parts of the texts: by label, source, length in terms, and whether they contain a negation."""
    words = [terms(row.text) for row in rows]
    lengths = np.array([len(text_terms) for text_terms in words])
    labels = np.array([row.label for row in rows])
    sources = np.array([row.source for row in rows])
    return {
        **{f"label {name}": labels == index for index, name in enumerate(LABELS)},
        **{f"source {name}": sources == name for name in dict.fromkeys(sources.tolist())},
        "up to 10 terms": lengths <= 10,
        "11 to 50 terms": (lengths > 10) & (lengths <= 50),
        "above 50 terms": lengths > 50,
        "with a negation": np.array([any(term.startswith(NEGATED) for term in text_terms) for text_terms in words]),
    }


def measure_slices(rights: npt.NDArray[np.bool_], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The accuracy on each part of the texts, except on each source: `by_source` measures those."""
    return [
        {"name": name, "texts": int(part.sum()), "accuracy": float(rights[part].mean())}
        for name, part in slices(rows).items()
        if part.any() and not name.startswith("source ")
    ]


def measure_reliability(scores: Floats, truth: Integers) -> list[dict[str, float]]:
    """For each bin of confidence that is not empty: the mean confidence, the accuracy, and the share of texts."""
    bins = reliability(relevant_scores(scores, truth)[0].max(axis=1), is_right(scores, truth))
    return [{"confidence": mean, "accuracy": accuracy, "share": share} for mean, accuracy, share in bins]


def is_right(scores: Floats, truth: Integers) -> npt.NDArray[np.bool_]:
    """Whether the most probable label of each text is the true label, shape (n,)."""
    scores, classes = relevant_scores(scores, truth)
    return np.asarray(np.array(classes)[scores.argmax(axis=1)] == truth)


def by_source(scores: Floats, truth: Integers, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The metrics of each source."""
    names = np.array(sources)
    return {str(name): evaluate(scores[names == name], truth[names == name]) for name in dict.fromkeys(sources)}


def relevant_scores(scores: Floats, truth: Integers) -> tuple[Floats, list[int]]:
    """The scores of the classes that occur: all three, or negative and positive."""
    if (truth == NEUTRAL).any():
        return scores, [0, 1, 2]
    polar = scores[:, [0, 2]]
    total = polar.sum(axis=1, keepdims=True)
    return np.divide(polar, total, out=np.full_like(polar, 0.5), where=total > 0), [0, 2]


def _auc(scores: Floats, truth: Integers, classes: list[int]) -> float | None:
    if len(np.unique(truth)) < len(classes):
        return None  # not defined if a class is missing
    if len(classes) == 2:
        return float(metrics.roc_auc_score(truth == classes[1], scores[:, 1]))
    return float(metrics.roc_auc_score(truth, scores, multi_class="ovr", average="macro", labels=classes))
