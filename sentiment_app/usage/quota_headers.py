"""The headers that report what is left of a quota."""

import datetime as dt
from collections.abc import Sequence

from limits import RateLimitItemPerDay, RateLimitItemPerMonth

from sentiment_app.usage.quotas import QuotaUse
from sentiment_app.web import rate_limits
from sentiment_app.web.rate_limits import Standing

ITEMS = {"day": RateLimitItemPerDay, "month": RateLimitItemPerMonth}


def add(used: Sequence[QuotaUse]) -> None:
    """Report quotas in the RateLimit headers of the current response, if they are tighter than its rates."""
    now = dt.datetime.now(dt.UTC)
    for use in used:
        left = max(0, use.quota.limit - use.used)
        seconds = max(1, int((use.resets_at - now).total_seconds()) + 1)
        item = ITEMS[use.quota.period](use.quota.limit)
        rate_limits.check(Standing(f"rows-per-{use.quota.period}", item, False, left, seconds))
