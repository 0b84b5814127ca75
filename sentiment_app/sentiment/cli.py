"""`flask model`: the life of a model, from training to retirement."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from sentiment_app.cli import Group, print_json
from sentiment_app.extensions import settings
from sentiment_app.ml import artifact, evaluation, experiment, labelled
from sentiment_app.ml.artifact import Manifest
from sentiment_app.ml.runtime import ModelError, TextScorer
from sentiment_app.sentiment import releases
from sentiment_app.sentiment.serving import serving

model = Group("model", help="Train, judge, release, activate and roll back models.")

out = Console()
progress = Console(stderr=True)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _complete_version(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    folders = Path("models"), Path(".dev/models")
    return [one.parent.name for folder in folders for one in folder.glob(f"{begun}*/{artifact.MANIFEST}")]


@model.command("train")
@click.option("--recipe", default="default", show_default=True, help="default, fast, or a TOML file.")
@click.option(
    "--data",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Train on your own CSV or NDJSON (text, label) instead; may be given several times.",
)
@click.option("--labels", help="What --data calls the labels, such as 0=negative,1=neutral,2=positive.")
@click.option("--activate", is_flag=True, help="Release it and have it served.")
@as_json
def train(recipe: str, files: tuple[Path, ...], labels: str | None, activate: bool, as_json: bool) -> None:
    """Train a model and keep it with its record.

    Without --data it learns from public data, fetched by pip and verified by digest. The same data, recipe and
    library versions give the same file, bit for bit, on one machine.

    Example: flask model train --recipe fast --activate
    """
    names = labelled.parse_names(labels) if labels else None
    with _steps() as step:
        manifest = experiment.run(
            experiment.find_recipe(recipe),
            data_dir=settings().data_dir,
            model_dir=settings().model_dir,
            files=[(path, names) for path in files],
            code_version=settings().release,
            progress=step,
        )
    if activate:
        releases.release(_artifact(manifest["version"]), by=getpass.getuser())
        releases.activate(manifest["version"], by=getpass.getuser())
    if as_json:
        print_json(manifest)
    else:
        _show(manifest)
        state = "active" if activate else "kept; release it with: flask model release " + manifest["version"]
        click.echo(f"{manifest['version']} is {state}")


@model.command("list")
@as_json
def index(as_json: bool) -> None:
    """List the models trained on this machine and those released, the newest first.

    Example: flask model list
    """
    released = {one.version: one for one in releases.releases()}
    local = {manifest["version"]: manifest for manifest in experiment.experiments(settings().model_dir)}
    rows = [
        {
            "version": version,
            "state": released[version].state if version in released else "trained",
            "recipe": (local.get(version) or releases.manifest_of(version))["recipe"],
            "made": (local.get(version) or releases.manifest_of(version))["created_at"],
        }
        for version in sorted({*released, *local}, reverse=True)
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("version", "state", "recipe", "made")
    for row in rows:
        table.add_row(*row.values())
    out.print(table)


@model.command("show")
@click.argument("version", shell_complete=_complete_version)
@as_json
def show(version: str, as_json: bool) -> None:
    """Show the record of a model: recipe, data, measures, digests.

    Example: flask model show 20261123-0a1b2c3d
    """
    manifest = _manifest(version)
    if as_json:
        print_json(manifest)
    else:
        _show(manifest)


@model.command("info")
@as_json
def info(as_json: bool) -> None:
    """Show the active model. Exits with 1 if there is none.

    Example: flask model info --json
    """
    served = serving().current()
    if as_json:
        print_json(served.manifest)
    else:
        _show(served.manifest)


@model.command("score")
@click.argument("text")
@click.option("--model", "version", help="Another version than the active one.", shell_complete=_complete_version)
@click.option("--explain", is_flag=True, help="Show what each term adds.")
@as_json
def score(text: str, version: str | None, explain: bool, as_json: bool) -> None:
    """Score a text here and now; nothing is stored.

    Example: flask model score "The room was small but lovely." --explain
    """
    scorer = _scorer(version)
    scores = scorer.score(text)
    told: dict[str, Any] = {"sentiment": scores.label, "scores": scores._asdict()}
    if explain and (explanation := scorer.explain(text)):
        told["explanation"] = {
            "bias": explanation.bias,
            "contributions": [one._asdict() for one in explanation.contributions],
        }
    if as_json:
        print_json(told)
        return
    click.echo(f"{scores.label} ({max(scores):.1%})")
    for name, value in scores._asdict().items():
        click.echo(f"  {name:9}{value:7.1%}")
    for one in told.get("explanation", {}).get("contributions", []):
        click.echo(f"  {one['contribution']:+6.2f}  {one['surface']}")


@model.command("evaluate")
@click.argument("version", required=False, shell_complete=_complete_version)
@click.option(
    "--data",
    "file",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Labelled CSV or NDJSON (text, label).",
)
@click.option("--labels", help="What the file calls the labels, such as 0=negative,1=positive.")
@as_json
def evaluate(version: str | None, file: Path, labels: str | None, as_json: bool) -> None:
    """Judge a model, by default the active one, on labelled texts.

    A file without neutral texts is judged on the negative and positive scores, renormalised.

    Example: flask model evaluate --data reviews.csv --labels 0=negative,1=positive
    """
    rows = labelled.read_file(file, labelled.parse_names(labels) if labels else None)
    scores = np.array(_scorer(version).score_many(row.text for row in rows))
    measured = evaluation.judge(scores, np.array([row.label for row in rows]))
    if as_json:
        print_json(measured)
        return
    for name, value in measured.items():
        click.echo(f"{name.replace('_', ' '):18} {round(value, 4) if isinstance(value, float) else value}")


@model.command("import")
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


@model.command("release")
@click.argument("version", shell_complete=_complete_version)
def release(version: str) -> None:
    """Put a trained model into the registry, from where every host can load it.

    Example: flask model release 20261123-0a1b2c3d
    """
    releases.release(_artifact(version), by=getpass.getuser())
    click.echo(f"{version} is released; have it served with: flask model activate {version}")


@model.command("activate")
@click.argument("version", shell_complete=_complete_version)
def activate(version: str) -> None:
    """Have every process serve a released model, if it passes the gate. No restart is needed.

    Example: flask model activate 20261123-0a1b2c3d
    """
    releases.activate(version, by=getpass.getuser())
    click.echo(f"{version} is active")


def _manifest(version: str) -> Manifest:
    for manifest in experiment.experiments(settings().model_dir):
        if manifest["version"] == version:
            return manifest
    return releases.manifest_of(version)


def _artifact(version: str) -> artifact.Artifact:
    return artifact.read(settings().model_dir / version)


def _scorer(version: str | None) -> TextScorer:
    if version is None:
        return serving().current().scorer
    try:
        local = _artifact(version)
    except ModelError:
        local = None
    if local is None:
        return artifact.open_artifact(releases.fetch(version), settings().model_signing_key)[1]
    key = settings().model_signing_key
    return artifact.open_artifact(local._replace(signature=artifact.sign(local.manifest, key)), key)[1]


def _show(manifest: Manifest) -> None:
    click.echo(f"{manifest['version']}: recipe {manifest['recipe']}, trained in {manifest['duration_seconds']} s")
    if not manifest["metrics"]:
        return
    table = Table("held-out texts", "number", "accuracy", "macro recall", "calibration error", title="")
    slices = {"all": manifest["metrics"]["all"], **manifest["metrics"]["by_source"]}
    for name, one in slices.items():
        shares = (f"{one[measure]:.3f}" for measure in ("accuracy", "macro_recall", "calibration_error"))
        table.add_row(name, f"{one['texts']:,}", *shares)
    out.print(table)


@contextmanager
def _steps() -> Iterator[Any]:
    """Show what is being done, on a terminal with a spinner and elsewhere line by line."""
    with progress.status("starting") as status:

        def step(text: str) -> None:
            if progress.is_terminal:
                status.update(text)
            progress.print(f"- {text}")

        yield step
