"""How good a model is: the usual measures, of three classes or of two."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr
from sklearn import metrics

from sentiment_app.ml.datasets import Row
from sentiment_app.ml.runtime import LABELS
from sentiment_app.ml.text import NEGATED, terms

NEUTRAL = LABELS.index("neutral")
BINS = 15

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def judge(scores: Floats, truth: Integers) -> dict[str, Any]:
    """Measure scores against the truth.

    Where no text is neutral, the negative and positive scores are judged, renormalised to sum to 1, and "judged_on"
    says so.

    Args:
        scores: probabilities, n by 3, in the order of LABELS.
        truth: n places in LABELS.
    """
    scores, classes = judged(scores, truth)
    # A class that no text has cannot be found: it would count as one that is always missed.
    present = [one for one in classes if (truth == one).any()]
    guess = np.array(classes)[scores.argmax(axis=1)]
    confidence = scores.max(axis=1)
    return {
        "judged_on": "three classes" if len(classes) == 3 else "negative and positive, renormalised",
        "texts": len(truth),
        "counts": {LABELS[one]: int((truth == one).sum()) for one in classes},
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
    return float(sum(share * abs(right - sure) for sure, right, share in reliability(confidence, correct)))


def reliability(confidence: Floats, correct: npt.NDArray[np.bool_]) -> list[tuple[float, float, float]]:
    """For each bin of confidence that is not empty: mean confidence, share of right answers, share of texts."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        (
            float(confidence[bins == one].mean()),
            float(correct[bins == one].mean()),
            float((bins == one).mean()),
        )
        for one in np.unique(bins)
    ]


def mcnemar(first_right: npt.NDArray[np.bool_], second_right: npt.NDArray[np.bool_]) -> dict[str, float]:
    """McNemar's exact test (1947): might two models that differ on these texts be equally good?"""
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    differ = only_first + only_second
    # Twice the binomial tail, as both sides are alike at one half; scipy.stats says the same, and loads for a second.
    p_value = min(1.0, 2 * float(bdtr(min(only_first, only_second), differ, 0.5))) if differ else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p_value": p_value}


class Slice(TypedDict):
    """How often two models are right on a part of the texts."""

    name: str
    texts: int
    first: float
    second: float


class Comparison(TypedDict):
    """Two models on the same texts."""

    versions: tuple[str, str]
    first: dict[str, Any]
    second: dict[str, Any]
    mcnemar: dict[str, float]
    slices: list[Slice]


def compare(versions: tuple[str, str], first: Floats, second: Floats, rows: Sequence[Row]) -> Comparison:
    """Judge two models on the same texts, as a whole and slice by slice.

    Args:
        versions: the names of the two.
        first: the scores of the one, n by 3.
        second: the scores of the other.
        rows: the n texts with their true labels.
    """
    truth = np.array([row.label for row in rows])
    rights = is_right(first, truth), is_right(second, truth)
    return Comparison(
        versions=versions,
        first=judge(first, truth),
        second=judge(second, truth),
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
    """Which texts are in which part: by label, source, length in terms, and whether something is negated."""
    words = [terms(row.text) for row in rows]
    lengths = np.array([len(one) for one in words])
    labels = np.array([row.label for row in rows])
    sources = np.array([row.source for row in rows])
    return {
        **{f"label {name}": labels == place for place, name in enumerate(LABELS)},
        **{f"source {name}": sources == name for name in dict.fromkeys(sources.tolist())},
        "up to 10 terms": lengths <= 10,
        "11 to 50 terms": (lengths > 10) & (lengths <= 50),
        "above 50 terms": lengths > 50,
        "with a negation": np.array([any(term.startswith(NEGATED) for term in one) for one in words]),
    }


def is_right(scores: Floats, truth: Integers) -> npt.NDArray[np.bool_]:
    """For each text whether the most probable label is the true one."""
    scores, classes = judged(scores, truth)
    return np.asarray(np.array(classes)[scores.argmax(axis=1)] == truth)


def by_source(scores: Floats, truth: Integers, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The measures of each source apart."""
    names = np.array(sources)
    return {str(one): judge(scores[names == one], truth[names == one]) for one in dict.fromkeys(sources)}


def judged(scores: Floats, truth: Integers) -> tuple[Floats, list[int]]:
    """The scores of the classes that are there to be told apart."""
    if (truth == NEUTRAL).any():
        return scores, [0, 1, 2]
    polar = scores[:, [0, 2]]
    total = polar.sum(axis=1, keepdims=True)
    return np.divide(polar, total, out=np.full_like(polar, 0.5), where=total > 0), [0, 2]


def _auc(scores: Floats, truth: Integers, classes: list[int]) -> float | None:
    if len(np.unique(truth)) < len(classes):
        return None  # not defined where a class is missing
    if len(classes) == 2:
        return float(metrics.roc_auc_score(truth == classes[1], scores[:, 1]))
    return float(metrics.roc_auc_score(truth, scores, multi_class="ovr", average="macro", labels=classes))
