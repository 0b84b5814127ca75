"""Find the words whose meaning a text reverses: "not good", "I thought it would be good, but it was not".

A reversed word becomes another term, `not_good`, which has its own weight. So each part of a score still belongs to a
word of the text. A text without any of the words in TRIGGERS skips the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sentiment_app.ml.negation import AHEAD, BREAK, DENYING, PAUSE, SCOPE, Clauses, Terms, deny
from sentiment_app.ml.wordlists import HOPES, LIGHT, NEGATORS, QUALIFIERS, RESOLVED, SAYING, TROUBLES

_CONTRASTS: Final = frozenset({"but", "however", "yet", "alas"})
_ACCUSTOMED: Final = frozenset({"am", "is", "are", "get", "got", "getting", "be", "been", "i'm"})
_OTHERS: Final = frozenset("people others everyone everybody critics reviewers friends heard".split())
_NO_COMPARATIVES: Final = frozenset({"rather", "other", "ever", "never", "later", "over", "another", "whether"})
_EMPTY: Final = LIGHT | QUALIFIERS
_TAKING: Final = frozenset({"take", "takes", "taken", "took"})
_PROMISING: Final = frozenset({"will", "would", "i'll", "we'll", "i'd", "definitely", "can't", "gladly", "thanks"})
_EXCLAMATION_TERMS: Final = 4
_NEAR: Final = frozenset({"this", "these", "yours", "here"})


Rule = Callable[[Clauses, int], None]


def reverse(normal: Terms, surfaces: Sequence[str]) -> Terms:
    """The terms, with a prefix on each term that the text reverses."""
    text = Clauses(normal, surfaces)
    for index, term in enumerate(normal):
        if term in TRIGGERS:
            for rule in TRIGGERS[term]:
                rule(text, index)
    return text.marked()


def _reverse_words(text: Clauses, indexes: range, is_end: Callable[[int], bool], left: int) -> None:
    """Reverse up to `left` words, in the order of the indexes and before the end."""
    for index in indexes:
        if is_end(index) or not left:
            return
        if text.is_content(index):
            text.reversed.add(index)
            left -= 1


def _reverse_after(text: Clauses, start: int) -> None:
    """Reverse some words from an index on, in the same clause."""
    _reverse_words(text, text.window(start), text.ends_clause, SCOPE)


def _reverse_before(text: Clauses, end: int, left: int = SCOPE) -> None:
    """Reverse up to `left` words before an index, in the same sentence."""
    _reverse_words(text, text.window_before(end), text.ends_sentence, left)


def _clause_before(text: Clauses, end: int) -> set[str | None]:
    """The terms before an index in the same clause."""
    found = set()
    for index in text.window_before(end):
        if text.ends_clause(index):
            break
        found.add(text.terms[index])
    return found


def _reverse_past(text: Clauses, index: int) -> None:
    """Reverse what is no longer so: "used to be good"."""
    if text.terms[index + 1 : index + 2] == ["to"] and not (index and text.terms[index - 1] in _ACCUSTOMED):
        _reverse_after(text, index + 2)


def _reverse_hope(text: Clauses, index: int) -> None:
    """Reverse what was only expected: "I hoped that it would be good"."""
    if start := _expected_part(text, index + 1):
        _reverse_after(text, start)


def _expected_part(text: Clauses, start: int) -> int:
    """Where "would" or "to be" ends, a few terms after "expected"; 0 if it does not occur."""
    terms = text.terms
    for index in range(start, min(start + SCOPE + AHEAD, len(terms))):
        if text.ends_clause(index):
            return 0
        if terms[index] == "would" or (terms[index] == "to" and terms[index + 1 : index + 2] == ["be"]):
            return index + 1
    return 0


def _contradict(text: Clauses, index: int) -> None:
    """Reverse what an empty clause denies: "good, but it was not", and "Is it good? No."."""
    following = text.terms[index + 1 : index + 2]
    if following and following[0] and following[0] not in _EMPTY:
        return  # the usual case, without the cost of the calls below
    if _is_empty_until_end(text, index + 1):
        start = _start_of_denial(text, index)
        if start is not None and (text.terms[start] not in _CONTRASTS or text.terms[index] in NEGATORS):
            _reverse_before(text, start)


def _start_of_denial(text: Clauses, negator: int) -> int | None:
    """The index of the "but" of "but it really was not", or of the "?" before "No"; None if something else is there."""
    for index in range(negator - 1, max(negator - 2 * AHEAD, -1), -1):
        term = text.terms[index]
        if term in _CONTRASTS or (term and term[0] == "?" and not any(text.terms[index + 1 : negator])):
            return index
        if term and term not in _EMPTY:
            return None
    return None


def _is_empty_until_end(text: Clauses, start: int) -> bool:
    for index in text.window(start):
        if text.ends_clause(index):
            return True
        term = text.terms[index]
        if term and term not in _EMPTY:
            return False
    return True


def _reverse_quoted(text: Clauses, index: int) -> None:
    """Reverse the opinion of other people that the writer contradicts: "critics call it bad, but I like it"."""
    for place in text.window(index):
        term = text.terms[place]
        if term == "but" or (term == BREAK and text.surfaces[place] == PAUSE):
            if _is_own_opinion(text, place) and not SAYING.isdisjoint(text.terms[index:place]):
                _reverse_before(text, place, 2)
                return
        elif text.ends_sentence(place):
            return


def _is_own_opinion(text: Clauses, index: int) -> bool:
    """Whether the writer's opinion follows: "but I", or ", I think"."""
    following = text.terms[index + 1 : index + 3]
    if text.terms[index] == "but":
        return not {"i", "personally"}.isdisjoint(following)
    return following[:1] == ["i"] and following[1:2] != [] and following[1] in SAYING


def _resolve(text: Clauses, index: int) -> None:
    """Reverse the trouble that is over: "they fixed my problem", but not "they never fixed my problem"."""
    if text.terms[index] == "care" and not (index and text.terms[index - 1] in _TAKING):
        return
    change = text.reversed.discard if index in text.reversed else text.reversed.add
    for window in (text.window_before(index), text.window(index + 1)):
        for place in window:
            if text.ends_sentence(place):
                break
            if text.terms[place] in TROUBLES:
                change(place)


def _mock(text: Clauses, index: int) -> None:
    """Reverse the exclamation at the start of "Great, another update" and "Oh wow, it is late again"."""
    opening = next((place for place in range(min(index, _EXCLAMATION_TERMS)) if text.ends_clause(place)), 0)
    if opening and _PROMISING.isdisjoint(text.terms[opening:index]):
        text.reversed.update(place for place in range(opening) if text.is_content(place))


def _compare(text: Clauses, index: int) -> None:
    """Reverse the comparative of "my old phone was better than this", and the adjective of "less useful than"."""
    for place in range(index - 1, max(index - 1 - SCOPE, -1), -1):
        if _is_comparative(text.terms[place]):
            _reverse_comparative(text, place, index)
            return


def _reverse_comparative(text: Clauses, start: int, end: int) -> None:
    is_subject, is_less = _is_subject(text, end), text.terms[start] == "less"
    if is_less and is_subject:
        text.reversed.add(start)
    if is_subject != is_less:
        words = range(start, end)
        text.reversed ^= {i for i in words if text.is_content(i) and text.terms[i] not in {"more", "less"}}


def _is_subject(text: Clauses, than: int) -> bool:
    """Whether the text is about what stands after "than", rather than about what stands before it."""
    following = text.terms[than + 1 : than + 3]
    if following[:1] and (following[0] in _NEAR or following == ["the", "new"]):
        return _clause_before(text, than).isdisjoint({"this", "these", "new"})
    return False


def _is_comparative(term: str | None) -> bool:
    if term in {"more", "less", "worse"}:
        return True
    return term is not None and term.endswith("er") and term not in _NO_COMPARATIVES


_RULES: Final[tuple[tuple[frozenset[str], Rule], ...]] = (
    (DENYING, deny),
    (NEGATORS | {"nope", "nah"}, _contradict),
    (frozenset({"used"}), _reverse_past),
    (HOPES, _reverse_hope),
    (_OTHERS, _reverse_quoted),
    (RESOLVED | {"care"}, _resolve),
    (frozenset({"another", "again"}), _mock),
    (frozenset({"than"}), _compare),
)
TRIGGERS: Final[dict[str | None, list[Rule]]] = {
    word: [rule for words, rule in _RULES if word in words]
    for word in frozenset().union(*(words for words, _ in _RULES))
}
"""The rules that each word needs."""
