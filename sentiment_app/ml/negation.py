"""Find the words that a negation reverses: "not good", "I can't say that anything here was good".

The rules are local and need no parser. Each rule looks at a limited number of tokens, so all texts take linear time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sentiment_app.ml.wordlists import EXPERIENCED, LIGHT, NEGATORS, OPINIONS, QUALIFIERS

Terms = list[str | None]

NEGATED: Final = "not_"
EMPHASIS: Final = "<emphasis>"
# Two "no term" values: a clause break ends the scope of a negation, a skipped token does not.
BREAK: Final = ""
SKIP: Final = None
PAUSE: Final = ","

SCOPE: Final = 3
"""The number of words that a rule reverses."""
WIDE_SCOPE: Final = 10
AHEAD: Final = 5
REACH: Final = 24
"""The number of tokens that a rule looks at in each direction."""

FAILING: Final = frozenset({"fail", "fails", "failed"})
DENYING: Final = NEGATORS | FAILING | {"anything", "far", "less"}
_NOBODY: Final = frozenset({"nobody", "none"})
_JOINING: Final = frozenset({"and", "or", "nor", "because", "so", "since"})
_EMPHASISING: Final = frozenset({"never", "nothing", "not"})
_ENDING: Final = frozenset({BREAK, "but"})
_SPECIAL: Final = DENYING | _JOINING | _ENDING


class Clauses:
    """The terms of a text, and the indexes of those that are reversed."""

    def __init__(self, normal: Terms, surfaces: Sequence[str]) -> None:
        self.terms = normal.copy()
        self.surfaces = surfaces
        self.reversed: set[int] = set()
        self.resume = 0
        """The index from which on negations apply: an earlier negation covers those before it."""

    def marked(self) -> Terms:
        """The terms, with the prefix on those that are reversed."""
        for index in self.reversed:
            self.terms[index] = f"{NEGATED}{self.terms[index]}"
        return self.terms

    def window(self, start: int) -> range:
        """The indexes from `start` on that a rule looks at."""
        return range(start, min(start + REACH, len(self.terms)))

    def window_before(self, end: int) -> range:
        """The indexes before `end` that a rule looks at, the last first."""
        return range(end - 1, max(end - 1 - REACH, -1), -1)

    def ends_clause(self, index: int) -> bool:
        """Whether a clause ends with this token."""
        term = self.terms[index]
        return term is not None and (term in _ENDING or term[0] in "!?")

    def ends_sentence(self, index: int) -> bool:
        """Whether a sentence ends with this token."""
        term = self.terms[index]
        return self.surfaces[index] != PAUSE if term == BREAK else term is not None and term[0] in "!?"

    def is_content(self, index: int) -> bool:
        """Whether this is a word that a rule can reverse."""
        term = self.terms[index]
        return bool(term) and term not in LIGHT and term not in NEGATORS and term[0].isalnum()  # type: ignore[index]  # an empty term ends here


def deny(text: Clauses, index: int) -> None:
    """Reverse the words in the scope of a negation; "!", "but" and clause breaks end it.

    Light words ("the", "is", "very") are not reversed, and do not use up the scope. After "I don't think" the scope is
    wide, and commas do not end it. A second negation in the scope of the first cancels it: "nobody can say it isn't
    good".

    Args:
        text: the text.
        index: the index of a word in DENYING.
    """
    if index >= text.resume:
        term, following = text.terms[index], text.terms[index + 1 : index + 1 + AHEAD]
        negate = _negate if term in NEGATORS else _negate_phrase
        text.resume = negate(text, index, following)


def _negate(text: Clauses, index: int, following: Terms) -> int:
    """Apply a negator; returns the index from which on other negations apply."""
    term = text.terms[index] or ""
    start = index + 1
    if term in _EMPHASISING and _is_emphasis(term, following):
        text.terms[index] = EMPHASIS
        return start
    if _is_wide(term, following):
        return _reverse_scope(text, start, WIDE_SCOPE, is_wide=True)
    if following[:1] == [BREAK]:
        if text.surfaces[start] != PAUSE or not is_verbal(term):
            return start
        start = _end_of_parenthesis(text, start)
    return _reverse_scope(text, start, SCOPE, cancels=term != "no")


def _negate_phrase(text: Clauses, index: int, following: Terms) -> int:
    """Apply "anything but", "far from", "less than" or "fails to"."""
    pair = text.terms[index], following[0] if following else None
    limit = SCOPE if pair == ("anything", "but") else _phrase_scope(*pair)
    return _reverse_scope(text, index + 2, limit) if limit else index + 1


def _phrase_scope(term: str | None, following: str | None) -> int:
    if (term, following) in {("far", "from"), ("less", "than")}:
        return 1
    return 2 if term in FAILING and following == "to" else 0


def _reverse_scope(text: Clauses, start: int, left: int, *, is_wide: bool = False, cancels: bool = True) -> int:
    """Reverse up to `left` words; returns the index from which on other negations apply."""
    terms = text.terms
    for index in text.window(start):
        term = terms[index]
        if term is None or term in LIGHT:
            continue
        if term in _SPECIAL:
            if term in DENYING and (resume := _second_negation(text, index, is_next=index == start, cancels=cancels)):
                return resume
            if term in _ENDING and not (is_wide and text.surfaces[index] == PAUSE):
                return index
            cancels = cancels and term not in _JOINING
        elif term[0].isalnum():
            text.reversed.add(index)
            left -= 1
            if not left:
                return index + 1
        elif term[0] in "!?":
            return index
    return start


def _second_negation(text: Clauses, index: int, *, is_next: bool, cancels: bool) -> int:
    """Where to go on after a negation in the scope of another negation; 0 if this word negates nothing here."""
    term = text.terms[index] or ""
    if term not in NEGATORS:
        # "Never fails to impress": both are negations.
        return index + 2 if _phrase_scope(term, text.terms[index + 1] if index + 1 < len(text.terms) else None) else 0
    if cancels and is_verbal(term) and (term == "without" or not is_next):
        text.reversed.add(index)
        return index + 1
    return index


def is_verbal(negator: str) -> bool:
    """Whether a negator negates a verb."""
    return negator in {"not", "without"} or negator.endswith("n't")


def _is_wide(negator: str, following: Terms) -> bool:
    """Whether a negation reaches far: "nobody", "no one", "I can't really say that"."""
    if negator in _NOBODY or (negator == "no" and following[:1] == ["one"]):
        return True
    for term in following:
        if term in OPINIONS:
            return True
        if term is not None and term not in QUALIFIERS:
            return False
    return False


def _end_of_parenthesis(text: Clauses, comma: int) -> int:
    """The index after "not, after all these years,"; that of the first comma if there is no second comma."""
    for index in text.window(comma + 1):
        if text.ends_clause(index):
            return index + 1 if text.surfaces[index] == PAUSE else comma
    return comma


def _is_emphasis(negator: str, following: Terms) -> bool:
    """Whether a negator emphasises what follows: "never seen such a", "nothing short of", "not only"."""
    if negator == "nothing":
        return following[:2] == ["short", "of"]
    if negator == "not":
        return following[:1] == ["only"]
    if negator != "never" or not following or following[0] not in EXPERIENCED:
        return False
    clause = following[: following.index(BREAK)] if BREAK in following else following
    return "so" in clause or "such" in clause
