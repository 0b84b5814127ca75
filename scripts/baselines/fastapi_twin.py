"""The same service as a careful FastAPI application: asyncpg, a rate limit in Redis, and one insert for each request.

It does less than the product: it knows no revoked tokens and no quotas, and it writes no log lines and no metrics.
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import jwt
import redis.asyncio as redis
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, Field

from sentiment_app.ml.runtime import Scorer

INSERT = "INSERT INTO analyses (id, user_id, text, sentiment, confidence, created_at) VALUES ($1, $2, $3, $4, $5, $6)"

with Path(os.environ["BASELINE_MODEL"]).open("rb") as file:
    scorer = Scorer.load(file)


class Text(BaseModel):
    """A text to score."""

    text: str = Field(min_length=1, max_length=20_000)


class Texts(BaseModel):
    """Texts to score."""

    texts: list[str] = Field(min_length=1, max_length=10_000)


@asynccontextmanager
async def connect(app: FastAPI) -> AsyncIterator[None]:
    """Connect to PostgreSQL and Redis."""
    app.state.pool = await asyncpg.create_pool(os.environ["BASELINE_DATABASE_URL"], min_size=4, max_size=8)
    app.state.redis = redis.Redis.from_url(os.environ["BASELINE_REDIS_URL"])
    yield
    await app.state.pool.close()


app = FastAPI(lifespan=connect)


async def admit(request: Request, authorization: Annotated[str, Header()]) -> int:
    """The user of a token, within the rate limit."""
    try:
        claims = jwt.decode(authorization.removeprefix("Bearer "), os.environ["BASELINE_SECRET"], ["HS256"])
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None
    user = await app.state.pool.fetchrow("SELECT id, username FROM users WHERE id = $1", int(claims["sub"]))
    if user is None:
        raise HTTPException(401)
    key = f"rate:{user['id']}"
    async with app.state.redis.pipeline(transaction=False) as pipeline:
        count, _ = await pipeline.incr(key).expire(key, 60).execute()
    if count > 1_000_000:
        raise HTTPException(429)
    return int(user["id"])


@app.post("/analyze")
async def analyze(body: Text, user: Annotated[int, Depends(admit)]) -> dict[str, Any]:
    """Score a text and store it."""
    return (await score([body.text], user))[0]


@app.post("/analyze/batch")
async def analyze_batch(body: Texts, user: Annotated[int, Depends(admit)]) -> list[dict[str, Any]]:
    """Score several texts and store them in one transaction."""
    return await score(body.texts, user)


async def score(texts: list[str], user: int) -> list[dict[str, Any]]:
    """Score texts and store them."""
    rows = []
    for text, scores in zip(texts, scorer.score_many(texts), strict=True):
        rows.append((uuid.uuid4(), user, text, scores.label, max(scores), datetime.now(UTC)))
    await app.state.pool.executemany(INSERT, rows)  # one transaction, in one round trip
    return [{"id": row[0], "sentiment": row[3], "confidence": row[4]} for row in rows]
