"""Template sentences, generated from a small grammar.

Public corpora have few plain negations ("not awful") and few plain statements of fact, and users try both first. The
lexicon features of negated terms generalise to words outside these lists.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sentiment_app.ml.runtime import LABELS
from sentiment_app.ml.training.datasets import NEGATIVE, NEUTRAL, POSITIVE, Row

SOURCE: Final = "templates"

_SLOTS: Final[dict[str, list[str]]] = {
    "thing": """movie|film|plot|acting|flight|crew|food|service|phone|battery|book|room|hotel|staff
        |song|show|game|camera|seat|price|app|screen|coffee|album|ending|website|company
        |story|customer service|delivery|sound|car|restaurant|update|product""".split("|"),
    "this": "this|that|the|my|our|your|their".split("|"),
    "good": """good|great|nice|excellent|amazing|wonderful|fantastic|perfect|lovely|brilliant
        |superb|awesome|pleasant|enjoyable|impressive|beautiful|helpful|friendly|fun|funny
        |clever|useful|reliable|comfortable|delicious|happy|satisfied|pleased|interesting
        |exciting|fresh|smart|worth it|clean|adorable|terrific|delightful|incredible
        |exceptional|sweet|cute|well made|charming|entertaining|easy to use|recommended
        |outstanding|cool|quick|polite|affordable|good value|strong""".split("|"),
    "bad": """bad|terrible|horrible|poor|boring|disappointing|dull|ugly|rude|stupid|annoying
        |useless|dirty|broken|lousy|pathetic|ridiculous|painful|frustrating|sad|angry
        |disgusting|weak|cheap|noisy|unpleasant|awful|dreadful|lame|creepy|weird|unhappy
        |hard|rough|horrendous|crap|hopeless|worthless|tedious|mediocre|difficult|wrong
        |worried|nasty|unhelpful|overpriced|scary|silly|slow|uncomfortable|a problem|a mess
        |a waste of time""".split("|"),
    "better": """better|happier|more pleased|more satisfied|easier|nicer|more helpful|more impressed
        |more delighted|friendlier|simpler|more excited|more comfortable|more grateful""".split("|"),
    "worse": """worse|unhappier|more disappointed|more annoyed|slower|uglier|more upset|more frustrated
        |more boring|ruder|more useless|less happy|less helpful|less impressed""".split("|"),
    "plain": """new|old|big|small|red|blue|green|long|short|local|daily|weekly|private|public
        |digital|wooden|round|square|empty|full|open|closed|nearby|upstairs|downtown
        |international|domestic|commercial|brown|annual|standard|typical|regular
        |made of metal|in the kitchen|on the table|from last year|about a family
        |two hours long""".split("|"),
    "love": "love|like|enjoy|recommend|admire|appreciate|adore|trust".split("|"),
    "hate": "hate|dislike|regret|despise|dread|resent|avoid|mind".split("|"),
    "see": """saw|bought|watched|ordered|found|used|have|need|see|got|took|heard about|read about
        |work with|looked at|picked up|opened|moved|sold|borrowed""".split("|"),
    "very": "very|really|so|that|all that|particularly|too|especially|at all".split("|"),
    "does": """leaves|comes|opens|closes|ends|begins|is due|was made|was sold|came|lands|takes off
        |changes|is from|departs|stops|was bought|is shown""".split("|"),
    "day": """on monday|on friday|yesterday|last week|tomorrow
        |today|in may|at noon|at 5|tonight""".split("|"),
    "place": """the office|the store|the airport|london|the city
        |the station|town|school|the north""".split("|"),
    "job": """doctor|teacher|driver|nurse|engineer|student|writer|cook|lawyer|farmer|director
        |actor""".split("|"),
}

_PATTERNS: Final[tuple[tuple[int, int, str], ...]] = (
    # Label, number of sentences, patterns. "Not good" is negative.
    (NEGATIVE, 900, "{this} {thing} {isnt} {good}|it {isnt} {good}|{isnt} {very} {good}"),
    (NEGATIVE, 900, "i {dont} {love} {this} {thing}|i {dont} think {this} {thing} is {good}"),
    (
        NEGATIVE,
        300,
        "nothing {good} about {this} {thing}|never {love} {this} {thing}|not a {good} {thing}",
    ),
    # "Not bad" is usually praise, and sometimes neutral.
    (POSITIVE, 1600, "{this} {thing} {isnt} {bad}|it {isnt} {bad}|{isnt} {very} {bad}"),
    (NEUTRAL, 500, "{this} {thing} {isnt} {bad}|it {isnt} {bad}|{isnt} {very} {bad}"),
    (POSITIVE, 350, "i {dont} {hate} {this} {thing}|i {dont} think {this} {thing} is {bad}"),
    (NEUTRAL, 200, "i {dont} {hate} {this} {thing}|i {dont} think {this} {thing} is {bad}"),
    (POSITIVE, 250, "nothing {bad} about {this} {thing}|not a {bad} {thing}|no {bad} {thing}"),
    # Idioms with a negated comparison: "couldn't be better" is positive, and "couldn't be worse" is negative.
    (POSITIVE, 350, "{this} {thing} couldn't be {better}|i could not be {better} with {this} {thing}"),
    (NEGATIVE, 250, "{this} {thing} couldn't be {worse}|i could not be {worse} with {this} {thing}"),
    (POSITIVE, 150, "never been {better} with {this} {thing}|nothing is {better} than {this} {thing}"),
    (NEGATIVE, 100, "never been {worse} with {this} {thing}|nothing is {worse} than {this} {thing}"),
    # "Never so" and "nothing short of" emphasise. "Anything but" and "not the best" negate.
    (
        POSITIVE,
        250,
        "i have {neverseen} such a {good} {thing}|never been so {good}|never felt so {good}|nothing short of {good}",
    ),
    (
        NEGATIVE,
        250,
        "i have {neverseen} such a {bad} {thing}|never been so {bad}|never felt so {bad}|nothing short of {bad}",
    ),
    (NEGATIVE, 150, "{this} {thing} is anything but {good}|it was anything but {good}"),
    (POSITIVE, 150, "{this} {thing} is anything but {bad}|it was anything but {bad}"),
    (NEGATIVE, 200, "not the best {thing}|{this} {thing} {isnt} the best|it {isnt} the best|could be better"),
    (POSITIVE, 100, "it could be worse|could be worse|{this} {thing} could have been worse"),
    (POSITIVE, 120, "zero problems with {this} {thing}|no problems at all|zero complaints|no issues|zero issues"),
    # Ratings in words and figures.
    (POSITIVE, 150, "5 stars|five stars|4 stars|5 star {thing}|5/5|10/10|9/10|8/10|5 out of 5|10 out of 10"),
    (NEGATIVE, 150, "1 star|one star|0 stars|zero stars|1 star {thing}|1/5|0/10|1/10|2/10|1 out of 5|0 out of 10"),
    (NEUTRAL, 60, "3 stars|three stars|3/5|5/10|3 out of 5"),
    (
        POSITIVE,
        120,
        "can't recommend {this} {thing} enough|nothing to complain about|no complaints about {this} {thing}",
    ),
    # Without a negation the same words keep their meaning.
    (
        POSITIVE,
        500,
        "{this} {thing} is {good}|it was {very} {good}|i {love} {this} {thing}|a {good} {thing}",
    ),
    (
        NEGATIVE,
        500,
        "{this} {thing} is {bad}|it was {very} {bad}|i {hate} {this} {thing}|a {bad} {thing}",
    ),
    # Only the present opinion counts: "i used to hate it, but now i love it" is positive.
    (POSITIVE, 150, "i used to {hate} {this} {thing} , but now i {love} it"),
    (NEGATIVE, 150, "i used to {love} {this} {thing} , but now i {hate} it"),
    # Statements of fact, with and without a negation.
    (
        NEUTRAL,
        900,
        "{this} {thing} is {plain}|this is a {plain} {thing}|it is {plain}|a {plain} {thing}",
    ),
    (
        NEUTRAL,
        700,
        "i {see} {this} {thing} {day}|we {see} a {plain} {thing} {day}|i {see} {this} {thing}",
    ),
    (NEUTRAL, 500, "{this} {thing} {isnt} {plain}|i {dont} {see} {this} {thing}|it {isnt} {plain}"),
    (NEUTRAL, 500, "{this} {job} works in {place}|he is a {job}|the {job} goes to {place} {day}"),
    (
        NEUTRAL,
        300,
        "{this} {thing} is in {place}|{this} {thing} starts {day}|the {job} {see} {this} {thing}",
    ),
    (
        NEUTRAL,
        700,
        "the {thing} {does} {day}|the {plain} {thing} {does} near {place}|there is a {thing} in {place}",
    ),
)

_ISNT: Final = "is not|isn't|was not|wasn't|is never|isnt|are not|aren't|were not".split("|")
_DONT: Final = "don't|do not|didn't|did not|never|can't|won't|dont|couldn't".split("|")

_NEVER_SEEN: Final = "never seen|never had|never met|never watched|never used|never been to|never stayed in".split("|")


_PHRASES: Final = Path(__file__).with_name("phrases.toml")


def sentences(seed: int = 0) -> Iterator[Row]:
    """The template sentences, in the same order and wording for the same seed."""
    phrases = tomllib.loads(_PHRASES.read_text(encoding="utf-8"))
    options = _SLOTS | {"isnt": _ISNT, "dont": _DONT, "neverseen": _NEVER_SEEN}
    yield from _filled(options, ((label, count, patterns.split("|")) for label, count, patterns in _PATTERNS), seed)
    groups = ((LABELS.index(group["label"]), group["count"], group["patterns"]) for group in phrases["groups"])
    yield from _filled(options | phrases["slots"], groups, seed)


def _filled(options: dict[str, list[str]], groups: Iterable[tuple[int, int, list[str]]], seed: int) -> Iterator[Row]:
    """Fill the patterns of each group in turn, until the group has its number of sentences."""
    choose = random.Random(seed)
    for label, count, patterns in groups:
        for number in range(count):
            words = {slot: choose.choice(choices).strip() for slot, choices in options.items()}
            # An option may contain a slot, too.
            yield Row(patterns[number % len(patterns)].format(**words).format(**words), label, SOURCE)
