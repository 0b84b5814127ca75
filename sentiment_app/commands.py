"""The tree of all commands, for `sentiment` and for `flask`.

It has the name, the place and the summary of each command, so that help and completion import neither Flask nor the
application. A test compares the summaries with the commands.
"""

import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from sentiment_app import __version__

APPLICATION = "sentiment_app.app:create_app_for_command"

EXIT_STATUS = (
    ("0", "The command succeeded."),
    ("1", "It failed or was refused, or the task that it followed did not complete. The reason is on standard error."),
    ("2", "The arguments are not valid."),
)


class Lazy(NamedTuple):
    """A command that is imported when it is needed: its place, as "module:attribute", and its summary."""

    place: str
    summary: str


def first_paragraph(text: str) -> str:
    """The first paragraph of a help text, as one line."""
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


def write_examples(formatter: click.HelpFormatter, examples: Iterable[str]) -> None:
    """Write each example on a line of its own, so that it can be copied."""
    with formatter.section("Examples"):
        for example in examples:
            formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class Group(click.Group):
    """Commands in sections, which are imported at first use."""

    def __init__(
        self,
        name: str,
        summary: str,
        sections: Mapping[str, Mapping[str, "Lazy | Group"]],
        examples: Sequence[str],
        **options: Any,
    ) -> None:
        super().__init__(name, help=summary, short_help=summary, **options)
        self.sections = sections
        self.entries = {name: entry for entries in sections.values() for name, entry in entries.items()}
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        entry = self.entries.get(name)
        if not isinstance(entry, Lazy):
            return entry
        ctx.obj = ctx.obj or _make_script_info()  # the command `flask` has made it already
        command: click.Command = _load(entry.place)
        if isinstance(command, click.Group):  # of a library, whose summaries click would truncate
            for inner in command.commands.values():
                inner.short_help = first_paragraph(inner.help or "")
        return command

    def summary_of(self, name: str) -> str:
        """The summary of a command, without importing it."""
        entry = self.entries[name]
        return entry.summary if isinstance(entry, Lazy) else entry.short_help or ""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.entries))
        for title, entries in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), self.summary_of(name)) for name in entries])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [name for name in self.entries if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=self.summary_of(name)) for name in names]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]


class Root(Group):
    """All commands. Its help explains the exit status."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit status"):
            formatter.write_dl(EXIT_STATUS)
        formatter.write_paragraph()
        formatter.write_text(
            "Commands that print data take --json. Its times are in UTC, in the format of RFC 3339. "
            "Get help on a command with: sentiment COMMAND --help"
        )


def _make_script_info() -> Any:
    """Make what Flask's commands find the application with, and read `.env`, as the command `flask` does."""
    flask_cli = importlib.import_module("flask.cli")
    flask_cli.load_dotenv()
    return flask_cli.ScriptInfo(create_app=_create_app, set_debug_flag=False)


def _create_app() -> Any:
    return _load(APPLICATION)()


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


_MODEL = "sentiment_app.registry.cli"
_TRAINING = "sentiment_app.registry.cli_training"
_TASKS = "sentiment_app.tasks.cli"
_USER = "sentiment_app.users.cli"

FEEDBACK = Group(
    "feedback",
    "Export the labels that users gave to texts.",
    {
        "Commands": {
            "export": Lazy(
                "sentiment_app.feedback.cli:export",
                "Write the text and the label of all feedback as NDJSON, the newest label first.",
            )
        }
    },
    ["sentiment model feedback export -o feedback.ndjson"],
)

MODEL = Group(
    "model",
    "Train, evaluate, release, activate and roll back models.",
    {
        "Use": {
            "score": Lazy(f"{_MODEL}:score", "Score a text. Nothing is stored."),
            "explain": Lazy(
                "sentiment_app.sentiment.cli:explain",
                "Show how a text is read, and what each of its terms contributes to the score. Nothing is stored.",
            ),
            "info": Lazy(f"{_MODEL}:info", "Show the active model. The exit status is 1 if no model is active."),
        },
        "Make": {
            "train": Lazy(f"{_TRAINING}:train", "Train a model, and store it with its manifest."),
            "import": Lazy(
                f"{_TRAINING}:import_model",
                "Import a classifier of another origin, to release it and serve it as it is.",
            ),
            "evaluate": Lazy(f"{_TRAINING}:evaluate", "Evaluate a model on labelled texts. Default: the active model."),
            "feedback": FEEDBACK,
        },
        "Inspect": {
            "list": Lazy(
                f"{_MODEL}:index", "List the models that were trained on this machine or released, newest first."
            ),
            "show": Lazy(
                f"{_MODEL}:show", "Show the metrics of a model on held-out texts. With --json, show its whole manifest."
            ),
            "card": Lazy(f"{_MODEL}:card", "Print the model card as Markdown."),
            "log": Lazy(
                f"{_MODEL}:log",
                "Show the audit log, newest first: who released, activated or retired a model, and what was refused.",
            ),
            "verify": Lazy(
                f"{_MODEL}:verify",
                "Check the signature, digest and golden texts of released models. Default: all models that are not "
                "retired.",
            ),
        },
        "Serve": {
            "release": Lazy(
                f"{_MODEL}:release", "Put a trained model into the registry, from where every host loads it."
            ),
            "activate": Lazy(
                f"{_MODEL}:activate",
                "Activate a released model. All processes serve it within seconds, without a restart.",
            ),
            "rollback": Lazy(
                f"{_MODEL}:rollback",
                "Activate the previous model, without a restart. A second rollback undoes the first.",
            ),
            "retire": Lazy(
                f"{_MODEL}:retire", "Retire a released model: it cannot be activated, and requests cannot name it."
            ),
            "sign": Lazy(
                f"{_MODEL}:sign", "Sign all released models again, after MODEL_SIGNING_KEY has replaced an old key."
            ),
        },
    },
    [
        'sentiment model score "The room was small but lovely." --explain',
        "sentiment model train --activate",
        "sentiment model activate 20261123-0a1b2c3d",
        "sentiment model rollback",
    ],
)

TASKS = Group(
    "tasks",
    "Score files of texts, and manage the tasks of all users.",
    {
        "Commands": {
            "submit": Lazy(
                f"{_TASKS}:submit",
                "Submit a file as a task: .csv, .tsv, .txt, .ndjson, .jsonl, .json, .xlsx or .parquet.",
            ),
            "list": Lazy(f"{_TASKS}:index", "List tasks, newest first."),
            "show": Lazy(
                f"{_TASKS}:show", "Show a task. With --follow, the exit status is 1 if it fails or is cancelled."
            ),
            "results": Lazy(f"{_TASKS}:results", "Print the results of a task."),
            "cancel": Lazy(f"{_TASKS}:cancel", "Cancel a task. Finished results stay."),
            "retry": Lazy(f"{_TASKS}:retry", "Score the failed and unscored rows of a task again."),
            "reconcile": Lazy(
                f"{_TASKS}:reconcile",
                "Requeue work that was lost when a worker or Redis failed, and send webhooks that are due.",
            ),
        }
    },
    [
        "sentiment tasks submit reviews.csv --user ada --column review --follow",
        "sentiment tasks list --status running",
        "sentiment tasks results 01a20810-6c0c-7378-b5fe-cfc50592fba5 --format xlsx > results.xlsx",
    ],
)

USER = Group(
    "user",
    "Create, change and delete accounts, with their rights, passwords, API keys and quotas.",
    {
        "Accounts": {
            "create": Lazy(f"{_USER}:create", "Create an account. The command asks for its password."),
            "list": Lazy(f"{_USER}:index", "List all accounts in the order of their registration."),
            "invite": Lazy(f"{_USER}:invite", "Print an invitation, with which somebody can register once."),
            "deactivate": Lazy(
                f"{_USER}:deactivate", "Deactivate an account. Its sessions end at once. --undo activates it again."
            ),
            "delete": Lazy(
                "sentiment_app.privacy.cli:delete",
                "Delete an account, and erase everything that belongs to it: texts, tasks, results, sessions and keys.",
            ),
        },
        "Rights": {
            "promote": Lazy(f"{_USER}:promote", "Make an account an administrator."),
            "demote": Lazy(f"{_USER}:demote", "Make an administrator an ordinary user."),
        },
        "Passwords": {
            "welcome": Lazy(
                f"{_USER}:welcome",
                "Print a link with which the first administrator chooses a password in the console.",
            ),
            "password-link": Lazy(
                f"{_USER}:password_link",
                "Print a link with which a user chooses a new password once, in the console.",
            ),
            "reset-password": Lazy(
                f"{_USER}:reset_password", "Set a new password. All sessions of the account end at once."
            ),
        },
        "API keys": {
            "create-key": Lazy(f"{_USER}:create_key", "Create an API key, and print it. It cannot be read again."),
            "keys": Lazy(f"{_USER}:keys", "List the API keys of a user, newest first."),
            "revoke-key": Lazy(f"{_USER}:revoke_key", "Revoke an API key. It is refused from the next request on."),
        },
        "Usage": {
            "usage": Lazy(
                "sentiment_app.usage.cli:usage",
                "Show how many rows a user has scored, by day, API key and model, and the user's quotas.",
            ),
            "set-quota": Lazy(
                "sentiment_app.usage.cli:set_quota",
                "Limit how many rows a user may score in a day or a month (UTC).",
            ),
        },
    },
    [
        "sentiment user create ada ada@example.org --admin",
        "sentiment user create-key ada --name import --scope score --scope tasks",
        "sentiment user demote ada",
    ],
)

AUTH = Group(
    "auth",
    "Manage the keys that sign tokens.",
    {
        "Commands": {
            "list-keys": Lazy(
                "sentiment_app.auth.cli:list_keys", "List the keys that sign or verify tokens, the newest first."
            ),
            "rotate-key": Lazy("sentiment_app.auth.cli:rotate_key", "Sign tokens with a new key."),
        }
    },
    ["sentiment auth rotate-key"],
)

AUDIT = Group(
    "audit",
    "Read the audit log.",
    {"Commands": {"list": Lazy("sentiment_app.audit.cli:index", "List the audit log, newest first.")}},
    ["sentiment audit list --event authn_login_fail --since 2026-11-01"],
)

CONFIG = Group(
    "config",
    "Check the settings.",
    {"Commands": {"check": Lazy("sentiment_app.cli:check", "Check the settings, and print them with masked secrets.")}},
    ["sentiment config check"],
)

ROOT = Root(
    "sentiment",
    "Manage the models, tasks and accounts of the sentiment service.",
    {
        "Models and scoring": {"model": MODEL, "tasks": TASKS},
        "Accounts": {"user": USER, "auth": AUTH, "audit": AUDIT},
        "Operation": {
            "config": CONFIG,
            "logs": Lazy("sentiment_app.log_search.cli:logs", "Search the log lines of the service, oldest first."),
            "db": Lazy("flask_migrate.cli:db", "Migrate the database to the schema of this release."),
            "purge": Lazy(
                "sentiment_app.maintenance:purge_command",
                "Delete what has expired: results, history, sessions, API keys, deleted tasks and accounts, and the "
                "audit log.",
            ),
        },
        "Development": {
            "routes": Lazy("flask.cli:routes_command", "Show the routes of the API and the console."),
            "run": Lazy("flask.cli:run_command", "Run a development server. In production, gunicorn serves."),
            "shell": Lazy("flask.cli:shell_command", "Run a Python shell with the application."),
        },
    },
    [
        'sentiment model score "The screen is not bad at all :)"',
        "sentiment tasks submit reviews.csv --user ada --column review --follow",
        "sentiment user create ada ada@example.org --admin",
        "sentiment db upgrade",
    ],
)
click.version_option(__version__, message="%(version)s")(ROOT)
