"""How good a model is: the usual measures, of three classes or of two."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn import metrics

from sentiment_app.ml.runtime import LABELS

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
    classes = [0, 1, 2]
    if not (truth == NEUTRAL).any():
        classes = [0, 2]
        scores = scores[:, classes] / scores[:, classes].sum(axis=1, keepdims=True)
    guess = np.array(classes)[scores.argmax(axis=1)]
    confidence = scores.max(axis=1)
    return {
        "judged_on": "three classes" if len(classes) == 3 else "negative and positive, renormalised",
        "texts": len(truth),
        "counts": {LABELS[one]: int((truth == one).sum()) for one in classes},
        "accuracy": float(metrics.accuracy_score(truth, guess)),
        "macro_f1": float(metrics.f1_score(truth, guess, labels=classes, average="macro", zero_division=0)),
        "macro_recall": float(metrics.recall_score(truth, guess, labels=classes, average="macro", zero_division=0)),
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
    p_value = float(binomtest(only_first, differ).pvalue) if differ else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p_value": p_value}


def by_source(scores: Floats, truth: Integers, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The measures of each source apart."""
    names = np.array(sources)
    return {str(one): judge(scores[names == one], truth[names == one]) for one in dict.fromkeys(sources)}


def _auc(scores: Floats, truth: Integers, classes: list[int]) -> float | None:
    if len(np.unique(truth)) < len(classes):
        return None  # not defined where a class is missing
    if len(classes) == 2:
        return float(metrics.roc_auc_score(truth == classes[1], scores[:, 1]))
    return float(metrics.roc_auc_score(truth, scores, multi_class="ovr", average="macro", labels=classes))
