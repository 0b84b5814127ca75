"""The behavioural suite: fixed sentences that training does not use, and what counts as a failure."""

from collections import Counter

import pytest

from sentiment_app.ml.runtime import LABELS, Scores
from sentiment_app.ml.text import terms
from sentiment_app.ml.training import behaviour
from sentiment_app.ml.training.behaviour import Check
from sentiment_app.ml.training.templates import sentences

NEGATIVE, NEUTRAL, POSITIVE = Scores(0.8, 0.1, 0.1), Scores(0.1, 0.8, 0.1), Scores(0.1, 0.1, 0.8)


class Constant:
    """A model with the same scores for every text."""

    def __init__(self, scores):
        self.scores = scores

    def score_many(self, texts):
        return [self.scores for _ in texts]


def test_suite_is_large_and_balanced():
    counts = Counter(check.kind for check in behaviour.checks())
    assert sum(counts.values()) >= 1500
    assert len(counts) >= 20
    assert set(counts.values()) == {behaviour.SENTENCES_PER_KIND}


def test_suite_is_the_same_at_every_call():
    first = behaviour.checks()
    behaviour.checks.cache_clear()
    assert behaviour.checks() == first


def test_sentences_are_distinct_and_complete():
    for check in behaviour.checks():
        assert not set("{}") & set(check.text + (check.reference or ""))
        assert check.text[0].isupper()
        assert set(check.accepted) < set(LABELS)
        assert bool(check.accepted) != bool(check.reference)
    pairs = [(check.kind, check.text) for check in behaviour.checks()]
    assert len(set(pairs)) == len(pairs)


def test_training_uses_no_sentence_of_the_suite():
    trained = {" ".join(terms(row.text)) for row in sentences()}
    assert not trained & {" ".join(terms(check.text)) for check in behaviour.checks()}


@pytest.mark.parametrize("label", LABELS)
def test_model_that_ignores_the_text_fails(label):
    constant = Constant((NEGATIVE, NEUTRAL, POSITIVE)[LABELS.index(label)])
    results = {result.kind: result for result in behaviour.evaluate(constant)}
    plain = {"negative": "plain complaints", "neutral": "plain facts", "positive": "plain praise"}
    assert {name for name, kind in plain.items() if results[kind].failures == 0} == {label}
    assert results["identity terms"].failure_rate == 0
    assert all(result.failure_rate in {0, 1} for kind, result in results.items() if kind in plain.values())
    assert sum(result.failures for result in results.values()) == len(behaviour.find_failures(constant))


@pytest.mark.parametrize(
    ("check", "scores", "reference", "fails"),
    [
        (Check("a", "x", accepted=("positive", "neutral")), NEUTRAL, None, False),
        (Check("a", "x", accepted=("positive", "neutral")), NEGATIVE, None, True),
        (Check("a", "x", reference="y"), NEGATIVE, NEGATIVE, False),
        (Check("a", "x", reference="y"), NEGATIVE, NEUTRAL, True),
        (Check("a", "x", reference="y", label="positive", direction=-1), Scores(0.1, 0.2, 0.75), POSITIVE, False),
        (Check("a", "x", reference="y", label="positive", direction=-1), Scores(0.1, 0.3, 0.6), POSITIVE, True),
        (Check("a", "x", reference="y", label="positive", direction=1), POSITIVE, Scores(0.1, 0.3, 0.6), True),
        (Check("a", "x", reference="y", label="positive", direction=1), Scores(0.1, 0.3, 0.6), POSITIVE, False),
    ],
)
def test_failure_is_decided_by_labels_or_by_a_reference(check, scores, reference, fails):
    assert check.fails(scores, reference) is fails
