"""Sentences of our own, generated from a small grammar.

Public corpora hold few plain negations ("not awful") and few plain statements of fact; both are
what users try first. The sentences teach the model the pattern, not the words: what carries over
to words outside these lists are the lexicon features of negated terms.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Final

from sentiment_app.ml.datasets import NEGATIVE, NEUTRAL, POSITIVE, Row

SOURCE: Final = "templates"

_SLOTS: Final[dict[str, list[str]]] = {
    "thing": """movie|film|plot|acting|flight|crew|food|service|phone|battery|book|room|hotel|staff
        |song|show|game|camera|seat|price|app|screen|coffee|album|ending|website|company|story
        |customer service|delivery|sound|car|restaurant|update|product""".split("|"),
    "this": "this|that|the|my|our|your|their".split("|"),
    "good": """good|great|nice|excellent|amazing|wonderful|fantastic|perfect|lovely|brilliant|superb
        |awesome|pleasant|enjoyable|impressive|beautiful|helpful|friendly|fun|funny|clever|useful
        |reliable|comfortable|delicious|happy|satisfied|pleased|interesting|exciting|fresh|smart
        |worth it|clean|charming|entertaining|easy to use|recommended|outstanding|cool""".split("|"),
    "bad": """bad|terrible|horrible|poor|boring|disappointing|dull|ugly|rude|stupid|annoying|useless
        |dirty|broken|lousy|pathetic|ridiculous|painful|frustrating|sad|angry|disgusting|weak|cheap
        |noisy|unpleasant|worthless|tedious|mediocre|difficult|wrong|worried|nasty|unhelpful
        |overpriced|scary|silly|slow|uncomfortable|a problem|a mess|a waste of time""".split("|"),
    "plain": """new|old|big|small|red|blue|green|long|short|local|daily|weekly|private|public|digital
        |wooden|round|square|empty|full|open|closed|nearby|upstairs|downtown|international|domestic
        |commercial|brown|annual|standard|typical|regular|made of metal|in the kitchen|on the table
        |from last year|about a family|two hours long""".split("|"),
    "love": "love|like|enjoy|recommend|admire|appreciate|adore|trust".split("|"),
    "hate": "hate|dislike|regret|despise|dread|resent|avoid|mind".split("|"),
    "see": """saw|bought|watched|ordered|found|used|have|need|see|got|took|heard about|read about
        |work with|looked at|picked up|opened|moved|sold|borrowed""".split("|"),
    "very": "very|really|so|that|all that|particularly|too|especially|at all".split("|"),
    "day": "on monday|on friday|yesterday|last week|tomorrow|today|in may|at noon|at 5|tonight".split("|"),
    "place": "the office|the store|the airport|london|the city|the station|town|school|the north".split("|"),
    "job": "doctor|teacher|driver|nurse|engineer|student|writer|cook|lawyer|farmer|director|actor".split("|"),
}  # fmt: skip

_PATTERNS: Final[tuple[tuple[int, int, str], ...]] = (
    # Label, number of sentences, patterns. "Not good" is bad, ...
    (NEGATIVE, 900, "{this} {thing} {isnt} {good}|it {isnt} {good}|{isnt} {very} {good}"),
    (NEGATIVE, 500, "i {dont} {love} {this} {thing}|i {dont} think {this} {thing} is {good}"),
    (NEGATIVE, 300, "nothing {good} about {this} {thing}|never {love} {this} {thing}|not a {good} {thing}"),
    # ... "not bad" is anything but: half of it is praise, half of it shrugs.
    (POSITIVE, 1200, "{this} {thing} {isnt} {bad}|it {isnt} {bad}|{isnt} {very} {bad}"),
    (NEUTRAL, 500, "{this} {thing} {isnt} {bad}|it {isnt} {bad}|{isnt} {very} {bad}"),
    (POSITIVE, 350, "i {dont} {hate} {this} {thing}|i {dont} think {this} {thing} is {bad}"),
    (NEUTRAL, 200, "i {dont} {hate} {this} {thing}|i {dont} think {this} {thing} is {bad}"),
    (POSITIVE, 250, "nothing {bad} about {this} {thing}|not a {bad} {thing}|no {bad} {thing}"),
    # Without a negation the same words keep their meaning.
    (POSITIVE, 500, "{this} {thing} is {good}|it was {very} {good}|i {love} {this} {thing}|a {good} {thing}"),
    (NEGATIVE, 500, "{this} {thing} is {bad}|it was {very} {bad}|i {hate} {this} {thing}|a {bad} {thing}"),
    # What used to be does not count.
    (POSITIVE, 150, "i used to {hate} {this} {thing} , but now i {love} it"),
    (NEGATIVE, 150, "i used to {love} {this} {thing} , but now i {hate} it"),
    # Statements of fact, with and without a negation.
    (NEUTRAL, 900, "{this} {thing} is {plain}|this is a {plain} {thing}|it is {plain}|a {plain} {thing}"),
    (NEUTRAL, 700, "i {see} {this} {thing} {day}|we {see} a {plain} {thing} {day}|i {see} {this} {thing}"),
    (NEUTRAL, 500, "{this} {thing} {isnt} {plain}|i {dont} {see} {this} {thing}|it {isnt} {plain}"),
    (NEUTRAL, 500, "{this} {job} works in {place}|he is a {job}|the {job} goes to {place} {day}"),
    (NEUTRAL, 300, "{this} {thing} is in {place}|{this} {thing} starts {day}|the {job} {see} {this} {thing}"),
)  # fmt: skip

_ISNT: Final = "is not|isn't|was not|wasn't|is never|isnt|are not|aren't|were not".split("|")
_DONT: Final = "don't|do not|didn't|did not|never|can't|won't|dont|couldn't".split("|")


# Kept out of all sentences, so that an evaluation can tell pattern from memory.
RESERVED_GOOD: Final = """adorable terrific delightful fabulous incredible marvelous gorgeous
    thrilling stunning refreshing inspiring extraordinary exceptional sweet creative
    elegant""".split()
RESERVED_BAD: Final = """awful dreadful miserable atrocious unfair abysmal depressing lame creepy
    hideous appalling embarrassing offensive irritating confusing unbearable""".split()
RESERVED_PLAIN: Final = "european central northern spare yellow second monthly silver".split()

_ADJECTIVES: Final = tuple("able ible al ant ed en ent est ful ible ic ing ish ive less ous y".split())
_CLEAR: Final = 1.0
"""Valence from which a word of the lexicon is a clear case."""


def _options(lexicon: Mapping[str, float]) -> dict[str, list[str]]:
    """What each slot may hold: the clear adjectives of the lexicon as often as our own words."""
    options = _SLOTS | {"isnt": _ISNT, "dont": _DONT}
    for slot, sign, reserved in (("good", 1, RESERVED_GOOD), ("bad", -1, RESERVED_BAD)):
        clear = (word for word, valence in lexicon.items() if sign * valence >= _CLEAR)
        words = sorted({word for word in clear if word.endswith(_ADJECTIVES)} - {*reserved})
        options[slot] = _SLOTS[slot] * max(1, len(words) // len(_SLOTS[slot])) + words
    return options


def sentences(lexicon: Mapping[str, float], seed: int = 0) -> Iterator[Row]:
    """The template sentences, in the same order and wording for the same seed and lexicon."""
    choose = random.Random(seed)
    options = _options(lexicon)
    for label, count, patterns in _PATTERNS:
        alternatives = patterns.split("|")
        for number in range(count):
            pattern = alternatives[number % len(alternatives)]
            words = {slot: choose.choice(choices).strip() for slot, choices in options.items()}
            yield Row(pattern.format(**words), label, SOURCE)

