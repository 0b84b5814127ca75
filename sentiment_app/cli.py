"""What all commands share: errors without a traceback, JSON, times and completion. `commands.py` has their tree."""

import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from flask.cli import ScriptInfo, with_appcontext
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sentiment_app.commands import first_paragraph, write_examples
from sentiment_app.errors import AppError
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import UNDEFINED_TABLE, is_disconnect, is_out_of_resources, sqlstate
from sentiment_app.ml.runtime import ModelError

EXAMPLE = "Example: "


@contextmanager
def print_errors() -> Iterator[None]:
    """Turn the errors that users can act on into messages with exit status 1."""
    try:
        yield
    except AppError as error:
        raise click.ClickException(str(error)) from None
    except ModelError as error:
        raise click.ClickException(f"{error}.") from None
    except UnicodeEncodeError:
        raise click.ClickException("An argument is not valid UTF-8.") from None
    except DBAPIError as error:
        if is_disconnect(error):
            message = "The database does not answer. Check DATABASE_URL, and that PostgreSQL runs."
            raise click.ClickException(message) from None
        if is_out_of_resources(error):
            raise click.ClickException("The database lacks disk space, memory or connections.") from None
        if sqlstate(error) == UNDEFINED_TABLE:
            raise click.ClickException("The database has no tables yet. Run: sentiment db upgrade") from None
        raise


class Command(click.Command):
    """A command whose errors are printed, with exit status 1. Its help ends with the examples of its docstring."""

    def __init__(self, name: str, *, help: str, **options: Any) -> None:  # noqa: A002  # click passes it by name
        parts = inspect.cleandoc(help).split("\n\n")
        text = "\n\n".join(part for part in parts if not part.startswith(EXAMPLE))
        super().__init__(name, help=text, short_help=first_paragraph(text), **options)
        self.examples = [part.removeprefix(EXAMPLE) for part in parts if part.startswith(EXAMPLE)]

    def invoke(self, ctx: click.Context) -> Any:
        with print_errors():
            return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)


def command(name: str) -> Callable[[Callable[..., None]], Command]:
    """Declare a command, which runs within the application. Its help is the docstring."""

    def declare(function: Callable[..., None]) -> Command:
        return click.command(name, cls=Command)(with_appcontext(function))

    return declare


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    text = json.dumps(value, ensure_ascii=False, default=_to_json)
    if not text.isprintable():  # it may have a lone surrogate, which UTF-8 cannot encode
        text = json.dumps(value, default=_to_json)
    click.echo(text)


def _to_json(value: Any) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def show_time(value: datetime | None) -> str:
    """A time in UTC, for a table."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if value else "-"


class Time(click.ParamType[datetime]):
    """A day, or a time in the format of RFC 3339. Without an offset, it is in UTC."""

    name = "time"
    hint = "2026-11-01 or 2026-11-01T09:30:00Z"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            time = datetime.fromisoformat(value)
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time. Write for example {self.hint}.", param, ctx)


Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def complete(find: Callable[[click.Context, str], Iterable[str]]) -> Completer:
    """Make a completer from a function that finds the acceptable values which begin with a text.

    It completes nothing if the application or the database does not answer.
    """

    def run(ctx: click.Context, _parameter: click.Parameter, prefix: str) -> list[str]:
        try:
            with ctx.ensure_object(ScriptInfo).load_app().app_context():
                return [value for value in find(ctx, prefix) if value.startswith(prefix)]
        except (AppError, SQLAlchemyError, click.ClickException):
            return []

    return run


@command("check")
@as_json
def check(as_json: bool) -> None:
    """Check the settings, and print them with masked secrets.

    Reports all problems at once. The exit status is 1 if there are any.

    Example: sentiment config check
    """
    shown = settings().masked()
    if as_json:
        print_json(shown)
        return
    for name, value in shown.items():
        click.echo(f"{name}={value}")
    click.secho("The configuration is valid.", fg="green", err=True)
