"""Properties of the tokeniser and of the serving form."""

import io
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentiment_app.ml.runtime import Scorer
from sentiment_app.ml.text import terms, tokenize
from sentiment_app.ml.training.datasets import NEGATIVE, NEUTRAL, POSITIVE
from sentiment_app.ml.training.pipeline import Parameters, SentimentPipeline, compile_pipeline
from sentiment_app.ml.training.templates import sentences

_WORDS = st.sampled_from(
    [
        "not",
        "good",
        "bad",
        "movie",
        "the",
        "isn't",
        "phone",
        ":)",
        "<3",
        "😂",
        "&amp;",
        "&lt;3",
        "&#33;",
        "İstanbul",
        "ﷺ",
        "!",
        "?",
        ".",
        "but",
        "7/10",
        "https://a.b",
        "@x",
        "<br/>",
        "soooo",
        "xD",
        "’",
        "�",
        "\n",
    ]
)
_TEXTS = st.one_of(st.text(), st.lists(_WORDS, max_size=200).map(" ".join))


@pytest.fixture(scope="module")
def pipeline() -> SentimentPipeline:
    lexicon = {"good": 1.9, "bad": -2.5, "😂": 1.9}
    rows = list(sentences())
    fitted = SentimentPipeline(Parameters(min_count=2), lexicon)
    return fitted.fit([r.text for r in rows], [r.label for r in rows], [r.source for r in rows])


@pytest.fixture(scope="module")
def scorer(pipeline: SentimentPipeline) -> Scorer:
    file = io.BytesIO()
    compile_pipeline(pipeline).save(file)
    file.seek(0)
    return Scorer.load(file)


@given(_TEXTS)
@settings(max_examples=200, deadline=None)
def test_tokens_match_terms_and_are_in_order(text: str) -> None:
    tokens = tokenize(text)
    assert [token.term for token in tokens] == terms(text)
    position = 0
    for token in tokens:
        assert position <= token.start < token.end <= len(text) or token.start < position
        position = token.start
    assert not any(character.isspace() for token in tokens for character in token.term)


@given(_TEXTS)
@settings(max_examples=200, deadline=None)
def test_scorer_matches_the_pipeline(pipeline: SentimentPipeline, scorer: Scorer, text: str) -> None:
    expected = pipeline.predict_proba([text])[0]
    assert np.allclose(scorer.score(text), expected, rtol=0, atol=1e-12)
    assert math.isclose(sum(scorer.score(text)), 1.0)


@given(_TEXTS)
@settings(max_examples=200, deadline=None)
def test_contributions_add_up(scorer: Scorer, text: str) -> None:
    bias, parts = scorer.explain(text)
    total = bias + math.fsum(part.contribution for part in parts)
    scores = scorer.score(text)
    assert math.isclose(total, math.log(scores.positive / scores.negative), abs_tol=1e-9)
    assert all(part.surface == text[part.start : part.end] for part in parts)


_HOSTILE = [
    "!",
    "<",
    "a",
    ":-",
    "&",
    "<a",
    "1.",
    "'",
    "a'",
    "((",
    "&#",
    "@",
    "not ",
    "http",
    "aab",
    "</",
    "&a",
    "1 ",
    "1",
    "★ ",
    "★",
    ":-",
    "(:",
    "on 1",
    "1 out of ",
    "1 / ",
    "xD",
    "used to ",
    "than this ",
    "not, ",
    "no one a ",
    "? no ",
    "but not ",
    "some say but i ",
    "hoped would ",
    "the ",
    "a´",
    "a`",
    "â€™",
    "\u200b",
]


def seconds(text: str) -> float:
    """The least CPU time of five runs. A slow or busy machine does not change how this time grows."""
    goes = []
    for _ in range(5):
        start = time.thread_time()
        terms(text)
        tokenize(text)
        goes.append(time.thread_time() - start)
    return min(goes)


@pytest.mark.no_cover
@pytest.mark.parametrize("unit", _HOSTILE)
def test_hostile_input_takes_linear_time(unit: str) -> None:
    few = 2_500 // len(unit)
    growth = seconds(unit * few * 8) / seconds(unit * few)
    assert growth < 24  # linear is 8, quadratic 64


def test_scorer_separates_classes(scorer: Scorer) -> None:
    texts = {
        "a bad movie": NEGATIVE,
        "the doctor works in london": NEUTRAL,
        "it was really great": POSITIVE,
    }
    for text, label in texts.items():
        assert int(np.argmax(scorer.score(text))) == label


def test_identity_terms_do_not_change_scores() -> None:
    assert terms("the muslim woman was late") == terms("the gay black man was late")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("never seen such a good film", "<emphasis> seen such a good film"),
        ("never been so sad", "<emphasis> been so sad"),
        ("never seen it. Such a shame", "never not_seen it such a shame"),
        ("never buy such rubbish", "never not_buy not_such not_rubbish"),
        ("nothing short of brilliant", "<emphasis> short of brilliant"),
        ("nothing good", "nothing not_good"),
        ("anything but good", "anything but not_good"),
        ("good but anything is", "good but anything is"),
        ("zero problems", "zero not_problems"),
    ],
)
def test_emphasis_is_distinguished_from_negation(text, expected):
    assert terms(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("★★★★★", "<rated-high>"),
        ("⭐⭐⭐⭐", "<rated-high>"),
        ("★★★☆☆", "<rated-medium>"),
        ("★☆☆☆☆", "<rated-low>"),
        ("☆☆☆☆☆", "<rated-low>"),
    ],
)
def test_stars_are_a_rating(text, expected):
    assert terms(text) == [expected]
    assert terms(f"Food: {text}!")[-2:] == [expected, "!"]
