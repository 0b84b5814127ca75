"""Divides raw text into normalised terms, optionally with their spans in the original text.

`terms` (for scoring) and `tokenize` (for explanations) share a regular expression and a cache of normal forms, so they
always agree. The expression takes linear time, because every unbounded quantifier is possessive.
"""

from __future__ import annotations

import html
import re
import unicodedata
from itertools import islice
from typing import Final, NamedTuple

from sentiment_app.ml.clauses import TRIGGERS, reverse
from sentiment_app.ml.negation import BREAK, NEGATED, SKIP
from sentiment_app.ml.wordlists import DOUBLE_LETTERS, GIVEN_NAMES, IDENTITY, SPELLINGS

__all__ = ["BREAK", "NEGATED", "TextError", "Token", "bigrams", "normalize", "read", "terms", "tokenize"]


class Token(NamedTuple):
    """A term, and its half-open span in the original text."""

    term: str
    start: int
    end: int


class Reading(NamedTuple):
    """How a part of a text is read: as a term, as the end of a clause (BREAK), or as no term (SKIP)."""

    term: str | None
    start: int
    end: int


MAX_CHARACTERS: Final = 20_000
"""The limit on a text, in normalisation form C."""
MAX_COMPOSED: Final = 4
"""The largest number of characters that normalisation form C composes into a single character."""
MAX_MARKS: Final = 30

_MAX_TERM: Final = 32
_DEFAULT_STARS: Final = 5
_MEMO_SIZE: Final = 50_000

# Most tokens match the first alternative: words whose first letter begins nothing else.
_SCANNER: Final = re.compile(
    r"""
      [A-GI-NP-VYZa-gi-np-vyz][^\W_]*+(?:['’][^\W_]++)*+      # word, contraction
    | [Hh][Tt][Tt][Pp][Ss]?+://\S++ | [Ww][Ww][Ww]\.\S++      # link
    | [xX]D++\b                                               # laughing
    | [Oo]n\ [0-9]++(?:[./][0-9]++)++                         # on 1/5, a date
    | [0-9]++(?:
        (?:[.,][0-9]++)?+\ ?[★⭐🌟]\uFE0F?(?!\ ?[★☆⭐🌟])       # 4.5★
      | (?:[.,][0-9]++)?+\ out\ of\ [0-9]++                   # 4.5 out of 5
      | \ /\ [0-9]++                                          # 10 / 10
      | (?:[./,:][0-9]++)++                                   # 7/10, 3.5, 12:30
      )
    | [^\W_]++(?:['’][^\W_]++)*+                              # other word or number
    | @\w++                                                   # user
    | </?3                                                    # heart, broken heart
    | </?[A-Za-z][^<>]{0,64}>                                 # markup
    | [:;=](?:                                                # emoticon
        ['’]?+[-o^]?+(?:[)\]] | [(\[](?!\w))                  # nice:) but not us:(555)
      | -[DPp](?!\w)                                          # lol:-D
      | (?<!\w[:;=])['’]?+[-o^]?+[DPp/\\|}{@3*](?![\w/\\])   # not Name:Peter, Total:3 and C:\Users
      )
    | (?<!\S)[)(\]\[][-o^]?+['’]?+[:;=](?![)(\]\[DPp/\\|}{@3*])  # emoticon, mirrored: not (rear):
    | [!?]++                                                  # emphasis
    | [★☆⭐🌟]\uFE0F?(?:\ ?[★☆⭐🌟]\uFE0F?)*+                  # rating
    | [.,;:()\n…—]                                            # clause break
    | [←-⟿⤀-⯿〰〽\U0001f000-\U0001f3fa\U0001f400-\U0001faff]  # symbol, emoji
    """,
    re.VERBOSE,
)
_ENTITY: Final = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,31}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});")
# An HTML entity; an apostrophe in UTF-8 that was decoded as cp1252; another character that people type as an
# apostrophe; or a character that nobody sees.
_ENCODED: Final = re.compile(_ENTITY.pattern + r"|â€™|(?<=[^\W_])[‘´`ʼ＇′\x92](?=[^\W_])|[\u00ad\u200b\u2060\ufeff]")
_MAY_BE_ENCODED: Final = re.compile(r"[&â‘´`ʼ＇′\x92\u00ad\u200b\u2060\ufeff]")  # ten times faster to search for
_INVISIBLE: Final = "\u00ad\u200b\u2060\ufeff"
_STARS: Final = "★⭐🌟"
_ELONGATED: Final = re.compile(r"(\w)\1{2,}+")
_MOUTHS: Final = dict.fromkeys(")]DPp}3*", "<smile>") | dict.fromkeys(r"([/\|{@", "<frown>")
_MIRRORED: Final = {"(": "<smile>", "[": "<smile>", ")": "<frown>", "]": "<frown>"}


def _emoticon(surface: str) -> str | None:
    if surface in ("<3", "</3"):
        return "<heart>" if surface == "<3" else "<heartbreak>"
    if surface[0] in ":;=" and len(surface) > 1:
        return _MOUTHS[surface[-1]]
    if surface[0] in "()[]" and len(surface) > 1:
        return _MIRRORED[surface[0]]
    return None


def _word(surface: str) -> str | None:
    """Normal form of a word or number. Identity terms are removed, so that they do not change a score."""
    if surface in GIVEN_NAMES:
        return SKIP
    folded = unicodedata.normalize("NFKC", surface[: 4 * _MAX_TERM]).lower().replace("’", "'")
    if folded[:1].isdigit():
        short_or_rating = len(folded) <= 2 or "/" in folded
        return folded[:_MAX_TERM] if short_or_rating and folded.isascii() else "<number>"
    if _ELONGATED.search(folded):
        doubled = _ELONGATED.sub(r"\1\1", folded)
        folded = doubled if doubled in DOUBLE_LETTERS else _ELONGATED.sub(r"\1", folded)
    folded = folded.removesuffix("'s")
    if folded in IDENTITY:
        return SKIP
    # Some compatibility forms expand to several words. A term never contains white space.
    return "".join(SPELLINGS.get(folded, folded).split())[:_MAX_TERM] or SKIP


def _symbol(surface: str) -> str | None:
    first = surface[0]
    if first == "@":
        return "<user>"
    if first in "!?":
        run = "!" if "?" not in surface else "?" if "!" not in surface else "?!"
        return run * 2 if len(surface) > 2 and len(run) == 1 else run
    if surface in ".,;:()\n…—":
        return BREAK
    if first in "☆" + _STARS:
        stars = surface.replace(" ", "").replace("\ufe0f", "")
        filled = sum(map(stars.count, _STARS))
        # A single star may be a bullet.
        return _rating(filled, len(stars) if "☆" in stars else _DEFAULT_STARS) if len(stars) > 1 else SKIP
    if first == "<":
        return SKIP
    # Signs that only modify the gender of the emoji before them.
    return SKIP if surface in "♀♂" else surface


def _written_rating(surface: str) -> str | None:
    """The term of "on 1/5" (a date), "10 / 10", "4.5★" and "4.5 out of 5"."""
    if surface[0] in "oO":
        return "<number>"
    if "/" in surface:
        return _word(surface.replace(" ", ""))
    value, _, limit = surface.rstrip(f"{_STARS}\ufe0f ").replace(",", ".").partition(" out of ")
    stars, most = float(value), float(limit or _DEFAULT_STARS)
    return _rating(stars, most) if stars <= most and most >= _DEFAULT_STARS else "<number>"


def _rating(stars: float, limit: float) -> str:
    """A number of stars as a term."""
    share = stars / limit
    return "<rated-high>" if share >= 0.75 else "<rated-low>" if share <= 0.4 else "<rated-medium>"


def _normalise(surface: str) -> str | None:
    if surface[0].isalnum():
        lowered = surface[:8].lower()
        if lowered.startswith(("http://", "https://", "www.")):
            return "<url>"
        if " " in surface or surface[-1] in f"{_STARS}\ufe0f":
            return _written_rating(surface)
        return "<smile>" if lowered[0] == "x" and surface[1:] and not surface[1:].strip("D") else _word(surface)
    return _emoticon(surface) or _symbol(surface)


class _Memo(dict[str, str | None]):
    """Normal forms by surface. The cache is cleared when it is full, so that hostile texts cannot fill the memory."""

    def __missing__(self, surface: str) -> str | None:
        term = _normalise(surface)
        if len(surface) <= _MAX_TERM:
            if len(self) >= _MEMO_SIZE:
                self.clear()
            self[surface] = term
        return term


_memo: Final = _Memo()


_TRIGGERS: Final = frozenset(TRIGGERS)


def _normal_forms(surfaces: list[str]) -> list[str | None]:
    normal = list(map(_memo.__getitem__, surfaces))
    return normal if _TRIGGERS.isdisjoint(normal) else reverse(normal, surfaces)


def _decode(text: str) -> str:
    if text.isascii() and "`" not in text:
        return _ENTITY.sub(_decoded, text) if "&" in text else text
    return _ENCODED.sub(_decoded, text) if _MAY_BE_ENCODED.search(text) else text


def _decoded(match: re.Match[str]) -> str:
    if match[0][0] == "&":
        return html.unescape(match[0])
    return "" if match[0] in _INVISIBLE else "'"


class TextError(ValueError):
    """The text is not acceptable. The message continues the words "the text"."""


def normalize(text: str) -> str:
    """A text in Unicode normalisation form C.

    Raises:
        TextError: the text is far too long, or a character has more combining marks than any script needs
            ("stream-safe", UAX #15, section 13). To sort them takes quadratic time.
    """
    if text.isascii():
        return text
    if len(text) > MAX_CHARACTERS * MAX_COMPOSED:
        raise TextError(f"must have at most {MAX_CHARACTERS:,} characters")
    marks = 0
    for combining_class in map(unicodedata.combining, text):
        marks = marks + 1 if combining_class else 0
        if marks > MAX_MARKS:
            raise TextError(f"must not have more than {MAX_MARKS} combining marks on a character")
    return unicodedata.normalize("NFC", text)


def terms(text: str) -> list[str]:
    """The terms of a text, in order."""
    return [term for term in _normal_forms(_SCANNER.findall(_decode(text))) if term]


def read(text: str) -> list[Reading]:
    """How each part of a text is read, with its span in the given text. White space and other signs are not read."""
    matches = list(_SCANNER.finditer(_decode(text)))
    starts, ends = _origins(text)
    normal = _normal_forms([match[0] for match in matches])
    return [Reading(term, *_span(match, starts, ends)) for term, match in zip(normal, matches, strict=True)]


def tokenize(text: str) -> list[Token]:
    """The terms of a text, with their spans in the given text."""
    return [Token(part.term, part.start, part.end) for part in read(text) if part.term]


def _span(match: re.Match[str], starts: list[int], ends: list[int]) -> tuple[int, int]:
    start, end = match.span()
    return (starts[start], ends[end - 1]) if starts else (start, end)


def _origins(text: str) -> tuple[list[int], list[int]]:
    """Where each decoded character starts and ends in the given text; empty if nothing was decoded."""
    if not _ENCODED.search(text):
        return [], []
    starts: list[int] = []
    ends: list[int] = []
    position = 0
    for match in _ENCODED.finditer(text):
        starts.extend(range(position, match.start()))
        ends.extend(range(position + 1, match.start() + 1))
        position = match.end()
        width = len(_decoded(match))
        starts.extend([match.start()] * width)
        ends.extend([position] * width)
    starts.extend(range(position, len(text)))
    ends.extend(range(position + 1, len(text) + 1))
    return starts, ends


def bigrams(words: list[str]) -> list[str]:
    """Each pair of adjacent terms, as a string."""
    return [f"{left} {right}" for left, right in zip(words, islice(words, 1, None), strict=False)]
