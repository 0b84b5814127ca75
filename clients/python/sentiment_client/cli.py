"""The command `sentiment-client`: score files and texts."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sentiment_client.client import Client
from sentiment_client.errors import ApiError, ServiceUnreachableError, TaskFailedError
from sentiment_client.flow import COMPRESSIONS
from sentiment_client.operations import RESULTS

EXAMPLES = """examples:
  export SENTIMENT_URL=https://sentiment.example.org SENTIMENT_KEY=snt_live_...
  sentiment-client score reviews.csv --column review -o scored.xlsx
  sentiment-client text "The room was small, but the staff was lovely."
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status: 0 after success, 1 after an error, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        with Client(options.url, options.key) as client:
            run = _score if options.command == "score" else _text
            return run(client, options)
    except (ApiError, ServiceUnreachableError, TaskFailedError, ValueError, OSError) as error:
        sys.stderr.write(f"sentiment-client: {error}\n")
        return 1


def _score(client: Client, options: argparse.Namespace) -> int:
    target = options.output or Path(f"{_stem(options.file)}-scored.csv")
    if target.suffix.lower() not in RESULTS:  # before the file is scored, not afterwards
        raise ValueError(f"{target} has none of these endings: {', '.join(RESULTS)}")
    if target.is_dir():
        raise ValueError(f"{target} is a folder. Name a file.")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"The folder {target.parent} does not exist.")
    task = client.submit(
        options.file,
        column=options.column,
        id_column=options.id_column,
        delimiter=options.delimiter,
        encoding=options.encoding,
        sheet=options.sheet,
        model=options.model,
    )
    if not options.quiet:
        sys.stderr.write(f"Task {task.id}: {task.progress.total:,} rows\n")
    task.wait(progress=sys.stderr.isatty() and not options.quiet)
    task.to_file(target)
    if not options.quiet:
        done = task.progress
        counts = ", ".join(f"{number:,} {label}" for label, number in done.details["summary"]["counts"].items())
        failed = f", {done.failed:,} failed" if done.failed else ""
        sys.stderr.write(f"{target}: {done.total:,} rows: {counts}{failed}\n")
    return 0


def _stem(file: Path) -> str:
    """The name of a file without the endings of its type and compression."""
    stem = file.with_suffix("") if file.suffix.lower() in COMPRESSIONS else file
    return stem.stem


def _text(client: Client, options: argparse.Namespace) -> int:
    answer = client.analyze(options.text, model=options.model, store=False)
    sys.stdout.write(f"{answer.sentiment} {answer.confidence:.3f}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sentiment-client",
        description="Score texts and files with the sentiment-scoring service.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="the address of the service (default: SENTIMENT_URL)")
    parser.add_argument("--key", help="an API key (default: SENTIMENT_KEY, which other users of the host cannot see)")
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser("score", help="score a file, and write it with its own columns and the results")
    score.add_argument("file", type=Path, help=".csv, .tsv, .ndjson, .json, .xlsx or .parquet, also .gz or .zst")
    score.add_argument("-o", "--output", type=Path, help=".csv, .xlsx, .parquet or .ndjson (default: NAME-scored.csv)")
    score.add_argument("--column", help="the column with the texts (default: text, or the only column)")
    score.add_argument("--id-column", help="the column with an id")
    score.add_argument("--delimiter", help="of CSV (default: detected)")
    score.add_argument("--encoding", help="of CSV (default: detected)")
    score.add_argument("--sheet", help="of an Excel workbook (default: the first)")
    score.add_argument("--quiet", action="store_true", help="show no progress and no summary")
    text = commands.add_parser("text", help="score a text, and print its sentiment and confidence")
    text.add_argument("text")
    for command in (score, text):
        command.add_argument("--model", help="a released version (default: the active model)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
