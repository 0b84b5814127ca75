"""Behavioural tests of a model: sentences by kind, and what counts as a failure (Ribeiro et al., 2020, "CheckList").

The sentences come from the patterns and word lists in `behaviour.toml`. Training uses other templates, so that these
sentences measure whether a model has learned a construction, rather than a wording. A sentence fails if

* the most probable label is not one of the labels that its group accepts ("not awful" may be positive or neutral), or
* the most probable label differs from that of a reference sentence (the same sentence without an identity term), or
* the probability of a label moves in the wrong direction, by more than TOLERANCE, from that of a reference sentence
  ("very good" must not be much less positive than "good").
"""

from __future__ import annotations

import random
import string
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypedDict

from sentiment_app.ml.runtime import LABELS, Scores, TextScorer

TOLERANCE: Final = 0.1
"""How far a probability may move in the wrong direction from that of the reference sentence."""

SENTENCES_PER_KIND: Final = 80
_ATTEMPTS_PER_SENTENCE: Final = 20
_SOURCE: Final = Path(__file__).with_suffix(".toml")
_DIRECTIONS: Final = {"at_least": -1, "at_most": 1}


class Check(NamedTuple):
    """A sentence, and what is expected of its scores.

    Args:
        kind: the kind of sentence, such as "not awful".
        text: the sentence.
        accepted: the labels of which one must be the most probable; empty if the sentence has a reference.
        reference: the sentence to compare with.
        label: the label whose probability is compared; None if the most probable labels are compared.
        direction: -1 if the probability must not fall, 1 if it must not rise.
    """

    kind: str
    text: str
    accepted: tuple[str, ...] = ()
    reference: str | None = None
    label: str | None = None
    direction: int = 0

    def fails(self, scores: Scores, reference: Scores | None) -> bool:
        """Whether these scores of the sentence, and of its reference, are a failure."""
        if reference is None:
            return scores.label not in self.accepted
        if self.label is None:
            return scores.label != reference.label
        change = scores[LABELS.index(self.label)] - reference[LABELS.index(self.label)]
        return change * self.direction > TOLERANCE


class Failure(NamedTuple):
    """A sentence that a model scored wrongly."""

    kind: str
    text: str
    scores: Scores


class KindResult(NamedTuple):
    """How many sentences of a kind a model scored wrongly."""

    kind: str
    sentences: int
    failures: int

    @property
    def failure_rate(self) -> float:
        """The share of the sentences that the model scored wrongly."""
        return self.failures / self.sentences


class Group(TypedDict, total=False):
    """Patterns with the same expectation, as `behaviour.toml` describes them."""

    patterns: list[str]
    accept: list[str]
    same_as: str
    at_least: str
    at_most: str
    reference: str


class Kind(TypedDict):
    """A kind of sentence: a name and groups of patterns."""

    name: str
    groups: list[Group]


class Suite(TypedDict):
    """The content of `behaviour.toml`."""

    slots: dict[str, list[str]]
    kinds: list[Kind]


@cache
def checks() -> tuple[Check, ...]:
    """All sentences of the suite with their expectations: the same at every call, without duplicates in a kind."""
    suite = _read()
    return tuple(check for kind in suite["kinds"] for check in _of_kind(kind, suite["slots"]))


def evaluate(scorer: TextScorer) -> list[KindResult]:
    """How many sentences of each kind a model scores wrongly, in the order of the suite."""
    failed = [failure.kind for failure in find_failures(scorer)]
    kinds = [check.kind for check in checks()]
    return [KindResult(kind, kinds.count(kind), failed.count(kind)) for kind in dict.fromkeys(kinds)]


def find_failures(scorer: TextScorer) -> list[Failure]:
    """The sentences that a model scores wrongly."""
    texts = list(dict.fromkeys(text for check in checks() for text in (check.text, check.reference) if text))
    scores = dict(zip(texts, scorer.score_many(texts), strict=True))
    return [
        Failure(check.kind, check.text, scores[check.text])
        for check in checks()
        if check.fails(scores[check.text], scores[check.reference] if check.reference else None)
    ]


def _read() -> Suite:
    content: Any = tomllib.loads(_SOURCE.read_text(encoding="utf-8"))
    return Suite(slots=content["slots"], kinds=content["kinds"])


def _of_kind(kind: Kind, slots: dict[str, list[str]]) -> Iterator[Check]:
    """Up to SENTENCES_PER_KIND checks, in turn from each pattern of the kind."""
    choose = random.Random(kind["name"])  # a fixed selection, not a secret
    makers = [_maker(kind["name"], group, pattern) for group in kind["groups"] for pattern in group["patterns"]]
    seen: set[str] = set()
    for number in range(_ATTEMPTS_PER_SENTENCE * SENTENCES_PER_KIND):
        check = makers[number % len(makers)]({name: choose.choice(words) for name, words in slots.items()})
        if check.text not in seen:
            seen.add(check.text)
            yield check
        if len(seen) == SENTENCES_PER_KIND:
            return


def _maker(kind: str, group: Group, pattern: str) -> Callable[[dict[str, str]], Check]:
    """A function that fills the slots of a pattern, and of its reference, with the same words."""
    reference = group.get("reference") or group.get("same_as")
    label, direction = next(
        ((group[key], sign) for key, sign in _DIRECTIONS.items() if key in group),  # type: ignore[literal-required]  # the keys are those of Group
        (None, 0),
    )

    def make(words: dict[str, str]) -> Check:
        return Check(
            kind=kind,
            text=_fill(pattern, words),
            accepted=tuple(group.get("accept", ())),
            reference=_fill(reference, words) if reference else None,
            label=label,
            direction=direction,
        )

    return make


def _fill(pattern: str, words: dict[str, str]) -> str:
    """The pattern with words in its slots and a capital letter at its start."""
    filled = string.Formatter().vformat(pattern, (), words)
    return filled[:1].upper() + filled[1:]
