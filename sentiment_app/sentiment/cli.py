"""`flask model`: the life of a model, from training to retirement."""

import getpass
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sentiment_app.cli import Group, print_json
from sentiment_app.extensions import settings
from sentiment_app.ml import artifact, evaluation, experiment, labelled
from sentiment_app.ml import report as reporting
from sentiment_app.ml.artifact import Manifest
from sentiment_app.ml.datasets import Row
from sentiment_app.ml.runtime import ModelError, TextScorer
from sentiment_app.sentiment import cards, releases
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
        releases.activate(manifest["version"], by=getpass.getuser(), allow_worse=allow_worse)
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
    help="Labelled CSV, NDJSON or Parquet (text, label, and source where there are several).",
)
@click.option("--labels", help="What the file calls the labels, such as 0=negative,1=positive.")
@click.option("--compare", "other", metavar="VERSION", help="Judge this one too.", shell_complete=_complete_version)
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
    truth = np.array([row.label for row in rows])
    names = [version or serving().current().version, *([other] if other else [])]
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
@click.option("--allow-worse", is_flag=True, help="Also if it measured worse than the active model.")
def activate(version: str, allow_worse: bool) -> None:
    """Have every process serve a released model, if it passes the gate. No restart is needed.

    The gate: our signature, the right digest, the golden texts' scores, and a macro recall on held-out texts that is
    not below the active model's.

    Example: flask model activate 20261123-0a1b2c3d
    """
    releases.activate(version, by=getpass.getuser(), allow_worse=allow_worse)
    click.echo(f"{version} is active")


@model.command("rollback")
def rollback() -> None:
    """Have the previous model served again. No restart is needed; done twice, it returns to where it was.

    Example: flask model rollback
    """
    click.echo(f"{releases.rollback(by=getpass.getuser())} is active again")


@model.command("retire")
@click.argument("version", shell_complete=_complete_version)
@click.option("--undo", is_flag=True, help="Make it a candidate again.")
def retire(version: str, undo: bool) -> None:
    """Withdraw a released model: it can neither be activated nor named by requests.

    Example: flask model retire 20261123-0a1b2c3d
    """
    (releases.reinstate if undo else releases.retire)(version, by=getpass.getuser())
    click.echo(f"{version} is {'a candidate again' if undo else 'retired'}")


@model.command("verify")
@click.argument("versions", metavar="[VERSION]...", nargs=-1, shell_complete=_complete_version)
def verify(versions: tuple[str, ...]) -> None:
    """Check released models: signature, digest, golden texts. By default all that are not retired.

    Exits with 1 if one of them fails.

    Example: flask model verify
    """
    failed = False
    for version in versions or [version for version, state in releases.states().items() if state != "retired"]:
        try:
            releases.verify(version)
        except ModelError as error:
            failed = True
            click.secho(f"{version}: {error}", fg="red")
        else:
            click.echo(f"{version}: sound")
    if failed:
        raise click.exceptions.Exit(1)


@model.command("log")
@click.argument("version", required=False, shell_complete=_complete_version)
@as_json
def log(version: str | None, as_json: bool) -> None:
    """Show who released, activated or retired which model, and what was refused, the newest first.

    Example: flask model log
    """
    events = releases.events(version)
    if as_json:
        print_json(
            [{name: getattr(one, name) for name in ("at", "version", "action", "by", "detail")} for one in events]
        )
        return
    table = Table("at", "version", "action", "by", "detail")
    for one in events:
        table.add_row(f"{one.at:%Y-%m-%d %H:%M:%S}", one.version, one.action, one.by, one.detail or "")
    out.print(table)


@model.command("card")
@click.argument("version", shell_complete=_complete_version)
def card(version: str) -> None:
    """Print a model's card as Markdown.

    Example: flask model card 20261123-0a1b2c3d > card.md
    """
    click.echo(cards.markdown(_manifest(version)))


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
        return serving().pinned(version).scorer
    key = settings().model_signing_key
    return artifact.open_artifact(local._replace(signature=artifact.sign(local.manifest, key)), key)[1]


def _scores(version: str, rows: Sequence[Row]) -> evaluation.Floats:
    scorer = _scorer(version)
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
