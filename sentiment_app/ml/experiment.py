"""One training run from data to artifact: fit on four fifths, judge on the fifth, keep the record of it all."""

import hashlib
import io
import math
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import joblib
import numpy as np
import numpy.typing as npt

from sentiment_app.ml import artifact, datasets, evaluation, labelled, training
from sentiment_app.ml.artifact import Manifest
from sentiment_app.ml.datasets import Row
from sentiment_app.ml.runtime import ModelError, PipelineScorer, TextScorer

Progress = Callable[[str], None]

OUTCOMES = "outcomes.npz"
FEWEST_COMPARED = 30
TEMPLATES_BESIDE_OWN = 0.3
"""What a template sentence weighs beside own texts, as a share of the recipe's weight: more of it costs accuracy on
them, less costs the turns of phrase that the templates teach."""


class Rival(NamedTuple):
    """The model that a new one is to replace."""

    manifest: Manifest
    scorer: TextScorer


class Recipe(NamedTuple):
    """Parameters under a name. A model that is refitted on all data was judged by its twin on four fifths."""

    name: str
    parameters: training.Parameters
    refit: bool


RECIPES = {
    "default": Recipe("default", training.DEFAULT, refit=True),
    "fast": Recipe("fast", training.FAST, refit=False),
}


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or from a TOML file that changes parameters of the default one.

    Raises:
        ModelError: there is no such recipe, or it sets what does not exist.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if not path.is_file():
        raise ModelError(f"there is no recipe {name!r}; name one of {', '.join(RECIPES)}, or a TOML file")
    try:
        changes = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # UnicodeDecodeError is one
        raise ModelError(f"{path} is not TOML: {error}") from None
    known = {one.name for one in fields(training.Parameters)}
    if unknown := sorted(set(changes) - known):
        raise ModelError(f"{path} sets {', '.join(unknown)}; a recipe may set {', '.join(sorted(known))}")
    parameters = replace(training.DEFAULT, **{name: _value(path, name, value) for name, value in changes.items()})
    return Recipe(path.name, parameters, refit=True)


def _value(path: Path, name: str, value: Any) -> Any:
    default = getattr(training.DEFAULT, name)
    if isinstance(default, training.HeadParameters) and isinstance(value, dict):
        if unknown := set(value) - {one.name for one in fields(default)}:
            raise ModelError(f"{path} sets {name}.{', '.join(sorted(unknown))}, which does not exist")
        return replace(
            default, **{one: _checked(path, one, given, getattr(default, one)) for one, given in value.items()}
        )
    return _checked(path, name, tuple(value) if isinstance(value, list) else value, default)


def _checked(path: Path, name: str, value: Any, default: Any) -> Any:
    if not _fits(value, default) or (name.endswith(("cost", "temperature")) and value == 0):
        raise ModelError(f"{path} sets {name} to {value!r}; it is something like {default!r}")
    return value


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):  # from the first number to the second
        is_like_it = isinstance(value, tuple) and len(value) == len(default)
        return is_like_it and all(map(_fits, value, default)) and value[0] < value[1]
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
    files: Sequence[tuple[Path, dict[str, int] | None]] = (),
    rival: Rival | None = None,
    code_version: str = "unknown",
    progress: Progress = lambda _: None,
) -> Manifest:
    """Train, judge and store a model; returns its manifest.

    Beside own texts the template sentences weigh less, and the temperatures are fitted to the texts.

    Args:
        recipe: what to fit.
        data_dir: cache of the packaged data, which is fetched when it is not there.
        model_dir: where the artifact goes.
        files: own labelled files to train on in place of the packaged data, each with its label names.
        rival: judged too, on those of the held-out texts that it has not learned from.
        code_version: of the code that trains.
        progress: told of each step.

    Raises:
        ModelError: data that cannot be fetched or read.
    """
    started = time.perf_counter()
    rows, lexicon, sources = _data(recipe, data_dir, files, progress)
    held_out = [row for row in rows if datasets.is_held_out(row)]
    kept = [row for row in rows if not datasets.is_held_out(row)]
    parameters = recipe.parameters
    if files:
        progress(f"calibrating {recipe.name} on {len(kept):,} texts")
        parameters = replace(parameters, template_weight=parameters.template_weight * TEMPLATES_BESIDE_OWN)
        parameters = training.calibrate(kept, lexicon, parameters)
    progress(f"fitting {recipe.name} on {len(kept):,} texts")
    pipeline = training.train(training.TrainingData(kept, lexicon), parameters)
    progress(f"judging it on {len(held_out):,} held-out texts")
    scores = pipeline.predict_proba([row.text for row in held_out]) if held_out else np.empty((0, 3))
    outcomes = Outcomes.of(held_out, scores)
    measured = _judge(held_out, scores)
    if rival and (against := _against(rival, held_out, outcomes, sources, model_dir)):
        measured["against"] = against
    if recipe.refit:
        progress(f"fitting it again on all {len(rows):,} texts")
        pipeline = training.train(training.TrainingData(rows, lexicon), parameters)
    progress("storing it")
    return _keep(
        pipeline,
        model_dir,
        code_version,
        outcomes,
        recipe=recipe.name,
        parameters=asdict(parameters),
        data=sources,
        metrics=measured,
        refit=recipe.refit,
        duration_seconds=round(time.perf_counter() - started, 1),
    )


def _data(
    recipe: Recipe, data_dir: Path, files: Sequence[tuple[Path, dict[str, int] | None]], progress: Progress
) -> tuple[list[Row], dict[str, float], list[dict[str, Any]]]:
    progress("fetching the data (once; it is kept)")
    datasets.fetch(data_dir, lexicon_only=bool(files))
    lexicon = datasets.read_lexicon(data_dir)
    if not files:
        rows = datasets.read(data_dir, recipe.parameters.review_stride)
        known = [
            {
                "package": package.name,
                "about": package.about,
                "sha256": package.sha256,
                "files": package.members,
            }
            for package in datasets.PACKAGES
        ]
        return rows, lexicon, known
    # Without doubles, as the packaged data: a text must not be learned and held out.
    rows = list(datasets.distinct(row for path, names in files for row in labelled.read_file(path, names)))
    if len({row.label for row in rows}) < 2:
        raise ModelError("there is nothing to tell apart: all texts have the same label")
    known = [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path, _ in files]
    return rows, lexicon, known


def _judge(held_out: Sequence[Row], scores: evaluation.Floats) -> dict[str, Any]:
    if not held_out:
        return {}
    _, labels, sources = zip(*held_out, strict=True)
    truth = np.array(labels)
    measured = {
        "all": evaluation.judge(scores, truth),
        "by_source": evaluation.by_source(scores, truth, sources),
    }
    for name, one in measured["by_source"].items():
        one["texts_sha256"] = _digest(row for row in held_out if row.source == name)
    return measured


class Outcomes(NamedTuple):
    """Which held-out texts a model was right about; kept beside it on this machine, for the next to be compared with.

    Args:
        texts: digests, n of 8 bytes.
        labels: true places in LABELS, n.
        right: n.
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
        """The mean over the labels of the share that was found, on some of the texts."""
        some = np.isin(self.texts, texts)
        labels, right = self.labels[some], self.right[some]
        return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def _text_digest(row: Row) -> int:
    return int.from_bytes(hashlib.sha256(f"{row.label} {row.text}".encode("utf-8", "surrogatepass")).digest()[:8])


def _against(
    rival: Rival, held_out: Sequence[Row], ours: Outcomes, sources: Sequence[dict[str, Any]], model_dir: Path
) -> dict[str, Any] | None:
    """How the rival did beside ours, on texts that neither learned from; None where there are none.

    What it learned from is known by kind: the packaged data, or own files. Of own files only those texts are certain
    which it was judged on, unless it was not fitted again on all of them: the split goes by the text alone.
    """
    version, learned = rival.manifest["version"], rival.manifest["data"]
    kept = model_dir / version / OUTCOMES
    # One from elsewhere may have learned from these very texts.
    if not learned or len(held_out) < FEWEST_COMPARED:
        return None
    if ("file" in learned[0]) != ("file" in sources[0]) or not rival.manifest.get("refit", True):
        theirs = Outcomes.of(held_out, np.array([rival.scorer.score(row.text) for row in held_out]))
    elif kept.is_file():
        theirs = Outcomes.read(kept)
    else:
        return None
    common = np.intersect1d(ours.texts, theirs.texts)
    if len(common) < FEWEST_COMPARED:
        return None
    return {
        "version": version,
        "texts": len(common),
        "macro_recall": ours.macro_recall(common),
        "its_macro_recall": theirs.macro_recall(common),
    }


def _digest(rows: Iterable[Row]) -> str:
    """Tells whether two models were judged on the same texts."""
    lines = sorted(f"{row.label} {row.text}" for row in rows)
    return hashlib.sha256("\0".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _keep(
    pipeline: training.SentimentPipeline, model_dir: Path, code_version: str, outcomes: Outcomes, **known: Any
) -> Manifest:
    scorer = training.compile_pipeline(pipeline)
    serving, fitted = io.BytesIO(), io.BytesIO()
    scorer.save(serving)
    joblib.dump(pipeline, fitted)
    files = {artifact.SERVING: serving.getvalue(), artifact.PIPELINE: fitted.getvalue()}
    manifest, raw = artifact.describe(files, scorer, code_version, **known)
    artifact.write(model_dir, manifest["version"], {**files, OUTCOMES: outcomes.content(), artifact.MANIFEST: raw})
    return manifest


def take_over(file: Path, *, model_dir: Path, code_version: str) -> Manifest:
    """Store a pipeline that was fitted elsewhere as a model of ours; it is served as it is.

    Raises:
        ModelError: it does not load, or does not tell the three labels apart.
    """
    content = file.read_bytes()
    try:
        pipeline = joblib.load(io.BytesIO(content))
    except Exception as error:
        raise ModelError(f"{file} cannot be loaded: {type(error).__name__}") from error
    files = {artifact.PIPELINE: content}
    known = {"recipe": f"imported {file.name}", "parameters": {}, "data": [], "metrics": {}, "duration_seconds": 0.0}
    try:
        manifest, raw = artifact.describe(files, PipelineScorer(pipeline), code_version, **known)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{file} does not score texts: {type(error).__name__} at the first ones") from error
    artifact.write(model_dir, manifest["version"], {**files, artifact.MANIFEST: raw})
    return manifest
