"""Charts as SVG shapes, so that pages need no script for them. Templates draw the shapes; this module computes them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

CHART_WIDTH, CHART_HEIGHT = 600.0, 120.0
GAP = 0.15  # of a column


class Arc(NamedTuple):
    """A part of a ring of circumference 100, for stroke-dasharray and stroke-dashoffset."""

    share: float
    offset: float


class Rectangle(NamedTuple):
    """A part of a column. `series` is its index in the values of the column."""

    x: float
    y: float
    width: float
    height: float
    series: int
    value: float


def donut(values: Sequence[float]) -> list[Arc]:
    """An arc for each value, clockwise from the top."""
    total = sum(values)
    arcs, begin = [], 0.0
    for value in values:
        share = 100 * value / total if total else 0.0
        arcs.append(Arc(round(share, 2), round(25 - begin, 2)))
        begin += share
    return arcs


def curve(points: Sequence[tuple[float, float]]) -> str:
    """The points of a line in a square of 100 by 100, for the attribute `points`. Both coordinates are from 0 to 1."""
    return " ".join(f"{100 * x:.2f},{100 - 100 * y:.2f}" for x, y in points)


def columns(stacks: Sequence[Sequence[float]]) -> list[Rectangle]:
    """A column for each stack of values, as high as its sum, scaled to the chart."""
    top = max((math.fsum(stack) for stack in stacks), default=0) or 1
    width = CHART_WIDTH / max(1, len(stacks))
    shapes = []
    for index, stack in enumerate(stacks):
        y = CHART_HEIGHT
        for series, value in enumerate(stack):
            height = CHART_HEIGHT * value / top
            y -= height
            if value:
                x = (index + GAP / 2) * width
                shapes.append(
                    Rectangle(round(x, 2), round(y, 2), round(width * (1 - GAP), 2), round(height, 2), series, value)
                )
    return shapes
