"""Reasons to doubt the scores of a text."""

from typing import Any

from sentiment_app.ml.language import NAMES

# Texts in other languages, random letters and bare numbers have a lower coverage. See the model card.
MIN_COVERAGE = 0.5
LOW_COVERAGE, OTHER_LANGUAGE = "low-coverage", "other-language"
UNKNOWN_WORDS = {
    "code": LOW_COVERAGE,
    "detail": "Fewer than half of the terms in this text are common in English. Its scores are not reliable.",
}


def find(coverage: float | None, language: str | None) -> list[dict[str, Any]]:
    """The warnings of a scored text, each with a code and a detail.

    Args:
        coverage: the share of its terms that the model knows.
        language: the code of its language, if this is not the language of the model.
    """
    found: list[dict[str, Any]] = []
    if language:
        found.append({"code": OTHER_LANGUAGE, "detail": describe(language), "language": language})
    if coverage is not None and coverage < MIN_COVERAGE:
        found.append(UNKNOWN_WORDS)
    return found


def describe(language: str) -> str:
    """What is wrong with a text in this language."""
    return f"The text seems to be in {NAMES[language]}. The model was trained on another language."
