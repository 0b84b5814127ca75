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
from sentiment_app.extensions import settings
from sentiment_app.ml import artifact
from sentiment_app.ml.artifact import Manifest
from sentiment_app.ml.runtime import ModelError, TextScorer
from sentiment_app.schema import load
from sentiment_app.sentiment import cards, releases
from sentiment_app.sentiment.schemas import AnalyzeSchema
from sentiment_app.sentiment.serving import serving

# Training and judging import scikit-learn, which the rest need not wait for.
STUDIO = "sentiment_app.sentiment.cli_training:"
model = Group(
    "model",
    help="Train, judge, release, activate and roll back models.",
    lazy={"train": STUDIO + "train", "evaluate": STUDIO + "evaluate", "import": STUDIO + "import_pipeline"},
)

FEW_TEXTS = 100
THREE_CLASSES = "three classes"

out = Console(markup=False)  # what names a source is no markup


def complete_version(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    folders = Path(os.environ.get("MODEL_DIR", "models")), Path(".dev/models")
    return [one.parent.name for folder in folders for one in folder.glob(f"{begun}*/{artifact.MANIFEST}")]


@model.command("list")
@as_json
def index(as_json: bool) -> None:
    """List the models trained on this machine and those released, the newest first.

    Example: flask model list
    """
    released = {one.version: one for one in releases.releases()}
    local = {manifest["version"]: manifest for manifest in artifact.kept(settings().model_dir)}
    rows = [
        {
            "version": version,
            "state": released[version].state if version in released else "trained",
            "recipe": (local.get(version) or releases.manifest_of(version))["recipe"],
            "made": (local.get(version) or releases.manifest_of(version))["created_at"],
        }
        for version in {*released, *local}
    ]
    rows.sort(key=itemgetter("made", "version"), reverse=True)
    if as_json:
        print_json(rows)
        return
    table = Table("version", "state", "recipe", "made")
    for row in rows:
        table.add_row(*row.values())
    out.print(table)


@model.command("show")
@click.argument("version", shell_complete=complete_version)
@as_json
def show(version: str, as_json: bool) -> None:
    """Show how a model did on held-out texts; with --json its whole record: recipe, data, measures, digests.

    Example: flask model show 20261123-0a1b2c3d
    """
    manifest = manifest_of(version)
    if as_json:
        print_json(manifest)
    else:
        show_record(manifest)


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
        show_record(served.manifest)


@model.command("score")
@click.argument("text")
@click.option("--model", "version", help="Another version than the active one.", shell_complete=complete_version)
@click.option("--explain", is_flag=True, help="Show what each term adds.")
@as_json
def score(text: str, version: str | None, explain: bool, as_json: bool) -> None:
    """Score a text here and now; nothing is stored.

    Example: flask model score "The room was small but lovely." --explain
    """
    text = load(AnalyzeSchema(), {"text": text}, "body")["text"]
    scorer = scorer_of(version)
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
    if "explanation" in told:
        click.echo(f"  {told['explanation']['bias']:+6.2f}  (whatever the text)")
        for one in told["explanation"]["contributions"]:
            click.echo(f"  {one['contribution']:+6.2f}  {one['surface']}")


@model.command("release")
@click.argument("version", shell_complete=complete_version)
def release(version: str) -> None:
    """Put a trained model into the registry, from where every host can load it.

    Example: flask model release 20261123-0a1b2c3d
    """
    releases.release(trained(version), by=getpass.getuser())
    click.echo(f"{version} is released; have it served with: flask model activate {version}")


@model.command("sign")
@click.option("--old-key-stdin", is_flag=True, required=True, help="Read the key of before from standard input.")
def sign(old_key_stdin: bool) -> None:
    """Sign all released models with MODEL_SIGNING_KEY, once it has replaced the key that they were signed with.

    Nothing is changed if one was signed with neither.

    Example: flask model sign --old-key-stdin < model_signing_key.before
    """
    for version in releases.sign_anew(sys.stdin.readline().rstrip("\n"), by=getpass.getuser()):
        click.echo(f"{version} is signed anew")


@model.command("activate")
@click.argument("version", shell_complete=complete_version)
@click.option("--allow-worse", is_flag=True, help="Also if it measured worse than the active model.")
def activate(version: str, allow_worse: bool) -> None:
    """Have every process serve a released model, if it passes the gate. No restart is needed.

    The gate: our signature, the right digest, the golden texts' scores, and a macro recall that is no more than 0.02
    below the active model's on the held-out texts that both were measured on.

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
@click.argument("version", shell_complete=complete_version)
@click.option("--undo", is_flag=True, help="Make it a candidate again.")
def retire(version: str, undo: bool) -> None:
    """Withdraw a released model: it can neither be activated nor named by requests.

    Example: flask model retire 20261123-0a1b2c3d
    """
    (releases.reinstate if undo else releases.retire)(version, by=getpass.getuser())
    click.echo(f"{version} is {'a candidate again' if undo else 'retired'}")


@model.command("verify")
@click.argument("versions", metavar="[VERSION]...", nargs=-1, shell_complete=complete_version)
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
@click.argument("version", required=False, shell_complete=complete_version)
@as_json
def log(version: str | None, as_json: bool) -> None:
    """Show who released, activated or retired which model, and what was refused, the newest first.

    Example: flask model log
    """
    events = releases.events(releases.get(version).version if version else None)
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
@click.argument("version", shell_complete=complete_version)
def card(version: str) -> None:
    """Print a model's card as Markdown.

    Example: flask model card 20261123-0a1b2c3d > card.md
    """
    click.echo(cards.markdown(manifest_of(version)))


def manifest_of(version: str) -> Manifest:
    for manifest in artifact.kept(settings().model_dir):
        if manifest["version"] == version:
            return manifest
    return releases.manifest_of(version)


def trained(version: str) -> artifact.Artifact:
    if Path(version).name != version:  # a folder of somebody else's might hold anything
        raise ModelError(f"{version!r} is no version of a model")
    return artifact.read(settings().model_dir / version)


def scorer_of(version: str | None) -> TextScorer:
    if version is None:
        return serving().current().scorer
    try:
        local = trained(version)
    except ModelError:
        local = None
    if local is None:
        return serving().pinned(version).scorer
    key = settings().model_signing_key
    return artifact.open_artifact(local._replace(signature=artifact.sign(local.manifest, key)), key)[1]


def show_record(manifest: Manifest) -> None:
    click.echo(f"{manifest['version']}: recipe {manifest['recipe']}, trained in {manifest['duration_seconds']} s")
    if not manifest["metrics"]:
        click.echo("It was not measured: no text was held out.")
        return
    table = Table("held-out texts", "number", "accuracy", "macro recall", "calibration error", title="")
    measures = manifest["metrics"]
    for name, one in {"all": measures["all"], **measures["by_source"]}.items():
        shares = (f"{one[measure]:.3f}" for measure in ("accuracy", "macro_recall", "calibration_error"))
        table.add_row(name, f"{one['texts']:,}", *shares)
    out.print(table)
    if measures["all"]["judged_on"] != THREE_CLASSES:
        click.echo(f"Judged on {measures['all']['judged_on']}.")
    if measures["all"]["texts"] < FEW_TEXTS:
        click.echo("So few texts say little of how good it is.")
    if against := measures.get("against"):
        click.echo(
            f"Beside {against['version']}, on {against['texts']:,} texts that neither learned from: macro recall "
            f"{against['macro_recall']:.3f}, where that one has {against['its_macro_recall']:.3f}."
        )
