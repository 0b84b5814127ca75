"""The base classes of all `flask` commands. They import commands at first use, and print errors without a traceback."""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError

from sentiment_app.errors import AppError
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import UNDEFINED_TABLE, is_disconnect, is_out_of_resources, sqlstate
from sentiment_app.ml.runtime import ModelError

# The location of each command: "module:attribute".
COMMANDS = {
    "audit": "sentiment_app.audit.cli:audit",
    "auth": "sentiment_app.auth.cli:auth",
    "config": "sentiment_app.cli:config",
    "logs": "sentiment_app.log_search.cli:logs",
    "model": "sentiment_app.registry.cli:model",
    "purge": "sentiment_app.maintenance:purge_command",
    "tasks": "sentiment_app.tasks.cli:tasks",
    "user": "sentiment_app.users.cli:user",
}


class LazyGroup(AppGroup):
    """A group of commands. Commands in `lazy`, by name and location, are imported at first use."""

    def __init__(self, *arguments: Any, lazy: dict[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self._lazy:
            return super().get_command(ctx, name)
        module, _, attribute = self._lazy[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


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
            raise click.ClickException("The database has no tables yet. Run: flask db upgrade") from None
        raise


class Command(click.Command):
    """A command whose errors are printed, with exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        with print_errors():
            return super().invoke(ctx)


class Group(LazyGroup):
    """A group of commands whose errors are printed, with exit status 1."""

    def __init__(self, *arguments: Any, lazy: dict[str, str] | None = None, **options: Any) -> None:
        super().__init__(*arguments, lazy=lazy or {}, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with print_errors():
            return super().invoke(ctx)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


config = Group("config", help="Check the settings.")


@config.command("check")
@as_json
def check(as_json: bool) -> None:
    """Check the settings, and print them with masked secrets.

    Reports all problems at once. The exit status is 1 if there are any.

    Example: flask config check
    """
    shown = settings().masked()
    if as_json:
        print_json(shown)
        return
    for name, value in shown.items():
        click.echo(f"{name}={value}")
    click.secho("The configuration is valid.", fg="green", err=True)
