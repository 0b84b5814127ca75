"""Which passwords are accepted, and the process that hashes them."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from harness import PASSWORD, ROOT

from sentiment_app.errors import UnavailableError
from sentiment_app.users import hasher, hashing, passwords
from sentiment_app.users.hashing import HASHING, HashingProcess

CHEAP = {"time_cost": 1, "memory_cost": 64, "parallelism": 1}


@pytest.fixture
def process():
    process = HashingProcess()
    yield process
    process.close()


def make_hash(process, password="correct horse"):
    return process.ask({"password": password, "costs": CHEAP})


@pytest.mark.asvs("6.2.11")
@pytest.mark.parametrize(
    "password",
    [
        "password123",
        "Lovelace!2026",
        "love.lace",
        "ada@example.org",
        "2026 ada 1815",
        "sentiment2026",
        "__SENTIMENT__",
        " " * 12,
        "\u3000" * 9,
    ],
)
def test_password_that_an_attacker_tries_first_is_refused(app, password):
    with pytest.raises(passwords.WeakPasswordError):
        passwords.check(password, username="lovelace", email="ada@example.org")


@pytest.mark.asvs("6.2.5")
@pytest.mark.parametrize("password", ["correct horse battery", "ada rides a horse", "12345 ponies", "пароль-лошадь"])
def test_other_password_is_accepted(app, password):
    passwords.check(password, username="ada", email="ada@example.org")


@pytest.mark.asvs("6.2.5")
def test_username_of_digits_refuses_no_other_digits(app):
    passwords.check("8675309 1 2 3 4", username="1815", email="1815@example.org")


def test_operator_sets_the_minimum_length(make_app):
    app = make_app(password_min_length=15)
    account = {"username": "eve", "email": "eve@example.org", "password": "fourteen chars"}
    answer = app.test_client().post("/api/v1/auth/register", json=account)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/password")
    assert "15 characters" in answer.json["errors"][0]["detail"]
    account["password"] = "fifteen letters"
    assert app.test_client().post("/api/v1/auth/register", json=account).status_code == 201


@pytest.mark.asvs("11.4.2")
def test_hash_has_the_parameters_of_the_settings(make_app):
    app = make_app(password_memory_kib=19456, password_iterations=2)
    with app.app_context():
        made = passwords.hash_password("correct horse")
        assert made.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert passwords.verify(made, "correct horse")
        assert not passwords.verify(made, "wrong horse")
        assert not passwords.verify(None, "correct horse")
        assert not passwords.is_outdated(made)
    with make_app(password_iterations=1).app_context():
        assert passwords.is_outdated(made)


@pytest.mark.parametrize("stored", ["", "!", "$2b$12$abcdefghijklmnopqrstuv"])
def test_hash_that_is_not_valid_matches_no_password(app, stored):
    assert not passwords.verify(stored, "correct horse")
    assert passwords.is_outdated(stored)


def test_decoy_has_the_form_of_a_hash(process):
    decoy = passwords._decoy_hash(**CHEAP)
    made = make_hash(process)
    assert [len(part) for part in decoy.split("$")] == [len(part) for part in made.split("$")]
    assert process.ask({"password": "x", "hash": decoy}) is False


def test_process_has_a_low_priority_and_no_secrets(process):
    make_hash(process)
    child = psutil.Process(process.pid)
    assert child.nice() >= hasher.NICENESS
    assert os.getsid(process.pid) == os.getsid(0)  # in another session, the priority would mean nothing
    assert set(child.environ()) <= {"LC_CTYPE"}  # Python sets it itself
    assert "correct" not in " ".join(child.cmdline())


def test_process_survives_ctrl_c(process):
    made = make_hash(process)
    before = process.pid
    os.kill(before, signal.SIGINT)
    assert process.ask({"password": "correct horse", "hash": made}) is True
    assert process.pid == before


def test_process_is_started_again_after_it_was_killed(process):
    made = make_hash(process)
    before = process.pid
    os.kill(before, signal.SIGKILL)
    psutil.Process(before).wait(30) if psutil.pid_exists(before) else None
    assert process.ask({"password": "correct horse", "hash": made}) is True
    assert process.pid != before


def test_process_that_does_not_answer_is_replaced(process, monkeypatch):
    make_hash(process)
    stopped = process.pid
    os.kill(stopped, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(hashing, "ANSWER_SECONDS", 0.01)
        patch.setattr(hashing, "COMMAND", [sys.executable, "-c", "import time; time.sleep(600)"])
        with pytest.raises(UnavailableError):
            make_hash(process)
    assert make_hash(process).startswith("$argon2id$")


def test_late_answer_is_not_taken_for_the_next_one(process, monkeypatch):
    made = make_hash(process)
    os.kill(process.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(hashing, "ANSWER_SECONDS", 0.01)
        patch.setattr(hashing, "COMMAND", [sys.executable, "-c", "import time; time.sleep(600)"])
        with pytest.raises(UnavailableError):
            process.ask({"password": "correct horse", "hash": made})
    assert process.ask({"password": "wrong horse", "hash": made}) is False


@pytest.mark.asvs("15.4.1")
def test_answers_of_concurrent_requests_are_not_mixed_up(process):
    hashes = {number: make_hash(process, f"password {number}") for number in range(4)}

    def is_right(number):
        shown = process.ask({"password": f"password {number % 4}", "hash": hashes[number // 4]})
        return shown is (number % 4 == number // 4)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, range(16)))


@pytest.mark.asvs("16.5.3")
def test_sign_in_is_answered_with_503_if_passwords_cannot_be_hashed(client, monkeypatch):
    monkeypatch.setattr(hashing, "COMMAND", [sys.executable, "-c", ""])
    HASHING.get(client.application).close()
    body = {"username": "ada", "password": "correct horse battery"}
    answer = client.post("/api/v1/auth/login", json=body)
    assert (answer.status_code, answer.json["status"]) == (503, 503)
    HASHING.get(client.application).close()


def test_process_ends_with_its_application():
    program = """
import os, signal
from sentiment_app.users.hashing import HashingProcess
process = HashingProcess()
process.ask({"password": "x", "costs": {"time_cost": 1, "memory_cost": 64, "parallelism": 1}})
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    child = int(done.stdout)
    assert done.returncode == -signal.SIGKILL
    psutil.Process(child).wait(60) if psutil.pid_exists(child) else None
    assert not psutil.pid_exists(child)


SHORT, LONG = "x7-Tr!q", "correct horse battery staple " * 4 + "twelve chars"


@pytest.mark.asvs("6.2.1")
def test_short_password_is_refused_everywhere(app, client, ada, as_ada):
    """Seven characters, at registration, at a change and in the command."""
    account = {"username": "bob", "email": "bob@example.org", "password": SHORT}
    assert client.post("/api/v1/auth/register", json=account).status_code == 422
    changes = {"password": SHORT, "current_password": PASSWORD}
    assert client.patch("/api/v1/users/me", json=changes, headers=as_ada).status_code == 422
    reset = {"token": "x", "password": SHORT}
    assert client.post("/api/v1/auth/password-reset", json=reset).status_code == 422
    command = ["user", "reset-password", "ada", "--password-stdin"]
    done = app.test_cli_runner().invoke(args=command, input=SHORT + "\n")
    assert (done.exit_code, "password: " in done.output) == (1, True)


@pytest.mark.asvs("6.2.4")
def test_list_of_common_passwords_is_long():
    common = passwords._common()
    assert len(common) >= 3000
    assert all(len(entry) >= 8 and entry == entry.casefold() for entry in common)


@pytest.mark.asvs("6.2.9")
@pytest.mark.parametrize("length", [64, 128])
def test_long_password_counts_to_its_last_character(client, length):
    password = LONG[:length]
    assert len(password) == length
    account = {"username": "bob", "email": "bob@example.org", "password": password}
    assert client.post("/api/v1/auth/register", json=account).status_code == 201
    for given, status in ((password, 200), (password[:-1] + "?", 401), (password[:-1], 401)):
        answer = client.post("/api/v1/auth/login", json={"username": "bob", "password": given})
        assert answer.status_code == status
