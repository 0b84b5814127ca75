"""`sentiment model explain`: how a model reads and scores a text."""

import sys
from typing import Any

import click
from rich.table import Table

from sentiment_app.cli import as_json, command, print_json
from sentiment_app.ml.runtime import ScoringError, TextScorer, find_assessment
from sentiment_app.ml.text import BREAK, NEGATED, read
from sentiment_app.registry.cli import TextSchema, complete_usable, manifest_of, out, scorer_of
from sentiment_app.registry.serving import Served, serving
from sentiment_app.sentiment import warnings
from sentiment_app.sentiment.service import UnscorableTextError, find_other_language
from sentiment_app.web.schemas import load

STANDARD_INPUT = "-"
TERM, REVERSED, CLAUSE_END, IGNORED = "term", "reversed", "end of a clause", "ignored"


@command("explain")
@click.argument("text")
@click.option(
    "--model", "version", help="The version of the model. Default: the active model.", shell_complete=complete_usable
)
@as_json
def explain(text: str, version: str | None, as_json: bool) -> None:
    """Show how a text is read, and what each of its terms contributes to the score. Nothing is stored.

    With - as the text, it is read from standard input. Contributions add up to the log-odds of positive against
    negative. A negation adds not_ to the terms that it reverses.

    Example: sentiment model explain "The room wasn't clean :( 2/10"
    """
    given = _read_standard_input() if text == STANDARD_INPUT else text
    explained = _explain(load(TextSchema(), {"text": given}, "body")["text"], _find_model(version))
    if as_json:
        print_json(explained)
    else:
        _print(explained)


def _read_standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        message = f"Standard input is not valid UTF-8 at byte {error.start}. Convert the text first."
        raise click.ClickException(message) from None


def _find_model(version: str | None) -> Served:
    return Served(version, scorer_of(version), manifest_of(version)) if version else serving().current()


def _explain(text: str, model: Served) -> dict[str, Any]:
    try:
        scores, coverage = find_assessment(model.scorer, text)
    except ScoringError as error:
        raise UnscorableTextError(str(error)) from None
    return {
        "model_version": model.version,
        "sentiment": scores.label,
        "confidence": max(scores),
        "scores": scores._asdict(),
        "coverage": coverage,
        "warnings": warnings.find(coverage, find_other_language(model, text, coverage)),
        "explanation": _explain_terms(text, model.scorer),
    }


def _explain_terms(text: str, scorer: TextScorer) -> dict[str, Any] | None:
    """Each part of the text as the model reads it; None if the model reads texts in its own way."""
    explanation = scorer.explain(text)
    if explanation is None:
        return None
    contributions = (part.contribution for part in explanation.contributions)  # of the parts that are terms, in order
    parts = [
        {
            "text": text[start:end],
            "start": start,
            "end": end,
            "read_as": _describe(term),
            "term": term or None,
            "contribution": next(contributions) if term else None,
        }
        for term, start, end in read(text)
    ]
    return {"bias": explanation.bias, "parts": parts}


def _describe(term: str | None) -> str:
    if not term:
        return CLAUSE_END if term == BREAK else IGNORED
    return REVERSED if term.startswith(NEGATED) else TERM


def _print(explained: dict[str, Any]) -> None:
    click.echo(f"{explained['sentiment']} ({explained['confidence']:.1%}), by {explained['model_version']}")
    for name, value in explained["scores"].items():
        click.echo(f"  {name:9}{value:7.1%}")
    if explained["coverage"] is not None:
        click.echo(f"Coverage: {explained['coverage']:.0%} of the terms are common in English.")
    for warning in explained["warnings"]:
        click.echo(f"Warning: {warning['detail']}")
    if explained["explanation"] is None:
        click.echo("This model is not a sum of terms, so its scores have no explanation.")
        return
    table = Table("text", "read as", "contribution")
    table.columns[2].justify = "right"
    table.add_row("(bias)", "", f"{explained['explanation']['bias']:+.2f}")
    for part in explained["explanation"]["parts"]:
        is_counted = part["contribution"] is not None
        shown = f"{part['contribution']:+.2f}" if is_counted else ""
        table.add_row(_printable(part["text"]), part["term"] or f"({part['read_as']})", shown)
    out.print(table)


def _printable(text: str) -> str:
    """The text with escape sequences for line ends and other characters that would change the terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
