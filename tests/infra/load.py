"""Score texts through Nginx at a steady rate until SIGTERM (or ten minutes), and count what failed.

    load.py NAME ADDRESS CA RATE IDS

Each request has its own text, and is never retried, so every failure is counted. Writes the ids of acknowledged rows to
IDS, and prints a JSON line: sent, ok, failed (by kind), p50, p99, worst, longest time without any answer.
"""

import asyncio
import json
import signal
import ssl
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

MAX_SECONDS = 600


class Load:
    """Requests at a steady rate, and their outcomes."""

    def __init__(self, client: httpx.AsyncClient, rate: float) -> None:
        self.client = client
        self.rate = rate
        self.kinds: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.answered = [time.monotonic()]
        self.ids: list[str] = []

    async def sign_in(self) -> None:
        """Create the account if it does not exist, and sign in."""
        account = {"username": "load", "password": "only for the test bed"}
        await self.client.post("/api/v1/auth/register", json=account | {"email": "load@example.org"})
        answer = await self.client.post("/api/v1/auth/login", json=account)
        answer.raise_for_status()
        self.client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    async def score(self, number: int) -> None:
        """Score one text."""
        begun = time.monotonic()
        try:
            answer = await self.client.post(
                "/api/v1/sentiment/analyze", json={"text": f"A lovely day, number {number}."}
            )
            if answer.status_code == 200:
                self.ids.append(answer.json()["id"])
            else:
                self.kinds[f"{answer.status_code} {answer.text[:300]}"] += 1
        except httpx.HTTPError as error:
            self.kinds[f"{type(error).__name__} {error}"] += 1
        self.answered.append(time.monotonic())
        self.seconds.append(self.answered[-1] - begun)

    async def run(self, ended: asyncio.Event) -> None:
        """Send requests until `ended` is set. Late answers do not delay later requests."""
        begun, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not ended.is_set() and time.monotonic() - begun < MAX_SECONDS:
                group.create_task(self.score(sent))
                sent += 1
                await asyncio.sleep(max(0, begun + sent / self.rate - time.monotonic()))

    def result(self) -> dict[str, object]:
        """The measurements as numbers."""
        took = sorted(self.seconds)
        gaps = (after - before for before, after in zip(self.answered, self.answered[1:], strict=False))
        return {
            "sent": len(took),
            "ok": len(self.ids),
            "failed": self.kinds,
            "p50_ms": round(took[len(took) // 2] * 1000, 1),
            "p99_ms": round(took[int(len(took) * 0.99)] * 1000, 1),
            "worst_ms": round(took[-1] * 1000, 1),
            "longest_gap_s": round(max(gaps), 2),
        }


async def main(name: str, address: str, ca: str, rate: str, ids: str) -> None:
    """Run the load against an address, with the Host header and TLS name `name`."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with httpx.AsyncClient(
        transport=Named(name, verify=ssl.create_default_context(cafile=ca)),
        base_url=f"https://{address}",
        headers={"Host": name},
        timeout=30,
    ) as client:
        load = Load(client, float(rate))
        await load.sign_in()
        print("loading", flush=True)
        await load.run(ended)
    Path(ids).write_text("\n".join(load.ids))  # noqa: ASYNC240  # no other task runs any more
    print(json.dumps(load.result()), flush=True)


class Named(httpx.AsyncHTTPTransport):
    """Verifies the certificate of an address for a name that is not in the DNS."""

    def __init__(self, name: str, verify: ssl.SSLContext) -> None:
        super().__init__(verify=verify)
        self.name = name

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sni_hostname"] = self.name
        return await super().handle_async_request(request)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
