"""Find texts that are in another language than the texts that a model was trained on."""

import functools
from typing import Any, Final

try:
    import eldc
except ImportError:  # it has no wheel for this processor: then no language is found
    eldc = None

NAMES: Final = {
    "ar": "Arabic", "bg": "Bulgarian", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian",
    "hu": "Hungarian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "ms": "Malay", "nl": "Dutch",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""The languages that are found, by their ISO 639-1 codes."""
OWN_SCRIPTS: Final = frozenset(["ar", "bg", "el", "he", "hi", "ja", "ko", "ru", "th", "uk", "zh"])
MIN_WORDS: Final = 4
"""A shorter text in Latin letters may be an exclamation, a name or a title."""
MIN_MARGIN: Final = 0.3
"""How much more probable the language must be than the model's. Texts that mix both are below."""
KNOWN_COVERAGE: Final = 0.8
"""An ASCII text of which the model knows so many words is not asked about, which takes most of the time."""


def find_other(text: str, coverage: float | None, expected: str | None) -> str | None:
    """The code of the language of a text; None if it is the expected language, or if nobody can be sure.

    Args:
        text: only its first 1,000 bytes are considered.
        coverage: the share of its words that the model knows, if it is known.
        expected: the code of the language that the model was trained on. Without it, nothing is found.
    """
    if expected is None or eldc is None or (coverage and coverage >= KNOWN_COVERAGE and text.isascii()):
        return None
    detector = _detector()
    try:
        if detector.detect(text) == expected:  # faster than with scores
            return None
        found = detector.detect_details(text)
    except UnicodeEncodeError:  # a lone surrogate
        return None
    language: str = found.language
    if language not in NAMES or not found.reliable:
        return None
    if found.scores[language] - found.scores.get(expected, 0.0) < MIN_MARGIN:
        return None
    return language if language in OWN_SCRIPTS or _has_words(text) else None


def find_most_frequent(texts: list[str]) -> str | None:
    """The language that most texts are in; None if it is not found for any of them."""
    if eldc is None:
        return None
    whole = [text.encode(errors="replace").decode() for text in texts if _has_words(text)]
    found = [_detector().detect(text) for text in whole]
    known = [language for language in found if language in NAMES]
    return max(set(known), key=known.count) if known else None


def _has_words(text: str) -> bool:
    return len(text.split(None, MIN_WORDS - 1)) == MIN_WORDS


@functools.cache
def _detector() -> Any:
    eldc.init()
    detector = eldc.instance()
    detector.set_languages(sorted(NAMES))
    detector.set_scores(3)
    return detector
