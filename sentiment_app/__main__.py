"""Runs the commands: `python -m sentiment_app`, `scripts/sentiment`, and on a host `sentiment`."""

from sentiment_app.commands import ROOT


def main() -> None:
    """Run the command `sentiment`."""
    ROOT(prog_name="sentiment")


if __name__ == "__main__":
    main()
