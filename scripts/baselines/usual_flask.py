"""The same service as most Flask tutorials build it: a token, a user, a rate limit, and rows through the ORM.

It does less than the product: it knows no revoked tokens and no quotas, and it writes no metrics.
"""

import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from flask_jwt_extended import JWTManager, current_user, jwt_required
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_sqlalchemy import SQLAlchemy

from sentiment_app.ml.runtime import Scorer

app = Flask("usual")
app.config.from_mapping(
    SQLALCHEMY_DATABASE_URI=os.environ["BASELINE_DATABASE_URL"].replace("postgresql:", "postgresql+psycopg2:"),
    JWT_SECRET_KEY=os.environ["BASELINE_SECRET"],
    RATELIMIT_STORAGE_URI=os.environ["BASELINE_REDIS_URL"].replace("unix://", "redis+unix://"),
)
db = SQLAlchemy(app)
jwt = JWTManager(app)
limiter = Limiter(get_remote_address, app=app)
with Path(os.environ["BASELINE_MODEL"]).open("rb") as file:
    scorer = Scorer.load(file)
logging.basicConfig(filename=os.devnull, level=logging.INFO)


class User(db.Model):
    """An account."""

    id = db.Column(db.Integer, primary_key=True)
    username = db.Column(db.String(80), unique=True)


class Analysis(db.Model):
    """A scored text."""

    id = db.Column(db.Integer, primary_key=True)
    user_id = db.Column(db.ForeignKey("user.id"))
    text = db.Column(db.Text)
    sentiment = db.Column(db.String(16))
    confidence = db.Column(db.Float)
    created_at = db.Column(db.DateTime)


class AuditEntry(db.Model):
    """Who did what."""

    id = db.Column(db.Integer, primary_key=True)
    user_id = db.Column(db.ForeignKey("user.id"))
    action = db.Column(db.String(80))


@jwt.user_lookup_loader
def find_user(_header: Any, claims: dict[str, Any]) -> User | None:
    """The user of a token."""
    return db.session.get(User, int(claims["sub"]))


@app.post("/analyze")
@jwt_required()
@limiter.limit("1000000 per minute")
def analyze() -> Response:
    """Score a text and store it."""
    return jsonify(score([request.get_json()["text"]])[0])


@app.post("/analyze/batch")
@jwt_required()
@limiter.limit("1000000 per minute")
def analyze_batch() -> Response:
    """Score several texts and store them in one transaction."""
    return jsonify(score(request.get_json()["texts"]))


def score(texts: list[str]) -> list[dict[str, Any]]:
    """Score texts, and store them with an audit entry."""
    started = time.perf_counter()
    rows = []
    for text, scores in zip(texts, scorer.score_many(texts), strict=True):
        row = Analysis(user_id=current_user.id, text=text, sentiment=scores.label, confidence=max(scores))
        row.created_at = datetime.now(UTC)
        rows.append(row)
    db.session.add_all(rows)
    db.session.add(AuditEntry(user_id=current_user.id, action="analyze"))
    db.session.commit()
    app.logger.info("%d texts in %.3f s", len(texts), time.perf_counter() - started)
    return [{"id": row.id, "sentiment": row.sentiment, "confidence": row.confidence} for row in rows]
