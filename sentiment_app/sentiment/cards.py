"""Model cards (Mitchell et al., 2019, "Model Cards for Model Reporting"), made from a model's manifest."""

import functools

from flask import Response
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt
from markupsafe import Markup
from werkzeug.datastructures import MIMEAccept

from sentiment_app.ml.artifact import Manifest

MARKDOWN, HTML = "text/markdown", "text/html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def markdown(manifest: Manifest) -> str:
    """The card as Markdown."""
    return _templates().get_template("card.md").render(model=manifest)


def page(manifest: Manifest) -> Response:
    """The card as a page."""
    # What stands in a manifest is text, and HTML in it stays text.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown(manifest))
    whole = _templates().get_template("card.html").render(version=manifest["version"], body=Markup(body))  # noqa: S704  # as above
    answer = Response(whole, mimetype=HTML)
    answer.headers["Content-Security-Policy"] = POLICY
    return answer


def answer(manifest: Manifest, accepted: MIMEAccept) -> Response:
    """The card in the form that a caller prefers; Markdown if it is all the same."""
    if accepted.best_match([MARKDOWN, HTML]) == HTML:
        return page(manifest)
    return Response(markdown(manifest), mimetype=MARKDOWN)


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("sentiment_app"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
