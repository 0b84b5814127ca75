"""Sessions between requests at the same time, in several processes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import PASSWORD, call


@pytest.mark.asvs("10.4.5", "15.4.2")
def test_of_fifty_refreshes_at_the_same_time_one_succeeds(product):
    """The others have used the token a second time, so the session ends, also for the request that was first."""
    auth = product.url + "/api/v1/auth"
    _, tokens = call(f"{auth}/login", {"username": "ada", "password": PASSWORD})
    with ThreadPoolExecutor(50) as pool:
        body = {"refresh_token": tokens["refresh_token"]}
        answers = list(pool.map(lambda _: call(f"{auth}/refresh", body), range(50)))
    assert sorted(status for status, _ in answers) == [200] + [401] * 49
    (renewed,) = [answer for status, answer in answers if status == 200]
    assert call(f"{auth}/refresh", {"refresh_token": renewed["refresh_token"]})[0] == 401
    assert call(f"{product.url}/api/v1/users/me", token=renewed["access_token"])[0] == 401
