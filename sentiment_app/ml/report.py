"""An evaluation as one HTML file that needs nothing else: the measures, and what they look like."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from sentiment_app.ml.evaluation import Comparison, Floats, Integers, is_right, judged, reliability
from sentiment_app.ml.runtime import LABELS

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
        version: the model that was judged; in a comparison, the second one.
        file: the name of the file with the texts.
        measured: what `evaluation.judge` says.
        scores: probabilities, n by 3.
        truth: n places in LABELS.
        comparison: with another model, on the same texts.
    """
    confidence, right = judged(scores, truth)[0].max(axis=1), is_right(scores, truth)
    plots = [
        _plot("Reliability: is it as often right as it says?", lambda axes: _reliability(axes, confidence, right)),
        _plot("Confusion: what it takes for what", lambda axes: _confusion(axes, measured)),
        _plot("Threshold: what if unsure answers are left out?", lambda axes: _threshold(axes, confidence, right)),
    ]
    environment = Environment(loader=PackageLoader("sentiment_app"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html").render(
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
    return Markup(svg[svg.index("<svg") :])  # noqa: S704  # of matplotlib's making


def _reliability(axes: Axes, confidence: Floats, right: Any) -> None:
    bins = reliability(confidence, right)
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfect")
    axes.plot([one[0] for one in bins], [one[1] for one in bins], marker="o", color=COLOUR, label="this model")
    axes.bar([one[0] for one in bins], [one[2] for one in bins], width=0.03, color="#c9d7e3", label="share of texts")
    axes.set(xlabel="confidence", ylabel="right", xlim=(0, 1), ylim=(0, 1.02))
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
    axes.plot(confidence[order][points], accuracy, color=COLOUR, label="right, of those kept")
    axes.plot(confidence[order][points], share, color="#b5651d", label="share kept")
    axes.set(xlabel="least confidence that is accepted", ylim=(0, 1.02))
    axes.legend(loc="lower left", fontsize=9)
