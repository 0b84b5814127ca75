"""What the `flask` commands of this service share: they load when used, and a user's mistake is no traceback."""

import importlib
import json
from typing import Any

import click
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError

from sentiment_app.errors import AppError
from sentiment_app.extensions import is_disconnect, settings
from sentiment_app.ml.runtime import ModelError

UNDEFINED_TABLE = "42P01"

# By name, and loaded when used.
LAZY = {
    "config": "sentiment_app.cli:config",
    "tasks": "sentiment_app.batch.cli:tasks",
    "model": "sentiment_app.sentiment.cli:model",
    "user": "sentiment_app.users.cli:user",
}


class LazyGroup(AppGroup):
    """Commands, some of which are imported when they are first asked for: `lazy` says where they are."""

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


class Group(LazyGroup):
    """Commands whose refusals are printed and exit with 1."""

    def __init__(self, *arguments: Any, lazy: dict[str, str] | None = None, **options: Any) -> None:
        super().__init__(*arguments, lazy=lazy or {}, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AppError as error:
            raise click.ClickException(_told(error)) from None
        except ModelError as error:
            raise click.ClickException(f"{error}.") from None
        except UnicodeEncodeError:
            raise click.ClickException("An argument is not UTF-8.") from None
        except DBAPIError as error:
            if is_disconnect(error):
                raise click.ClickException("The database cannot be reached; see DATABASE_URL.") from None
            if getattr(error.orig, "pgcode", None) == UNDEFINED_TABLE:
                raise click.ClickException("The database lacks tables; run: flask db upgrade") from None
            raise


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def _told(error: AppError) -> str:
    fields = [f"{one['pointer'].removeprefix('/')}: {one['detail']}" for one in error.errors or []]
    return "\n".join(fields) or error.detail


config = Group("config", help="The settings, as this process reads them.")


@config.command("check")
@as_json
def check(as_json: bool) -> None:
    """Check the settings, and print them with the secrets masked.

    Names every problem at once, and exits with 1 if there is any.

    Example: flask config check
    """
    shown = settings().masked()
    if as_json:
        print_json(shown)
        return
    for name, value in shown.items():
        click.echo(f"{name}={value}")
    click.secho("The configuration is usable.", fg="green", err=True)
