"""Settings: read once from the environment, typed and frozen. All problems are reported at once.

Each setting NAME can also be given as NAME_FILE, the path of a file that contains the value. Secrets are given this way
(systemd's LoadCredential, Docker secrets), so that no environment contains them.
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
# The clocks of two hosts may differ by seconds, so a token is also accepted this long before and after its lifetime.
CLOCK_LEEWAY = timedelta(seconds=30)
# How long a process remembers a valid API key. A key that is revoked meanwhile is refused by the check in Redis.
KEY_CACHE_LIFE = timedelta(seconds=60)
# Redis cannot count larger rates.
MAX_RATE, MAX_RATE_SECONDS = 1_000_000, 31 * 86_400
# The largest limit on the rows of a day or a month.
MAX_ROWS = 10**12


HINT = "deploy/sentiment.env.template describes each setting. scripts/dev creates a .env."


class ConfigError(Exception):
    """The settings are not valid. The message has a line for each problem."""

    def __init__(self, problems: list[str]) -> None:
        lines = ["the configuration is not valid:", *(f"  {problem}" for problem in problems), HINT]
        super().__init__("\n".join(lines))
        self.problems = problems


def _is_postgresql(url: str) -> None:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # its message may quote the password
        raise ValidationError("is not a URL") from None
    if parsed.drivername not in ("postgresql", "postgresql+psycopg2"):
        raise ValidationError("must start with postgresql://")
    if not parsed.database:
        raise ValidationError("does not name a database: write postgresql://user:password@host/name")


def _is_redis(url: str) -> None:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValidationError("must start with redis://, rediss:// or unix://")
    try:
        parsed = urlsplit(url)
        well_formed = url.startswith("unix://") or (bool(parsed.hostname) and parsed.port != 0)
    except ValueError:  # its message may quote the password
        well_formed = False
    if not well_formed:
        raise ValidationError("is not a URL. Special characters in the password, such as /, must be percent-encoded")
    if not url.startswith("unix://") and not re.fullmatch(r"/?\d*", parsed.path):
        raise ValidationError("must name its database by a number, such as redis://host:6379/0")


def _is_strong(secret: str) -> None:
    if len(secret) < MIN_SECRET_LENGTH or len(set(secret)) < MIN_SECRET_ALPHABET:
        raise ValidationError(
            f"is too weak: it needs at least {MIN_SECRET_LENGTH} random characters. Run: openssl rand -base64 48"
        )


def is_rate(text: str) -> None:
    """Check a rate, such as "10 per minute".

    Raises:
        ValidationError: it is not a rate.
    """
    try:
        rates = limits.parse_many(text)
    except ValueError:
        rates = []
    if len(rates) != 1 or not 1 <= rates[0].amount <= MAX_RATE or rates[0].get_expiry() > MAX_RATE_SECONDS:
        raise ValidationError("is not a rate such as 10 per minute, of at most 1,000,000 in at most 31 days")


def _is_finite(number: float) -> None:
    if not math.isfinite(number):
        raise ValidationError("must be a number, not NaN or an infinity")


def _are_networks(names: list[str]) -> None:
    for name in names:
        try:
            ipaddress.ip_network(name)
        except ValueError:
            raise ValidationError(f"{name} is not a network, such as 10.1.0.0/16") from None


def _are_origins(origins: list[str]) -> None:
    for origin in origins:
        if not re.fullmatch(r"https?://[a-z0-9.-]+(?::[0-9]{1,5})?", origin):
            raise ValidationError(f"{origin} is not an origin, such as https://app.example.org (without a path)")


_at_least_one = validate.Range(min=1, max=2**31 - 1)
_rows = validate.Range(min=0, max=MAX_ROWS)
_days = validate.Range(min=1, max=36_500)
_seconds = validate.Range(min=1, max=86_400 * 365)
_above_zero = validate.Range(min=0.001, max=86_400)  # PostgreSQL treats a timeout below a millisecond as no limit
_REQUIRED: Any = object()


def _setting(doc: str, default: Any = _REQUIRED, *, check: Any = None, secret: bool = False) -> Any:
    return field(metadata={"doc": doc, "default": default, "check": check, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings. The field `name` is read from the environment variable `NAME`."""

    environment: str = _setting(
        "development, testing or production. Flask commands load .env in every environment if the file exists.",
        "production",
        check=validate.OneOf(["development", "testing", "production"]),
    )
    debug: bool = _setting("Flask's debug mode. Not allowed in production.", False)
    log_level: str = _setting(
        "The lowest level that is logged: DEBUG, INFO, WARNING or ERROR.",
        "INFO",
        check=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"]),
    )
    release: str = _setting("The deployed git revision, shown by /version.", "unreleased")

    database_url: str = _setting("PostgreSQL: postgresql://user:password@host/name.", check=_is_postgresql, secret=True)
    database_pool_size: int = _setting(
        "Connections that a web process keeps open. Under load it opens up to twice as many.",
        5,
        check=_at_least_one,
    )
    database_retry_seconds: float = _setting(
        "How long a transaction is retried while PostgreSQL does not answer, in seconds.",
        10.0,
        check=validate.Range(min=0, max=86_400),
    )
    database_statement_seconds: float = _setting(
        "Timeout of a statement in seconds. After it, the request is answered with 503.", 10.0, check=_above_zero
    )
    redis_url: str = _setting("Redis or Valkey: redis://, rediss:// or unix://.", check=_is_redis, secret=True)
    redis_timeout_seconds: float = _setting(
        "Timeout of a call to Redis in seconds. After it, the service works without Redis.", 0.25, check=_above_zero
    )

    jwt_secret_key: str = _setting(
        "The keys that sign access and refresh tokens are derived from it. At least 32 random characters. "
        "A change ends all sessions; to rotate the keys, run: sentiment auth rotate-key.",
        check=_is_strong,
        secret=True,
    )
    api_key_hash_key: str = _setting(
        "API keys are stored as hashes under this key. At least 32 random characters. "
        "A change invalidates all API keys.",
        check=_is_strong,
        secret=True,
    )
    access_token_seconds: int = _setting("How long an access token is valid, in seconds.", 900, check=_seconds)
    refresh_token_days: int = _setting("How long an unused refresh token is valid, in days.", 30, check=_days)
    session_days: int = _setting(
        "How long a session can be renewed after the sign-in, in days. Then its user signs in again.", 90, check=_days
    )
    password_min_length: int = _setting(
        "The fewest characters of a new password. NIST SP 800-63B-4 asks for 15 if a password is the only factor.",
        8,
        check=validate.Range(min=8, max=64),
    )
    password_memory_kib: int = _setting(
        "Memory of argon2id in KiB (as OWASP recommends).",
        19456,
        check=validate.Range(min=32),
    )
    password_iterations: int = _setting(
        "Passes of argon2id. After a change, each password is hashed again at its next sign-in.", 2, check=_at_least_one
    )

    registration: str = _setting(
        "Who may register: open (everybody), invitation (with an invitation of an administrator) or closed.",
        "open",
        check=validate.OneOf(["open", "invitation", "closed"]),
    )
    cors_origins: list[str] = _setting(
        "Origins whose web pages may call the API (CORS), such as https://app.example.org, separated by commas. None "
        "may by default.",
        [],
        check=_are_origins,
    )
    auth_rate_limit: str = _setting(
        "Rate limit of register, login and refresh together, by client address.", "20 per minute", check=is_rate
    )
    login_rate_limit: str = _setting(
        "Rate limit of failed sign-ins, by account and client address. Also the rate limits of profile changes and "
        "of redeliveries, by user.",
        "10 per minute",
        check=is_rate,
    )
    key_rate_limit: str = _setting(
        "Rate limit of API keys that a process has not seen in the last minute, by client address.",
        "1000 per minute",
        check=is_rate,
    )
    user_rate_limit: str = _setting("Rate limit of all other requests, by user.", "300 per minute", check=is_rate)
    scoring_rate_limit: str = _setting(
        "Rate limit of POST /sentiment/analyze, by user.", "6000 per minute", check=is_rate
    )

    model_signing_key: str = _setting(
        "Signs the manifests of released models. At least 32 random characters.",
        check=_is_strong,
        secret=True,
    )
    model_poll_seconds: float = _setting(
        "How often a process looks up the active model, in seconds. 0 looks it up before each use.",
        2.0,
        check=validate.Range(min=0, max=86_400),
    )
    other_languages: str = _setting(
        "What happens to texts in another language than the model's: mark (they are scored, with a warning), score "
        "(without a warning) or refuse.",
        "mark",
        check=validate.OneOf(["mark", "score", "refuse"]),
    )
    model_dir: Path = _setting("Folder of trained models.", Path("models"))
    model_cache_dir: Path = _setting(
        "Folder in which a host caches the released models that it loads.", Path("models/cache")
    )
    data_dir: Path = _setting("Folder of downloaded training data.", Path("data"))

    rows_per_day: int = _setting(
        "How many rows an account may score in a day (UTC), singly and in tasks. 0 sets no limit. Administrators can "
        "set another limit for an account.",
        0,
        check=_rows,
    )
    rows_per_month: int = _setting("The same limit for a calendar month (UTC).", 0, check=_rows)
    max_tasks: int = _setting("Limit on the unfinished tasks of a user.", 10, check=_at_least_one)
    max_queued_rows: int = _setting("Limit on the rows in a user's unfinished tasks.", 3_000_000, check=_at_least_one)
    max_upload_rows: int = _setting("Limit on the rows of an upload.", 1_000_000, check=_at_least_one)
    max_upload_bytes: int = _setting(
        "Limit on the bytes of an upload, after decompression.", 512 * 1024**2, check=_at_least_one
    )
    upload_seconds: float = _setting("Timeout of an upload in seconds.", 3600.0, check=_above_zero)
    max_held_requests: int = _setting(
        "Limit on the requests that wait for a task at the same time in a web process. The same limit applies to "
        "uploads, and to downloads of results. A user, and a network, may use half of it.",
        4,
        check=_at_least_one,
    )
    history_days: int = _setting("How long scored texts stay in the history, in days.", 365, check=_days)
    task_days: int = _setting("How long finished tasks and their results are kept, in days.", 30, check=_days)
    audit_days: int = _setting(
        "How long the audit log is kept, in days. At least 90.", 400, check=validate.Range(min=90, max=36_500)
    )
    webhook_networks: list[str] = _setting(
        "Internal networks that webhooks may reach, such as 10.1.0.0/16,fd00::/8. By default only public addresses.",
        [],
        check=_are_networks,
    )

    trusted_proxies: int = _setting(
        "Number of reverse proxies in front whose X-Forwarded-For and X-Forwarded-Proto headers are trusted.",
        0,
        check=validate.Range(min=0),
    )
    metrics_bind: str = _setting(
        "Internal address of /metrics: host:port or unix:/path. No other address serves /metrics.",
        "127.0.0.1:9464",
        check=validate.Regexp(r"unix:/.+|.+:\d+", error="is neither host:port nor unix:/path"),
    )

    otel_exporter_otlp_endpoint: str = _setting(
        "Records traces, and sends them to this OpenTelemetry collector (OTLP over HTTP), such as "
        "http://127.0.0.1:4318. Needs the extra otel. No traces are recorded by default.",
        "",
        check=validate.Regexp(
            r"(https?://[^\s/@]+(/[^\s@]*)?)?$",
            error="is not a URL without a password, such as http://127.0.0.1:4318. For a password, set "
            "OTEL_EXPORTER_OTLP_HEADERS",
        ),
    )
    otel_service_name: str = _setting("The name of the service in traces.", "sentiment")
    otel_traces_sampler_arg: float = _setting(
        "The share of requests whose traces are recorded, from 0 to 1.", 1.0, check=validate.Range(min=0, max=1)
    )

    @classmethod
    def from_env(cls) -> Self:
        """Read and check the environment, and also `.env` in development.

        Raises:
            ConfigError: settings are missing, malformed or weak.
        """
        env = FileAwareEnv(eager=False, strip_whitespace=True)
        if os.environ.get("ENVIRONMENT") == "development":
            env.read_env(".env", recurse=False)
        try:
            values = {field.name: _read(env, field.name, field.type, field.metadata) for field in fields(cls)}
            env.seal()
        except EnvValidationError as error:
            raise ConfigError(_problems(error) + _ignored_file_problem()) from None
        except ValueError as error:  # a NAME_FILE cannot be read
            raise ConfigError([str(error)]) from None
        if values["environment"] == "production" and (values["debug"] or get_debug_flag()):
            raise ConfigError(["DEBUG: DEBUG and FLASK_DEBUG must be off in production"])
        # SQLAlchemy 2.1 reads a bare postgresql:// as psycopg 3. This service uses psycopg2.
        values["database_url"] = values["database_url"].replace("postgresql://", "postgresql+psycopg2://", 1)
        return cls(**values)

    @property
    def access_token_life(self) -> timedelta:
        return timedelta(seconds=self.access_token_seconds)

    @property
    def session_life(self) -> timedelta:
        return timedelta(days=self.session_days)

    @property
    def ended_session_life(self) -> timedelta:
        """How long a token of an ended session, or a revoked key, may still pass all other checks."""
        return max(self.access_token_life, KEY_CACHE_LIFE) + CLOCK_LEEWAY

    @property
    def task_life(self) -> timedelta:
        return timedelta(days=self.task_days)

    @property
    def refresh_token_life(self) -> timedelta:
        return timedelta(days=self.refresh_token_days)

    def masked(self) -> dict[str, str]:
        """All settings as text, with masked secrets."""
        return {
            field.name.upper(): "(set)" if field.metadata["secret"] else str(getattr(self, field.name))
            for field in fields(self)
        }


def _read(env: FileAwareEnv, name: str, kind: Any, metadata: Any) -> Any:
    parse = getattr(env, "path" if kind is Path else kind.__name__)  # the name of list[str] is list
    default = {} if metadata["default"] is _REQUIRED else {"default": metadata["default"]}
    checks = [metadata["check"]] if metadata["check"] else []
    if kind is float:
        checks.insert(0, _is_finite)
    return parse(name.upper(), validate=checks, **default)


def _ignored_file_problem() -> list[str]:
    if "ENVIRONMENT" in os.environ or not Path(".env").exists():
        return []
    return ["ENVIRONMENT: is not set, so the file .env was not read. Set ENVIRONMENT=development to read it"]


def _problems(error: EnvValidationError) -> list[str]:
    return [
        f"{name}: {' '.join(str(message) for message in messages).rstrip('.')}"
        for name, messages in sorted(cast("dict[str, list[str]]", error.error_messages).items())
    ]
