"""An evaluation as a self-contained HTML page: metrics and plots."""

import io
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from sentiment_app.ml.runtime import LABELS
from sentiment_app.ml.training.evaluation import Comparison, Floats, Integers, is_right, relevant_scores, reliability

COLOUR = "#2f6f9f"


def html(
    version: str,
    file: str,
    measured: dict[str, Any],
    scores: Floats,
    truth: Integers,
    comparison: Comparison | None = None,
) -> str:
    """The report page.

    Args:
        version: the evaluated model; in a comparison, the first model.
        file: the name of the file with the texts.
        measured: the result of `evaluation.evaluate`.
        scores: probabilities, shape (n, 3).
        truth: indexes of the true labels in LABELS, shape (n,).
        comparison: with another model, on the same texts.
    """
    confidence, right = relevant_scores(scores, truth)[0].max(axis=1), is_right(scores, truth)
    plots = [
        _plot("Reliability: accuracy by confidence", lambda axes: _reliability(axes, confidence, right)),
        _plot("Confusion: true and predicted labels", lambda axes: _confusion(axes, measured)),
        _plot("Threshold: accuracy without unsure predictions", lambda axes: _threshold(axes, confidence, right)),
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = (files(__package__) / "report.html").read_text()
    return environment.from_string(template).render(
        version=version, file=file, measured=measured, comparison=comparison, plots=plots
    )


def _plot(title: str, draw: Callable[[Axes], None]) -> Markup:
    # A fixed salt, and no date: the same evaluation gives the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure = Figure(figsize=(5.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title, fontsize=11)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None}, transparent=True)
    svg = content.getvalue()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704  # made by matplotlib


def _reliability(axes: Axes, confidence: Floats, right: Any) -> None:
    bins = reliability(confidence, right)
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfect")
    axes.plot(
        [mean for mean, _, _ in bins],
        [accuracy for _, accuracy, _ in bins],
        marker="o",
        color=COLOUR,
        label="this model",
    )
    axes.bar(
        [mean for mean, _, _ in bins],
        [share for _, _, share in bins],
        width=0.03,
        color="#c9d7e3",
        label="share of texts",
    )
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="upper left", fontsize=9)


def _confusion(axes: Axes, measured: dict[str, Any]) -> None:
    names = [name for name in LABELS if name in measured["counts"]]
    shown = ConfusionMatrixDisplay(np.array(measured["confusion"]), display_labels=names)
    shown.plot(ax=axes, cmap="Blues", colorbar=False)


def _threshold(axes: Axes, confidence: Floats, right: Any) -> None:
    order = np.argsort(-confidence)
    kept = np.arange(1, len(order) + 1)
    points = np.unique(np.linspace(0, len(order) - 1, 200).astype(int))
    accuracy, share = (np.cumsum(right[order]) / kept)[points], (kept / len(order))[points]
    axes.plot(confidence[order][points], accuracy, color=COLOUR, label="accuracy of the remaining texts")
    axes.plot(confidence[order][points], share, color="#b5651d", label="share of remaining texts")
    axes.set(xlabel="lowest accepted confidence", ylim=(0, 1.02))
    axes.legend(loc="lower left", fontsize=9)
