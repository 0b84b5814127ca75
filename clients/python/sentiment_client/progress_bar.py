"""A bar that shows the progress of a task."""

import sys
from collections.abc import Callable

from sentiment_client.types import Progress

Report = bool | Callable[[Progress], object]
"""True shows a bar on stderr. A function is called with each state of a task."""


class Bar:
    """A bar on stderr. If stderr is not a terminal, a line for every tenth of the task."""

    WIDTH = 30

    def __init__(self) -> None:
        self._tenths = -1

    def __call__(self, progress: Progress) -> None:
        if not sys.stderr.isatty():
            self._write_line(progress)
            return
        filled = int(self.WIDTH * progress.percent / 100)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        done = progress.completed + progress.failed
        rate = f", {progress.rows_per_second:,.0f} rows/s" if progress.rows_per_second else ""
        left = f", {progress.seconds_left:,.0f} s left" if progress.seconds_left is not None else ""
        sys.stderr.write(f"\r[{bar}] {done:,} of {progress.total:,} rows{rate}{left}\033[K")
        sys.stderr.write("\n" if progress.has_ended else "")
        sys.stderr.flush()

    def _write_line(self, progress: Progress) -> None:
        tenths = int(progress.percent / 10)
        if tenths > self._tenths or progress.has_ended:
            self._tenths = tenths
            sys.stderr.write(f"{progress.completed + progress.failed:,} of {progress.total:,} rows\n")


def reporter(report: Report) -> Callable[[Progress], object]:
    """The function that is called with each state of a task."""
    if callable(report):
        return report
    return Bar() if report else _ignore


def _ignore(_progress: Progress) -> None:
    pass
