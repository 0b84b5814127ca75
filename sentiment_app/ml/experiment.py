"""One training run from data to artifact: fit on four fifths, judge on the fifth, keep the record of it all."""

import hashlib
import io
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np

from sentiment_app.ml import artifact, datasets, evaluation, labelled, training
from sentiment_app.ml.artifact import Manifest
from sentiment_app.ml.datasets import Row
from sentiment_app.ml.runtime import ModelError, PipelineScorer

Progress = Callable[[str], None]


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
    except tomllib.TOMLDecodeError as error:
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
        return replace(default, **value)
    value = tuple(value) if isinstance(value, list) else value
    if isinstance(default, tuple):
        fits = isinstance(value, tuple) and len(value) == len(default) and all(_is_number(one) for one in value)
    else:
        fits = _is_number(default) and _is_number(value)
    if not fits:
        raise ModelError(f"{path} sets {name} to {value!r}; it is something like {default!r}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def run(
    recipe: Recipe,
    *,
    data_dir: Path,
    model_dir: Path,
    files: Sequence[tuple[Path, dict[str, int] | None]] = (),
    code_version: str = "unknown",
    progress: Progress = lambda _: None,
) -> Manifest:
    """Train, judge and store a model; returns its manifest.

    Args:
        recipe: what to fit.
        data_dir: cache of the packaged data, which is fetched when it is not there.
        model_dir: where the artifact goes.
        files: own labelled files to train on in place of the packaged data, each with its label names.
        code_version: of the code that trains.
        progress: told of each step.

    Raises:
        ModelError: data that cannot be fetched or read.
    """
    started = time.perf_counter()
    rows, lexicon, sources = _data(recipe, data_dir, files, progress)
    test = [datasets.is_held_out(row) for row in rows]
    kept = [row for row, out in zip(rows, test, strict=True) if not out]
    held_out = [row for row, out in zip(rows, test, strict=True) if out]
    progress(f"fitting {recipe.name} on {len(kept):,} texts")
    pipeline = training.train(training.TrainingData(kept, lexicon), recipe.parameters)
    progress(f"judging it on {len(held_out):,} held-out texts")
    measured = _judge(pipeline, held_out)
    if recipe.refit:
        progress(f"fitting it again on all {len(rows):,} texts")
        pipeline = training.train(training.TrainingData(rows, lexicon), recipe.parameters)
    progress("storing it")
    return _keep(
        pipeline,
        model_dir,
        code_version,
        recipe=recipe.name,
        parameters=asdict(recipe.parameters),
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
    known = [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path, _ in files]
    return rows, lexicon, known


def _judge(pipeline: training.SentimentPipeline, held_out: Sequence[Row]) -> dict[str, Any]:
    if not held_out:
        return {}
    texts, labels, sources = zip(*held_out, strict=True)
    scores, truth = pipeline.predict_proba(texts), np.array(labels)
    measured = {
        "all": evaluation.judge(scores, truth),
        "by_source": evaluation.by_source(scores, truth, sources),
    }
    for name, one in measured["by_source"].items():
        one["texts_sha256"] = _digest(row for row in held_out if row.source == name)
    return measured


def _digest(rows: Iterable[Row]) -> str:
    """Tells whether two models were judged on the same texts."""
    lines = sorted(f"{row.label} {row.text}" for row in rows)
    return hashlib.sha256("\0".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _keep(pipeline: training.SentimentPipeline, model_dir: Path, code_version: str, **known: Any) -> Manifest:
    scorer = training.compile_pipeline(pipeline)
    serving, fitted = io.BytesIO(), io.BytesIO()
    scorer.save(serving)
    joblib.dump(pipeline, fitted)
    files = {artifact.SERVING: serving.getvalue(), artifact.PIPELINE: fitted.getvalue()}
    manifest, raw = artifact.describe(files, scorer, code_version, **known)
    artifact.write(model_dir, manifest["version"], {**files, artifact.MANIFEST: raw})
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
    manifest, raw = artifact.describe(files, PipelineScorer(pipeline), code_version, **known)
    artifact.write(model_dir, manifest["version"], {**files, artifact.MANIFEST: raw})
    return manifest
