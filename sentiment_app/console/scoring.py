"""The page to try a text."""

import json
import shlex
from typing import Any

from flask import Response, url_for
from marshmallow import validate

from sentiment_app.console import highlight
from sentiment_app.console.pages import MAX_TEXT_FORM_BYTES, blueprint, page, render
from sentiment_app.ml.runtime import LABELS
from sentiment_app.registry import releases
from sentiment_app.sentiment import service
from sentiment_app.usage import quota_headers, quotas
from sentiment_app.web import cookies
from sentiment_app.web.guard import caller
from sentiment_app.web.schemas import NormalText, Schema, Text

EXAMPLES = (
    "The room was small, but the staff was lovely and breakfast was great.",
    "I waited three weeks for a parcel that arrived broken. Never again.",
    "The meeting starts at ten and ends at noon.",
)


class TextFormSchema(Schema):
    """A text, and a second model to compare the active model with."""

    text = NormalText(required=True)
    other = Text(load_default=None, validate=validate.Length(1, 64))


@blueprint.get("/", endpoint="score_slash")
@blueprint.get("", endpoint="score")
@page()
def score_form() -> Response:
    """The form to try a text."""
    return _page()


@blueprint.post("")
@page(rates=("scoring",), form=TextFormSchema(), max_form=MAX_TEXT_FORM_BYTES)
def show_score(form: dict[str, Any]) -> Response:
    """Score a text, and show why. The text is not stored."""
    results = [_analyze(form["text"], None)]
    if form["other"]:
        results.append(_analyze(form["text"], form["other"]))
    return _page(text=form["text"], other=form["other"], results=results)


def _analyze(text: str, model: str | None) -> dict[str, Any]:
    analysis = service.analyze(
        caller().user_id, None, text, quotas=quotas.of_request(caller()), explain=True, store=False, model=model
    )
    quota_headers.add(analysis["quotas"])
    explanation = analysis.get("explanation")
    return {
        **analysis,
        "percentages": highlight.percentages(analysis["scores"], LABELS),
        "segments": highlight.segments(text, explanation) if explanation else None,
        "bars": highlight.bars(explanation) if explanation else [],
    }


def _page(**context: Any) -> Response:
    models = [release for release in releases.releases() if release.state in ("candidate", "previous")]
    shown = {"text": "", "other": None, "results": [], **context}
    calls = _calls(shown["text"])
    return render("score.html", models=models, examples=EXAMPLES, **calls, **shown)


def _calls(text: str) -> dict[str, str]:
    """How a program scores this text: a command of the shell, and Python."""
    url, body = cookies.own_origin() + url_for("sentiment.analyze"), json.dumps({"text": text}, ensure_ascii=False)
    curl = (
        f'curl {url} -H "Authorization: Bearer $SENTIMENT_KEY" \\\n'
        f"  -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )
    python = (
        "import os, httpx\n\n"
        f"answer = httpx.post({url!r},\n"
        "    headers={'Authorization': f\"Bearer {os.environ['SENTIMENT_KEY']}\"},\n"
        f"    json={{'text': {text!r}}})\n"
        "print(answer.json()['sentiment'])"
    )
    return {"curl": curl, "python": python}
