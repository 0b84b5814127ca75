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

# By name, and loaded when used: the model's commands import scikit-learn, which a serving process does not need.
LAZY = {
    "config": "sentiment_app.cli:config",
    "tasks": "sentiment_app.batch.cli:tasks",
    "model": "sentiment_app.sentiment.cli:model",
    "user": "sentiment_app.users.cli:user",
}


class Commands(AppGroup):
    """The application's commands, each imported when it is first asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *LAZY})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in LAZY:
            return super().get_command(ctx, name)
        module, _, attribute = LAZY[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


class Group(AppGroup):
    """Commands whose refusals are printed and exit with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AppError as error:
            raise click.ClickException(_told(error)) from None
        except ModelError as error:
            raise click.ClickException(f"{error}.") from None
        except DBAPIError as error:
            if not is_disconnect(error):
                raise
            raise click.ClickException("The database cannot be reached; see DATABASE_URL.") from None


def print_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def _told(error: AppError) -> str:
    fields = [f"{one['pointer'].removeprefix('/')}: {one['detail']}" for one in error.errors or []]
    return "\n".join(fields) or error.detail


config = Group("config", help="The settings, as this process reads them.")


@config.command("check")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
