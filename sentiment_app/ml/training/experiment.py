"""A training run from data to artifact: train on four fifths of the texts, evaluate on the rest, store the manifest."""

import hashlib
import io
import math
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import joblib
import numpy as np
import numpy.typing as npt

from sentiment_app.ml import artifact, language
from sentiment_app.ml.artifact import Manifest
from sentiment_app.ml.runtime import ModelError, TextScorer
from sentiment_app.ml.training import behaviour, datasets, evaluation, labelled
from sentiment_app.ml.training.datasets import Row
from sentiment_app.ml.training.pipeline import (
    DEFAULT,
    FAST,
    HeadParameters,
    Parameters,
    SentimentPipeline,
    TrainingData,
    calibrate,
    compile_pipeline,
    train,
)

Progress = Callable[[str], None]

OUTCOMES = "outcomes.npz"
MIN_COMPARED_TEXTS = 30
# The language of the user's own texts is that of most of the first texts.
LANGUAGE_TEXTS = 1000
TEMPLATE_WEIGHTS = ("template_weight", "polar_template_weight", "neutral_template_weight")
TEMPLATES_BESIDE_OWN = 0.12
"""Weight of a template sentence when a model is trained on the user's own texts, as a share of the recipe's weight. A
higher weight makes the model less accurate on these texts. A lower weight makes it forget phrases of the templates."""


class Baseline(NamedTuple):
    """The active model, which a new model is compared with."""

    manifest: Manifest
    scorer: TextScorer


class Recipe(NamedTuple):
    """Named parameters. With `refit`, the model is trained again on all data after its evaluation."""

    name: str
    parameters: Parameters
    refit: bool


RECIPES = {
    "default": Recipe("default", DEFAULT, refit=True),
    "fast": Recipe("fast", FAST, refit=False),
}


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or from a TOML file that changes parameters of the default recipe.

    Raises:
        ModelError: there is no such recipe, or the file sets an unknown parameter.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if not path.is_file():
        raise ModelError(f"there is no recipe named {name!r}. Use {', '.join(RECIPES)}, or the path of a TOML file")
    try:
        changes = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # also UnicodeDecodeError
        raise ModelError(f"{path} is not valid TOML: {error}") from None
    known = {field.name for field in fields(Parameters)}
    if unknown := sorted(set(changes) - known):
        raise ModelError(
            f"{path} sets unknown parameters: {', '.join(unknown)}. A recipe can set: {', '.join(sorted(known))}"
        )
    parameters = replace(DEFAULT, **{name: _value(path, name, value) for name, value in changes.items()})
    return Recipe(path.name, parameters, refit=True)


def _value(path: Path, name: str, value: Any) -> Any:
    default = getattr(DEFAULT, name)
    if isinstance(default, HeadParameters) and isinstance(value, dict):
        if unknown := set(value) - {field.name for field in fields(default)}:
            raise ModelError(f"{path} sets unknown parameters of {name}: {', '.join(sorted(unknown))}")
        return replace(
            default, **{key: _checked(path, key, given, getattr(default, key)) for key, given in value.items()}
        )
    return _checked(path, name, tuple(value) if isinstance(value, list) else value, default)


def _checked(path: Path, name: str, value: Any, default: Any) -> Any:
    if not _fits(value, default) or (name.endswith(("cost", "temperature")) and value == 0):
        raise ModelError(f"{path} sets {name} to {value!r}, which is not acceptable. The default is {default!r}")
    return value


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):  # a range of two numbers
        has_same_length = isinstance(value, tuple) and len(value) == len(default)
        return has_same_length and all(map(_fits, value, default)) and value[0] < value[1]
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and value >= 1
    return isinstance(default, float) and isinstance(value, int | float) and 0 <= value < math.inf


def run(
    recipe: Recipe,
    *,
    data_dir: Path,
    model_dir: Path,
    files: Sequence[labelled.LabelledFile] = (),
    feedback: Sequence[Row] = (),
    baseline: Baseline | None = None,
    code_version: str = "unknown",
    progress: Progress = lambda _: None,
) -> Manifest:
    """Train, evaluate and store a model; returns its manifest.

    If `files` are given, template sentences weigh less, and the temperatures are fitted to the texts.

    Args:
        recipe: the parameters.
        data_dir: cache of the packaged data, which is downloaded if it is missing.
        model_dir: the folder in which the model is stored.
        files: the user's labelled files, used instead of the packaged data.
        feedback: texts that users of the service have labelled, used in addition.
        baseline: the active model. It is compared with the new model on texts that neither model was trained on.
        code_version: the git revision of the code.
        progress: called with a description of each step.

    Raises:
        ModelError: data cannot be downloaded or read.
    """
    started = time.perf_counter()
    rows, lexicon, sources = _data(recipe, data_dir, files, feedback, progress)
    held_out = [row for row in rows if datasets.is_held_out(row)]
    kept = [row for row in rows if not datasets.is_held_out(row)]
    parameters = recipe.parameters
    if files:
        progress(f"calibrating {recipe.name} on {len(kept):,} texts")
        weights = {name: getattr(parameters, name) * TEMPLATES_BESIDE_OWN for name in TEMPLATE_WEIGHTS}
        parameters = replace(parameters, **weights)
        parameters = calibrate(kept, lexicon, parameters)
    progress(f"fitting {recipe.name} on {len(kept):,} texts")
    pipeline = train(TrainingData(kept, lexicon), parameters)
    progress(f"evaluating it on {len(held_out):,} held-out texts")
    scores = pipeline.predict_proba([row.text for row in held_out]) if held_out else np.empty((0, 3))
    outcomes = Outcomes.of(held_out, scores)
    measured = _evaluate(held_out, scores)
    if baseline and (against := _compare(baseline, held_out, outcomes, sources, model_dir)):
        measured["against"] = against
    if recipe.refit:
        progress(f"fitting it again on all {len(rows):,} texts")
        pipeline = train(TrainingData(rows, lexicon), parameters)
    spoken = language.find_most_frequent([row.text for row in rows[:LANGUAGE_TEXTS]]) if files else "en"
    if measured and spoken == "en":
        measured["behaviour"] = [kind._asdict() for kind in behaviour.evaluate(compile_pipeline(pipeline))]
    progress("storing the model")
    return _store(
        pipeline,
        model_dir,
        code_version,
        outcomes,
        recipe=recipe.name,
        parameters=asdict(parameters),
        data=sources,
        metrics=measured,
        refit=recipe.refit,
        language=spoken,
        duration_seconds=round(time.perf_counter() - started, 1),
    )


def _data(
    recipe: Recipe,
    data_dir: Path,
    files: Sequence[labelled.LabelledFile],
    feedback: Sequence[Row],
    progress: Progress,
) -> tuple[list[Row], dict[str, float], list[dict[str, Any]]]:
    progress("downloading the data, unless it is cached")
    fetched = datasets.fetch(data_dir, lexicon_only=bool(files))
    progress(f"downloaded {', '.join(fetched)}" if fetched else f"using the data in {data_dir}; nothing was downloaded")
    lexicon = datasets.read_lexicon(data_dir)
    dropped = datasets.Dropped()
    rows, sources = _read_files(files) if files else _read_packages(recipe, data_dir, dropped)
    if feedback:
        sources.append(
            {"feedback": len(feedback), "sha256": hashlib.sha256(b"".join(labelled.write(feedback))).hexdigest()}
        )
        # A label of a user replaces another label, but not of the held-out texts, by which models are judged.
        held_out = [row for row in rows if datasets.is_held_out(row)]
        rows = [*held_out, *feedback, *(row for row in rows if not datasets.is_held_out(row))]
    if files or feedback:
        # Without duplicates, like the packaged data: a text must not be both in the training data and held out.
        rows = list(datasets.distinct(rows, dropped))
    stride = 1 if files else recipe.parameters.review_stride
    skipped = f"; only every {stride}th film review is used" if stride > 1 else ""
    progress(f"using {_count_by_source(rows)}: {dropped}{skipped}")
    if len({row.label for row in rows}) < 2:
        raise ModelError("all texts have the same label. Training needs texts with at least two labels")
    return rows, lexicon, sources


def _read_packages(recipe: Recipe, data_dir: Path, dropped: datasets.Dropped) -> tuple[list[Row], list[dict[str, Any]]]:
    sources = [
        {"package": package.name, "about": package.about, "sha256": package.sha256, "files": package.members}
        for package in datasets.PACKAGES
    ]
    return datasets.read(data_dir, recipe.parameters.review_stride, dropped), sources


def _read_files(files: Sequence[labelled.LabelledFile]) -> tuple[list[Row], list[dict[str, Any]]]:
    rows = [row for file in files for row in labelled.read_file(file)]
    return rows, [
        {"file": file.path.name, "sha256": hashlib.sha256(file.path.read_bytes()).hexdigest()} for file in files
    ]


def _count_by_source(rows: Sequence[Row]) -> str:
    counts = Counter(row.source for row in rows)
    return f"{len(rows):,} texts ({', '.join(f'{count:,} {source}' for source, count in counts.items())})"


def _evaluate(held_out: Sequence[Row], scores: evaluation.Floats) -> dict[str, Any]:
    if not held_out:
        return {}
    _, labels, sources = zip(*held_out, strict=True)
    truth = np.array(labels)
    measured: dict[str, Any] = {
        "all": evaluation.evaluate(scores, truth),
        "by_source": evaluation.by_source(scores, truth, sources),
    }
    for name, metrics in measured["by_source"].items():
        metrics["texts_sha256"] = _digest(row for row in held_out if row.source == name)
    measured["reliability"] = evaluation.measure_reliability(scores, truth)
    measured["slices"] = evaluation.measure_slices(evaluation.is_right(scores, truth), held_out)
    return measured


class Outcomes(NamedTuple):
    """The held-out texts, and which of them a model predicted correctly. Stored with the model, for later comparisons.

    Args:
        texts: digests of 8 bytes, shape (n,).
        labels: indexes of the true labels in LABELS, shape (n,).
        right: whether the prediction is correct, shape (n,).
    """

    texts: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[Row], scores: evaluation.Floats) -> Self:
        labels = np.array([row.label for row in rows], np.int64)
        texts = np.array([_text_digest(row) for row in rows], np.uint64)
        return cls(texts, labels, evaluation.is_right(scores, labels))

    @classmethod
    def read(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(*(arrays[name] for name in cls._fields))

    def content(self) -> bytes:
        held = io.BytesIO()
        np.savez_compressed(held, **self._asdict())
        return held.getvalue()

    def macro_recall(self, texts: npt.NDArray[np.uint64]) -> float:
        """The mean over the labels of the share that was predicted correctly, on some of the texts."""
        some = np.isin(self.texts, texts)
        labels, right = self.labels[some], self.right[some]
        return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def _text_digest(row: Row) -> int:
    return int.from_bytes(hashlib.sha256(f"{row.label} {row.text}".encode("utf-8", "surrogatepass")).digest()[:8])


def _compare(
    baseline: Baseline, held_out: Sequence[Row], ours: Outcomes, sources: Sequence[dict[str, Any]], model_dir: Path
) -> dict[str, Any] | None:
    """Compare both models on texts that neither model was trained on; None if there are too few such texts.

    The baseline is scored here if it was trained on another kind of data (packaged data or the user's files), or only
    on its training split. Otherwise its stored outcomes on the texts that both models held out are used. The split
    depends on the text alone, so both models hold out the same texts.
    """
    version, training_data = baseline.manifest["version"], baseline.manifest["data"]
    stored = model_dir / version / OUTCOMES
    # An imported model may have been trained on these texts.
    if not training_data or len(held_out) < MIN_COMPARED_TEXTS:
        return None
    if ("file" in training_data[0]) != ("file" in sources[0]) or not baseline.manifest.get("refit", True):
        theirs = Outcomes.of(held_out, np.array([baseline.scorer.score(row.text) for row in held_out]))
    elif stored.is_file():
        theirs = Outcomes.read(stored)
    else:
        return None
    common = np.intersect1d(ours.texts, theirs.texts)
    if len(common) < MIN_COMPARED_TEXTS:
        return None
    return {
        "version": version,
        "texts": len(common),
        "macro_recall": ours.macro_recall(common),
        "its_macro_recall": theirs.macro_recall(common),
    }


def _digest(rows: Iterable[Row]) -> str:
    """Identifies a set of texts, to know whether two models were evaluated on the same texts."""
    lines = sorted(f"{row.label} {row.text}" for row in rows)
    return hashlib.sha256("\0".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _store(
    pipeline: SentimentPipeline, model_dir: Path, code_version: str, outcomes: Outcomes, **known: Any
) -> Manifest:
    scorer = compile_pipeline(pipeline)
    serving, fitted = io.BytesIO(), io.BytesIO()
    scorer.save(serving)
    joblib.dump(pipeline, fitted)
    files = {artifact.SERVING: serving.getvalue(), artifact.PIPELINE: fitted.getvalue()}
    manifest, raw = artifact.describe(files, scorer, code_version, **known)
    artifact.write(model_dir, manifest["version"], {**files, OUTCOMES: outcomes.content(), artifact.MANIFEST: raw})
    return manifest
