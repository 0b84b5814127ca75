"""Limits guesses of passwords without letting an attacker lock an account's owner out.

Failed sign-ins are counted by account and network together, so an attacker exhausts only the attempts of the attacker's
own network. Networks from which the account has never signed in are also counted together, because an attacker may
have many. If they fail too often, each of them has one attempt a minute, whoever uses it. Networks from which the
account has signed in are not affected by this.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import limits

from sentiment_app.auth.service import BadCredentialsError
from sentiment_app.users import sessions
from sentiment_app.web import rate_limits
from sentiment_app.web.rate_limits import RATE_LIMITS

# How often unknown networks together may fail, as a multiple of LOGIN_RATE_LIMIT, before each has one attempt a minute.
UNKNOWN_NETWORKS = 3
SLOW = limits.parse("1 per minute")


@contextmanager
def limit_failures(username: str) -> Iterator[None]:
    """Run a sign-in. Every attempt is counted before it runs, and forgotten unless its credentials were wrong.

    If attempts were counted only after they had failed, many guesses at the same time would all be admitted.

    Raises:
        RateLimitedError: the caller's network has failed too often with this account.
    """
    rates, network = RATE_LIMITS.get(), rate_limits.network()
    # A digest, because people type passwords into the wrong field.
    account = hashlib.sha256(username.lower().encode()).hexdigest()
    pair = f"{account}:{network}"
    allowed = rates.items["login"]
    rate_limits.check(rates.hit_item("login", allowed, pair))
    if not sessions.is_known_network(username, network):
        together = allowed.__class__(UNKNOWN_NETWORKS * allowed.amount, allowed.multiples)
        if rates.hit_item("login-unknown", together, account).is_exceeded:
            slow = rates.hit_item("login-slow", SLOW, pair)
            if slow.is_exceeded:  # otherwise the headers would tell that others attack the account
                rate_limits.check(slow)
    try:
        yield
    except BadCredentialsError:
        raise
    except BaseException:
        _forget(pair)  # for example because too many passwords wait to be verified
        raise
    _forget(pair)


def _forget(pair: str) -> None:
    rates = RATE_LIMITS.get()
    rates.clear_item("login", rates.items["login"], pair)
    rates.clear_item("login-slow", SLOW, pair)
