"""`sentiment model feedback`: the feedback of all accounts, for operators who train models."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from sentiment_app.cli import as_json, command, print_json
from sentiment_app.feedback import service
from sentiment_app.ml.training import labelled

OWNER_ONLY = 0o600


@command("export")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    required=True,
    help="The file to write, which only its owner can read; or - for standard output.",
)
@as_json
def export(output: Path, as_json: bool) -> None:
    """Write the text and the label of all feedback as NDJSON, the newest label first.

    `sentiment model train --data` and `sentiment model evaluate --data` read the file. It contains texts of customers:
    delete it after use. The audit log has an entry for each export.

    Example: sentiment model feedback export -o feedback.ndjson
    """
    lines = labelled.write(labelled.label_feedback(service.read_all()))
    if output == Path("-"):
        if as_json:
            raise click.UsageError("--json needs a file: with - as the output, the texts are printed.")
        for line in lines:
            click.echo(line, nl=False)
        return
    try:
        number = _write(output, lines)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}.") from None
    if as_json:
        print_json({"file": str(output), "texts": number})
    else:
        click.echo(f"Wrote {number:,} texts to {output}.", err=True)


def _write(output: Path, lines: Iterator[bytes]) -> int:
    """Replace a file by these lines, or leave it as it is. Returns the number of lines."""
    if output.exists() and not output.is_file():
        raise click.ClickException(f"{output} is not a regular file.")
    number = 0
    # Only the owner can enter this folder, so nobody else reads the file before its mode is set.
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".feedback-") as folder:
        partial = Path(folder) / output.name
        with partial.open("wb") as file:
            for line in lines:
                number += file.write(line) > 0
        partial.chmod(OWNER_ONLY)
        partial.replace(output)
    return number
