"""Settings: read once from the environment, typed, frozen, every problem reported at once.

Any setting may be given as `NAME_FILE`, the path of a file that holds the value: that is how
secrets arrive (systemd's LoadCredential, Docker secrets), so they stand in no environment.
"""

import ipaddress
import math
import os
import re
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

import limits
from environs import EnvValidationError, FileAwareEnv, ValidationError, validate
from flask.helpers import get_debug_flag
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

MIN_SECRET_LENGTH = 32
MIN_SECRET_ALPHABET = 10


class ConfigError(Exception):
    """Settings that cannot be used; the message names every problem, one a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the configuration is not usable:\n  " + "\n  ".join(problems))
        self.problems = problems


def _is_postgresql(url: str) -> None:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # which may quote a part of it
        raise ValidationError("is not a URL") from None
    if parsed.drivername not in ("postgresql", "postgresql+psycopg2"):
        raise ValidationError("must start with postgresql://")
    if not parsed.database:
        raise ValidationError("names no database")


def _is_redis(url: str) -> None:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValidationError("must start with redis://, rediss:// or unix://")
    try:
        parsed = urlsplit(url)
        well_formed = url.startswith("unix://") or (bool(parsed.hostname) and parsed.port != 0)
    except ValueError:  # which may quote a part of the password
        well_formed = False
    if not well_formed:
        raise ValidationError("is not a URL; a / or other sign in its password must be percent-encoded")
    if not url.startswith("unix://") and not re.fullmatch(r"/?\d*", parsed.path):
        raise ValidationError("names its database by a number, such as redis://host:6379/0")


def _is_strong(secret: str) -> None:
    if len(secret) < MIN_SECRET_LENGTH or len(set(secret)) < MIN_SECRET_ALPHABET:
        raise ValidationError(
            f"is weak: give at least {MIN_SECRET_LENGTH} random characters, for instance from: openssl rand -base64 48"
        )


def _is_rate(text: str) -> None:
    try:
        rates = limits.parse_many(text)
    except ValueError:
        rates = []
    if len(rates) != 1 or rates[0].amount < 1:
        raise ValidationError("is not one rate, such as: 10 per minute")


def _is_finite(number: float) -> None:
    if not math.isfinite(number):
        raise ValidationError("must be a number, not NaN or an infinity")


def _are_networks(names: list[str]) -> None:
    for name in names:
        try:
            ipaddress.ip_network(name)
        except ValueError:
            raise ValidationError(f"{name} is no network, such as 10.1.0.0/16") from None


_at_least_one = validate.Range(min=1, max=2**31 - 1)
_days = validate.Range(min=1, max=36_500)
_seconds = validate.Range(min=1, max=86_400 * 365)
_above_zero = validate.Range(min=0.001, max=86_400)  # less than a millisecond would be no bound for PostgreSQL
_REQUIRED: Any = object()


def _setting(doc: str, default: Any = _REQUIRED, *, check: Any = None, secret: bool = False) -> Any:
    return field(metadata={"doc": doc, "default": default, "check": check, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole configuration: the field `name` is read from the variable `NAME`."""

    environment: str = _setting(
        "development, testing or production: they differ in values only; unset, it is production, and yet reads .env "
        "(which any flask command reads that finds one)",
        "production",
        check=validate.OneOf(["development", "testing", "production"]),
    )
    debug: bool = _setting("Flask's debug mode; refused in production", False)
    log_level: str = _setting(
        "least level that is logged",
        "INFO",
        check=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"]),
    )
    release: str = _setting("what is deployed (a git revision); shown by /version", "unreleased")

    database_url: str = _setting("PostgreSQL: postgresql://user:password@host/name", check=_is_postgresql, secret=True)
    database_pool_size: int = _setting(
        "connections a web process keeps (it opens as many again under load)",
        5,
        check=_at_least_one,
    )
    database_retry_seconds: float = _setting(
        "how long a unit of work is tried again while PostgreSQL is away",
        10.0,
        check=validate.Range(min=0, max=86_400),
    )
    database_statement_seconds: float = _setting(
        "bound on one statement; past it the request is answered with 503", 10.0, check=_above_zero
    )
    redis_url: str = _setting("Redis or Valkey: redis://, rediss:// or unix://", check=_is_redis, secret=True)
    redis_timeout_seconds: float = _setting(
        "bound on a Redis call; past it the fallback answers", 0.25, check=_above_zero
    )

    jwt_secret_key: str = _setting("signs the tokens; 32 random characters or more", check=_is_strong, secret=True)
    access_token_seconds: int = _setting("life of an access token", 900, check=_seconds)
    refresh_token_days: int = _setting("life of an unused refresh token", 30, check=_days)
    password_memory_kib: int = _setting(
        "argon2id memory in KiB (RFC 9106, second recommended option)",
        65536,
        check=validate.Range(min=32),
    )
    password_iterations: int = _setting(
        "argon2id passes; an account takes changed costs over at its next sign-in", 3, check=_at_least_one
    )

    auth_rate_limit: str = _setting(
        "register, login and refresh together, per client address", "20 per minute", check=_is_rate
    )
    login_rate_limit: str = _setting(
        "login per account, from whatever address; and changes of the own profile, per user",
        "10 per minute",
        check=_is_rate,
    )
    user_rate_limit: str = _setting("signed-in calls other than scoring, per user", "300 per minute", check=_is_rate)
    scoring_rate_limit: str = _setting("POST /sentiment/analyze, per user", "6000 per minute", check=_is_rate)

    model_signing_key: str = _setting(
        "signs the manifests of released models; 32 random characters or more",
        check=_is_strong,
        secret=True,
    )
    model_poll_seconds: float = _setting(
        "how often a process asks which model is active; 0: before each use",
        2.0,
        check=validate.Range(min=0, max=86_400),
    )
    model_dir: Path = _setting("where trained models are kept", Path("models"))
    model_cache_dir: Path = _setting("where a host keeps the released models that it loaded", Path("models/cache"))
    data_dir: Path = _setting("cache of downloaded training data", Path("data"))

    max_tasks: int = _setting("unfinished tasks that a user may have", 10, check=_at_least_one)
    max_queued_rows: int = _setting("rows that may wait in a user's tasks", 3_000_000, check=_at_least_one)
    max_upload_rows: int = _setting("rows of an upload", 1_000_000, check=_at_least_one)
    max_upload_bytes: int = _setting("bytes of an upload, after decompression", 512 * 1024**2, check=_at_least_one)
    upload_seconds: float = _setting("seconds that an upload may take to arrive", 3600.0, check=_above_zero)
    max_held_requests: int = _setting(
        "requests that may wait for a task, at a time in each web process; as many uploads may be read, and as many "
        "results sent as files, half of them one user's",
        4,
        check=_at_least_one,
    )
    history_days: int = _setting("how long a scored text stands in its user's history", 365, check=_days)
    task_days: int = _setting("how long a task that has ended is kept", 30, check=_days)
    webhook_networks: list[str] = _setting(
        "networks inside the house that webhooks may go to, such as 10.1.0.0/16,fd00::/8", [], check=_are_networks
    )

    trusted_proxies: int = _setting(
        "reverse proxies in front whose X-Forwarded-For and -Proto are believed",
        0,
        check=validate.Range(min=0),
    )
    metrics_bind: str = _setting(
        "the internal address on which alone /metrics is served: host:port or unix:/path",
        "127.0.0.1:9464",
        check=validate.Regexp(r"unix:/.+|.+:\d+", error="is neither host:port nor unix:/path"),
    )

    @classmethod
    def from_env(cls) -> Self:
        """Read and check the environment, and `.env` unless it is testing or production.

        Raises:
            ConfigError: naming every missing, malformed or weak setting.
        """
        env = FileAwareEnv(eager=False, strip_whitespace=True)
        if os.environ.get("ENVIRONMENT", "development") == "development":
            env.read_env(".env", recurse=False)
        try:
            values = {one.name: _read(env, one.name, one.type, one.metadata) for one in fields(cls)}
            env.seal()
        except EnvValidationError as error:
            raise ConfigError(_problems(error)) from None
        except ValueError as error:  # a NAME_FILE that cannot be read
            raise ConfigError([str(error)]) from None
        if values["environment"] == "production" and (values["debug"] or get_debug_flag()):
            raise ConfigError(["DEBUG: must be off in production, as must FLASK_DEBUG"])
        # SQLAlchemy 2.1 takes a bare postgresql:// to mean psycopg 3; ours is psycopg2.
        values["database_url"] = values["database_url"].replace("postgresql://", "postgresql+psycopg2://", 1)
        return cls(**values)

    @property
    def access_token_life(self) -> timedelta:
        return timedelta(seconds=self.access_token_seconds)

    @property
    def task_life(self) -> timedelta:
        return timedelta(days=self.task_days)

    @property
    def refresh_token_life(self) -> timedelta:
        return timedelta(days=self.refresh_token_days)

    def masked(self) -> dict[str, str]:
        """Every setting as text for an operator's eyes, secrets hidden."""
        return {
            one.name.upper(): "(set)" if one.metadata["secret"] else str(getattr(self, one.name))
            for one in fields(self)
        }


def _read(env: FileAwareEnv, name: str, kind: Any, metadata: Any) -> Any:
    parse = getattr(env, "path" if kind is Path else kind.__name__)  # list[str] is named list
    default = {} if metadata["default"] is _REQUIRED else {"default": metadata["default"]}
    checks = [metadata["check"]] if metadata["check"] else []
    if kind is float:
        checks.insert(0, _is_finite)
    return parse(name.upper(), validate=checks, **default)


def _problems(error: EnvValidationError) -> list[str]:
    return [
        f"{name}: {' '.join(str(message) for message in messages).rstrip('.')}"
        for name, messages in sorted(cast("dict[str, list[str]]", error.error_messages).items())
    ]
