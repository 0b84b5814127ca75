"""`flask model`: the life of a model, from training to retirement."""

import getpass
import os
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sentiment_app.cli import Group, as_json, print_json
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.ml import artifact
from sentiment_app.ml.artifact import Manifest
from sentiment_app.ml.runtime import ModelError, TextScorer
from sentiment_app.registry import cards, promotion, releases
from sentiment_app.registry.serving import serving
from sentiment_app.web.schemas import NormalText, Schema, load

# These commands import scikit-learn, which takes a second. The other commands do not wait for it.
TRAINING = "sentiment_app.registry.cli_training:"
model = Group(
    "model",
    help="Train, evaluate, release, activate and roll back models.",
    lazy={
        "train": TRAINING + "train",
        "evaluate": TRAINING + "evaluate",
        "import": TRAINING + "import_model",
        "explain": "sentiment_app.sentiment.cli:explain",
        "feedback": "sentiment_app.feedback.cli:feedback",
    },
)

FEW_TEXTS = 100
THREE_CLASSES = "three classes"


class TextSchema(Schema):
    """A text to score."""

    text = NormalText(required=True)


out = Console(markup=False)  # names of sources may contain brackets, which rich reads as markup


def complete_version(_ctx: click.Context, _parameter: click.Parameter, prefix: str) -> list[str]:
    folders = Path(os.environ.get("MODEL_DIR", "models")), Path(".dev/models")
    return [path.parent.name for folder in folders for path in folder.glob(f"{prefix}*/{artifact.MANIFEST}")]


@model.command("list")
@as_json
def index(as_json: bool) -> None:
    """List the models that were trained on this machine or released, newest first.

    Example: flask model list
    """
    released = {release.version: release for release in releases.releases()}
    local = {manifest["version"]: manifest for manifest in artifact.find_manifests(settings().model_dir)}
    rows = [
        {
            "version": version,
            "state": released[version].state if version in released else "trained",
            "recipe": (local.get(version) or releases.manifest_of(version))["recipe"],
            "created": (local.get(version) or releases.manifest_of(version))["created_at"],
        }
        for version in {*released, *local}
    ]
    rows.sort(key=itemgetter("created", "version"), reverse=True)
    if as_json:
        print_json(rows)
        return
    table = Table("version", "state", "recipe", "created")
    for row in rows:
        table.add_row(*row.values())
    out.print(table)


@model.command("show")
@click.argument("version", shell_complete=complete_version)
@as_json
def show(version: str, as_json: bool) -> None:
    """Show the metrics of a model on held-out texts. With --json, show its whole manifest.

    Example: flask model show 20261123-0a1b2c3d
    """
    manifest = manifest_of(version)
    if as_json:
        print_json(manifest)
    else:
        print_metrics(manifest)


@model.command("info")
@as_json
def info(as_json: bool) -> None:
    """Show the active model. The exit status is 1 if no model is active.

    Example: flask model info --json
    """
    served = serving().current()
    if as_json:
        print_json(served.manifest)
    else:
        print_metrics(served.manifest)


@model.command("score")
@click.argument("text")
@click.option(
    "--model", "version", help="The version of the model. Default: the active model.", shell_complete=complete_version
)
@click.option("--explain", is_flag=True, help="Show what each term contributes.")
@as_json
def score(text: str, version: str | None, explain: bool, as_json: bool) -> None:
    """Score a text. Nothing is stored.

    Example: flask model score "The room was small but lovely." --explain
    """
    text = load(TextSchema(), {"text": text}, "body")["text"]
    scorer = scorer_of(version)
    scores = scorer.score(text)
    result: dict[str, Any] = {"sentiment": scores.label, "scores": scores._asdict()}
    if explain and (explanation := scorer.explain(text)):
        result["explanation"] = {
            "bias": explanation.bias,
            "contributions": [contribution._asdict() for contribution in explanation.contributions],
        }
    if as_json:
        print_json(result)
        return
    click.echo(f"{scores.label} ({max(scores):.1%})")
    for name, value in scores._asdict().items():
        click.echo(f"  {name:9}{value:7.1%}")
    if "explanation" in result:
        click.echo(f"  {result['explanation']['bias']:+6.2f}  (bias)")
        for part in result["explanation"]["contributions"]:
            click.echo(f"  {part['contribution']:+6.2f}  {part['surface']}")


@model.command("release")
@click.argument("version", shell_complete=complete_version)
def release(version: str) -> None:
    """Put a trained model into the registry, from where every host loads it.

    Example: flask model release 20261123-0a1b2c3d
    """
    releases.release(read_trained(version), by=getpass.getuser())
    click.echo(f"{version} is released. Activate it with: flask model activate {version}")


@model.command("sign")
@click.option("--old-key-stdin", is_flag=True, required=True, help="Read the old key from standard input.")
def sign(old_key_stdin: bool) -> None:
    """Sign all released models again, after MODEL_SIGNING_KEY has replaced an old key.

    Nothing is changed if a model was signed with neither key.

    Example: flask model sign --old-key-stdin < old_model_signing_key
    """
    for version in releases.resign(sys.stdin.readline().rstrip("\n"), by=getpass.getuser()):
        click.echo(f"{version} is signed with the current key")


@model.command("activate")
@click.argument("version", shell_complete=complete_version)
@click.option("--allow-worse", is_flag=True, help="Activate it even if it measured worse than the active model.")
def activate(version: str, allow_worse: bool) -> None:
    """Activate a released model. All processes serve it within seconds, without a restart.

    The promotion check must pass: a valid signature and digest, the expected scores of the golden texts, and a macro
    recall at most 0.02 below that of the active model, on held-out texts that both models were measured on.

    Example: flask model activate 20261123-0a1b2c3d
    """
    promotion.activate(version, by=getpass.getuser(), allow_worse=allow_worse)
    click.echo(f"{version} is active")


@model.command("rollback")
def rollback() -> None:
    """Activate the previous model, without a restart. A second rollback undoes the first.

    Example: flask model rollback
    """
    click.echo(f"{promotion.rollback(by=getpass.getuser())} is active again")


@model.command("retire")
@click.argument("version", shell_complete=complete_version)
@click.option("--undo", is_flag=True, help="Make it a candidate again.")
def retire(version: str, undo: bool) -> None:
    """Retire a released model: it cannot be activated, and requests cannot name it.

    Example: flask model retire 20261123-0a1b2c3d
    """
    (promotion.reinstate if undo else promotion.retire)(version, by=getpass.getuser())
    click.echo(f"{version} is {'a candidate again' if undo else 'retired'}")


@model.command("verify")
@click.argument("versions", metavar="[VERSION]...", nargs=-1, shell_complete=complete_version)
def verify(versions: tuple[str, ...]) -> None:
    """Check the signature, digest and golden texts of released models. Default: all models that are not retired.

    The exit status is 1 if a check fails.

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
            click.echo(f"{version}: valid")
    if failed:
        raise click.exceptions.Exit(1)


@model.command("log")
@click.argument("version", required=False, shell_complete=complete_version)
@as_json
def log(version: str | None, as_json: bool) -> None:
    """Show the audit log, newest first: who released, activated or retired a model, and what was refused.

    Example: flask model log
    """
    events = releases.events(releases.get(version).version if version else None)
    if as_json:
        print_json(
            [{name: getattr(event, name) for name in ("at", "version", "action", "by", "detail")} for event in events]
        )
        return
    table = Table("at", "version", "action", "by", "detail")
    for event in events:
        table.add_row(f"{event.at:%Y-%m-%d %H:%M:%S}", event.version, event.action, event.by, event.detail or "")
    out.print(table)


@model.command("card")
@click.argument("version", shell_complete=complete_version)
def card(version: str) -> None:
    """Print the model card as Markdown.

    Example: flask model card 20261123-0a1b2c3d > card.md
    """
    click.echo(cards.markdown(manifest_of(version)))


def manifest_of(version: str) -> Manifest:
    for manifest in artifact.find_manifests(settings().model_dir):
        if manifest["version"] == version:
            return manifest
    return releases.manifest_of(version)


def read_trained(version: str) -> artifact.Artifact:
    if Path(version).name != version:  # a path could lead to any folder
        raise ModelError(f"{version!r} is not the version of a model")
    return artifact.read(settings().model_dir / version)


def scorer_of(version: str | None) -> TextScorer:
    if version is None:
        return serving().current().scorer
    try:
        local = read_trained(version)
    except ModelError:
        local = None
    if local is None:
        return serving().pinned(version).scorer
    key = settings().model_signing_key
    return artifact.open_artifact(local._replace(signature=artifact.sign(local.manifest, key)), key)[1]


def print_metrics(manifest: Manifest) -> None:
    click.echo(f"{manifest['version']}: recipe {manifest['recipe']}, trained in {manifest['duration_seconds']} s")
    if not manifest["metrics"]:
        click.echo("It has no metrics: it was imported, or no texts were held out.")
        return
    table = Table("held-out texts", "texts", "accuracy", "macro recall", "calibration error", title="")
    metrics = manifest["metrics"]
    for name, values in {"all": metrics["all"], **metrics["by_source"]}.items():
        shares = (f"{values[metric]:.3f}" for metric in ("accuracy", "macro_recall", "calibration_error"))
        table.add_row(name, f"{values['texts']:,}", *shares)
    out.print(table)
    if metrics["all"].get("evaluated_on", THREE_CLASSES) != THREE_CLASSES:
        click.echo(f"Evaluated on {metrics['all']['evaluated_on']}.")
    if metrics["all"]["texts"] < FEW_TEXTS:
        click.echo("The number of texts is too small for a reliable result.")
    if against := metrics.get("against"):
        click.echo(
            f"Compared with {against['version']} on {against['texts']:,} texts that neither model was trained on: "
            f"macro recall {against['macro_recall']:.3f} (new), {against['its_macro_recall']:.3f} (active)."
        )
