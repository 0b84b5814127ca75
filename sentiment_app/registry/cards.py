"""Model cards (Mitchell et al., 2019, "Model Cards for Model Reporting"), generated from the manifest of a model."""

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
    """The card as an HTML page."""
    # Values of the manifest are text. HTML in them is escaped.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown(manifest))
    html = _templates().get_template("card.html").render(version=manifest["version"], body=Markup(body))  # noqa: S704  # as above
    response = Response(html, mimetype=HTML)
    response.headers["Content-Security-Policy"] = POLICY
    return response


def to_response(manifest: Manifest, accepted: MIMEAccept) -> Response:
    """The card in the format that the caller prefers. The default is Markdown."""
    if accepted.best_match([MARKDOWN, HTML]) == HTML:
        return page(manifest)
    return Response(markdown(manifest), mimetype=MARKDOWN)


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("sentiment_app.registry"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
