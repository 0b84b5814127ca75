"""A bar that shows the progress of a task."""

import sys
from collections.abc import Callable

from sentiment_client.types import Progress

Report = bool | Callable[[Progress], object]
"""True shows a bar on stderr. A function is called with each state of a task."""


class Bar:
    """A bar on stderr."""

    WIDTH = 30

    def __call__(self, progress: Progress) -> None:
        filled = int(self.WIDTH * progress.percent / 100)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        done = progress.completed + progress.failed
        rate = f", {progress.rows_per_second:,.0f} rows/s" if progress.rows_per_second else ""
        left = f", {progress.seconds_left:,.0f} s left" if progress.seconds_left is not None else ""
        sys.stderr.write(f"\r[{bar}] {done:,} of {progress.total:,} rows{rate}{left}\033[K")
        sys.stderr.write("\n" if progress.has_ended else "")
        sys.stderr.flush()


def reporter(report: Report) -> Callable[[Progress], object]:
    """The function that is called with each state of a task."""
    if callable(report):
        return report
    return Bar() if report else _ignore


def _ignore(_progress: Progress) -> None:
    pass
