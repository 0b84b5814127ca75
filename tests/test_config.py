import pytest

from sentiment_app.config import ConfigError, Settings

VALID_SETTINGS = {
    "ENVIRONMENT": "production",
    "DATABASE_URL": "postgresql://u:p@db/sentiment",
    "REDIS_URL": "redis://redis:6379/0",
    "JWT_SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz",
    "API_KEY_HASH_KEY": "abcdefghijklmnopqrstuvwxyz0123456789",
    "MODEL_SIGNING_KEY": "zyxwvutsrqponmlkjihgfedcba9876543210",
}


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in list(__import__("os").environ):
        if name in VALID_SETTINGS or name.endswith("_FILE"):
            monkeypatch.delenv(name)

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def problems():
    with pytest.raises(ConfigError) as caught:
        Settings.from_env()
    return {line.partition(":")[0] for line in caught.value.problems}


@pytest.mark.asvs("13.4.2")
def test_defaults_are_for_production(environment):
    environment(**VALID_SETTINGS)
    settings = Settings.from_env()
    assert settings.debug is False
    assert settings.database_url == "postgresql+psycopg2://u:p@db/sentiment"


@pytest.mark.asvs("11.4.2")
def test_passwords_are_hashed_as_owasp_recommends(environment):
    """OWASP Password Storage Cheat Sheet: argon2id with 19 MiB and 2 passes."""
    environment(**VALID_SETTINGS)
    settings = Settings.from_env()
    assert settings.password_memory_kib >= 19 * 1024
    assert settings.password_iterations >= 2


def test_all_problems_are_reported_at_once(environment):
    environment(ENVIRONMENT="staging", JWT_SECRET_KEY="short", REDIS_URL="http://x", METRICS_BIND="0")
    assert problems() == {
        "ENVIRONMENT",
        "DATABASE_URL",
        "REDIS_URL",
        "JWT_SECRET_KEY",
        "API_KEY_HASH_KEY",
        "MODEL_SIGNING_KEY",
        "METRICS_BIND",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_RETRY_SECONDS", "nan"),
        ("MODEL_POLL_SECONDS", "inf"),
        ("UPLOAD_SECONDS", "Infinity"),
        ("MODEL_POLL_SECONDS", "1e300"),
        ("DATABASE_STATEMENT_SECONDS", "0.0001"),
        ("JWT_SECRET_KEY", "a" * 64),
        ("JWT_SECRET_KEY", ""),
        ("DATABASE_URL", "sqlite:///x"),
        ("DATABASE_URL", "postgresql://host"),
        ("DATABASE_URL", "nonsense"),
        ("SCORING_RATE_LIMIT", "often"),
        ("REDIS_TIMEOUT_SECONDS", "0"),
        ("SCORING_RATE_LIMIT", "300 per minute; 5 per second"),
        ("SCORING_RATE_LIMIT", "0 per minute"),
        ("REDIS_URL", "redis://:s3cr/et@host:6379/0"),
        ("REDIS_URL", "redis://host:abc"),
        ("REDIS_URL", "redis://host/notadb"),
        ("DATABASE_URL", "postgresql://u:p@db:abc/sentiment"),
        ("REFRESH_TOKEN_DAYS", "99999999999"),
        ("DEBUG", "perhaps"),
    ],
)
def test_weak_or_malformed_value_is_refused(environment, name, value):
    environment(**(VALID_SETTINGS | {name: value}))
    assert problems() == {name}


@pytest.mark.asvs("16.5.1")
@pytest.mark.parametrize("url", ["redis://:s3cr/et@host:6379/0", "redis://:%2Fs3cr@host:s3cr"])
def test_problems_quote_no_secret(environment, url):
    environment(**(VALID_SETTINGS | {"REDIS_URL": url, "DATABASE_URL": "postgresql://u:s3cr/et@db:1/x"}))
    with pytest.raises(ConfigError) as caught:
        Settings.from_env()
    assert "s3cr" not in str(caught.value)


@pytest.mark.asvs("13.4.2")
@pytest.mark.parametrize("name", ["DEBUG", "FLASK_DEBUG"])
def test_production_refuses_debug(environment, name):
    environment(**VALID_SETTINGS, **{name: "true"})
    assert problems() == {"DEBUG"}


def test_secret_can_be_given_as_file(environment, tmp_path):
    (tmp_path / "secret").write_text("a secret from a file, long enough\n")
    without = {name: value for name, value in VALID_SETTINGS.items() if name != "JWT_SECRET_KEY"}
    environment(**without, JWT_SECRET_KEY_FILE=str(tmp_path / "secret"))
    assert Settings.from_env().jwt_secret_key == "a secret from a file, long enough"


def test_missing_secret_file_is_reported(environment):
    environment(**VALID_SETTINGS, JWT_SECRET_KEY_FILE="/nowhere")
    with pytest.raises(ConfigError, match="JWT_SECRET_KEY_FILE"):
        Settings.from_env()


@pytest.mark.parametrize(("name", "read"), [("development", True), ("production", False)])
def test_dotenv_file_is_read_only_in_development(environment, tmp_path, name, read):
    (tmp_path / ".env").write_text("RELEASE=from-the-file\n")
    environment(**(VALID_SETTINGS | {"ENVIRONMENT": name}))
    assert (Settings.from_env().release == "from-the-file") is read


def test_file_that_was_not_read_is_reported(environment, tmp_path):
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://localhost/x\n")
    environment()
    with pytest.raises(ConfigError, match="Set ENVIRONMENT=development to read it"):
        Settings.from_env()


def test_masked_settings_show_no_secret(environment):
    environment(**VALID_SETTINGS)
    shown = Settings.from_env().masked()
    assert shown["JWT_SECRET_KEY"] == shown["DATABASE_URL"] == "(set)"
    assert not any(secret in str(shown) for secret in VALID_SETTINGS.values() if secret != "production")
