"""A text with its words marked by what they contribute to the scores."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Contributions to the log-odds from which a word has the colours 1 to 5.
LEVELS = (0.05, 0.2, 0.5, 1.0, 2.0)
MAX_BARS = 12


class Segment(NamedTuple):
    """A part of a text: its colour, from -5 (negative) to 5 (positive), and its contribution to the log-odds."""

    text: str
    level: int
    contribution: float | None


class Bar(NamedTuple):
    """A contribution, for a chart. Words that occur several times have one bar."""

    label: str
    contribution: float


def segments(text: str, explanation: Any) -> list[Segment]:
    """The text in parts, without a gap: the words of an explanation, and what is between them."""
    found, end = [], 0
    for part in sorted(explanation.contributions, key=lambda part: part.start):
        if part.start < end:
            continue
        if part.start > end:
            found.append(Segment(text[end : part.start], 0, None))
        found.append(Segment(text[part.start : part.end], level(part.contribution), part.contribution))
        end = part.end
    if end < len(text):
        found.append(Segment(text[end:], 0, None))
    return found


def level(contribution: float) -> int:
    """The colour of a contribution, from -5 to 5."""
    size = sum(abs(contribution) >= limit for limit in LEVELS)
    return size if contribution > 0 else -size


def bars(explanation: Any) -> list[Bar]:
    """The bias first, and then the largest contributions of words."""
    sums: dict[str, float] = {}
    for part in explanation.contributions:
        label = part.surface.casefold()
        sums[label] = sums.get(label, 0.0) + part.contribution
    largest = sorted(sums.items(), key=lambda item: abs(item[1]), reverse=True)
    words = [Bar(label, value) for label, value in largest if level(value)][:MAX_BARS]
    return [Bar("(bias)", explanation.bias), *words]


def percentages(scores: Mapping[str, float], names: Sequence[str]) -> list[tuple[str, int]]:
    """The scores as whole percentages that sum to 100 (largest remainder)."""
    exact = [scores[name] * 100 for name in names]
    whole = [int(value) for value in exact]
    by_remainder = sorted(range(len(names)), key=lambda index: whole[index] - exact[index])
    for index in by_remainder[: 100 - sum(whole)]:
        whole[index] += 1
    return list(zip(names, whole, strict=True))
