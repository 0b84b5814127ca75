"""The training recipe: a scikit-learn estimator for three-class sentiment.

Three linear heads share one vocabulary of terms and pairs of terms and one tf-idf norm:

* `polarity` (positive against negative) for short texts, helped by lexicon features;
* `polarity_long`, trained on film reviews, which takes over as a text gets longer;
* `neutrality` (neutral against polar).

Every head is a naive-Bayes-scaled logistic regression (NBSVM, Wang & Manning 2012). The blend is
made on the log-odds, so each term contributes additively to the polarity of a text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from sentiment_app.ml.runtime import Scorer
from sentiment_app.ml.text import NEGATED, bigrams, terms
from sentiment_app.ml.training.datasets import (
    EDGES,
    GENERAL,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    REVIEWS,
    SNIPPETS,
    Row,
    is_held_out,
    review_edges,
)
from sentiment_app.ml.training.templates import SOURCE as TEMPLATES
from sentiment_app.ml.training.templates import sentences

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Names = npt.NDArray[np.str_]


_PRIOR_TEXTS: Final = 20
"""When temperatures are fitted to other texts, the temperature of the recipe counts as much as this many texts."""

_CERTAIN: Final = 3.0
"""A word has a valence if its ratio of frequencies is this number of standard errors from 1."""

_CLEAR: Final = 0.75
"""The smallest logarithm of the ratio of frequencies that gives a word a valence."""

_LEXICON_SCALE: Final = 3.0
"""Large enough that the penalty hardly affects the few lexicon weights."""


@dataclass(frozen=True)
class HeadParameters:
    """How a head is fitted."""

    cost: float
    ratio_power: float
    """Exponent of the naive Bayes ratio: 0 is plain tf-idf, 1 is NBSVM."""
    lexicon: bool = True


@dataclass(frozen=True)
class Parameters:
    """All parameters of a recipe, tuned on held-out splits of the training sources."""

    min_count: int = 4
    polarity: HeadParameters = HeadParameters(3.0, 0.5)
    polarity_long: HeadParameters = HeadParameters(20.0, 1.0, lexicon=False)
    neutrality: HeadParameters = HeadParameters(1.0, 0.3)
    neutral_weight: float = 1.3
    """Weight of the neutral texts in the neutrality head."""
    neutral_share: float = 0.5
    """Weight of a neutral text on each side of the polarity head, which centres it."""
    template_weight: float = 1.0
    """Weight of a template sentence in the polarity head."""
    polar_template_weight: float = 0.4
    """Weight of a polar template sentence in the neutrality head."""
    neutral_template_weight: float = 0.7
    """Weight of a neutral template sentence in the neutrality head."""
    general_weight: float = 2.0
    """Weight of the small sources with many topics in the two heads that short texts use."""
    edge_weight: float = 0.4
    """Weight of the first and the last sentence of a film review in the polarity head, each as a text; 0 uses none."""
    snippet_weight: float = 0.1
    """Weight of film snippets, as polar texts, in the neutrality head."""
    blend: tuple[float, float, float] = (50.0, 150.0, 0.8)
    """Up to the first number of terms the long head has no share; from the second number it has its maximum share, the
    third number."""
    polarity_temperature: float = 0.55
    polarity_long_temperature: float = 0.75
    neutrality_temperature: float = 0.82
    review_stride: int = 1
    """Read only every n-th film review; applied by `read`."""


DEFAULT: Final = Parameters()
FAST: Final = Parameters(min_count=6, review_stride=12)


@dataclass(frozen=True)
class TrainingData:
    """Labelled texts and the valence lexicon."""

    rows: Sequence[Row]
    lexicon: dict[str, float] = field(repr=False)


def features(text: str) -> list[str]:
    """The terms of a text, and the pairs of adjacent terms."""
    words = terms(text)
    return words + bigrams(words)


def lexicon_columns(vocabulary: Sequence[str], lexicon: dict[str, float]) -> Floats:
    """Valence of each feature as four columns: positive, negative, and the same when negated."""
    columns = np.zeros((len(vocabulary), 4))
    for row, term in enumerate(vocabulary):
        negated = term.startswith(NEGATED)
        valence = lexicon.get(term.removeprefix(NEGATED), 0.0)
        if valence:
            columns[row, 2 * negated + (valence < 0)] = _LEXICON_SCALE * abs(valence)
    return columns


def induce_lexicon(
    vocabulary: Sequence[str], counts: sparse.csr_matrix, truth: Labels, reviews: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """The valence of the words that are much more frequent in positive or in negative reviews.

    A hand-made lexicon lacks many words ("shoddy", "bland"). Their valences let the heads learn from all words how a
    negation changes a word, and apply it to words that no training text negates.
    """
    sides = [np.asarray(counts[reviews & (truth == label)].sum(axis=0)).ravel() for label in (POSITIVE, NEGATIVE)]
    favourable, adverse = (side + 1 for side in sides)
    ratio = np.log(favourable / favourable.max() / (adverse / adverse.max()))
    certain = np.abs(ratio) > np.maximum(_CLEAR, _CERTAIN * np.sqrt(1 / favourable + 1 / adverse))
    return {
        sys.intern(term): float(max(-4.0, min(4.0, 2 * value)))
        for term, value, is_certain in zip(vocabulary, ratio, certain, strict=True)
        if is_certain and term.isalpha()
    }


class Head:
    """A logistic regression over scaled tf-idf and lexicon features."""

    def __init__(self, parameters: HeadParameters, idf: Floats, lexicon: Floats) -> None:
        self.parameters = parameters
        self.idf = idf
        self.lexicon = lexicon if parameters.lexicon else lexicon[:, :0]

    def fit(self, counts: sparse.csr_matrix, truth: npt.NDArray[np.bool_], weights: Floats) -> Head:
        """Fit on rows of binary counts divided by their tf-idf norm."""
        present = counts.sign()
        for_, against = (1 + present.T @ (weights * side) for side in (truth, ~truth))
        ratio = np.abs(np.log(for_ / for_.sum() / (against / against.sum())))
        # The sign of the ratio does not matter to a symmetric penalty.
        self.scale_ = self.idf * ratio**self.parameters.ratio_power
        self.model_ = LogisticRegression(C=self.parameters.cost, solver="liblinear", tol=1e-3, random_state=0)
        self.model_.fit(self._design(counts), truth, sample_weight=weights)
        return self

    def log_odds(self, counts: sparse.csr_matrix) -> Floats:
        """The decision function."""
        return np.asarray(self.model_.decision_function(self._design(counts)))

    def feature_weights(self) -> tuple[Floats, float]:
        """Weight of each vocabulary entry, lexicon included, and the intercept."""
        coefficients = self.model_.coef_[0]
        size = len(self.scale_)
        weights = self.scale_ * coefficients[:size] + self.lexicon @ coefficients[size:]
        return np.asarray(weights), float(self.model_.intercept_[0])

    def _design(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        scaled = counts @ sparse.diags(self.scale_)
        return sparse.csr_matrix(sparse.hstack([scaled, sparse.csr_matrix(counts @ self.lexicon)]))


class RawLogOdds(NamedTuple):
    """The log-odds of n texts before calibration, and the share that `long` has in the polarity."""

    short: Floats
    long: Floats
    neutrality: Floats
    share: Floats

    def at_temperatures(self, short: float, long: float, neutrality: float) -> tuple[Floats, Floats]:
        """Log-odds of polarity and neutrality at these temperatures."""
        polarity = (1 - self.share) * self.short / short + self.share * self.long / long
        return polarity, self.neutrality / neutrality


def temperatures(parameters: Parameters) -> tuple[float, float, float]:
    """The temperatures of the three heads: short and long polarity, neutrality."""
    return (parameters.polarity_temperature, parameters.polarity_long_temperature, parameters.neutrality_temperature)


class SentimentPipeline(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Predicts the probabilities of negative, neutral and positive from raw texts."""

    def __init__(self, parameters: Parameters = DEFAULT, lexicon: dict[str, float] | None = None) -> None:
        self.parameters = parameters
        self.lexicon = lexicon

    def fit(
        self, texts: Sequence[str], labels: npt.ArrayLike, sources: Sequence[str] | None = None
    ) -> SentimentPipeline:
        """Fit the three heads; `sources` balances the classes within each source."""
        self.classes_ = np.array([NEGATIVE, NEUTRAL, POSITIVE])
        truth, origin = np.asarray(labels), np.asarray(sources or [""] * len(texts))
        counts = self._count(texts, truth, origin)
        occurrences = np.asarray(counts.sum(axis=0)).ravel()
        self.idf_ = np.log((1 + len(texts)) / (1 + occurrences)) + 1
        scaled = self._scale(counts)
        vocabulary = self.vectorizer_.get_feature_names_out()
        self.columns_ = lexicon_columns(vocabulary, self.lexicon or {})
        self.columns_ += lexicon_columns(vocabulary, self.induced_) * [0, 0, 1, 1]
        self.polarity_ = self._fit_polarity(scaled, truth, origin)
        self.polarity_long_ = self._fit_polarity_long(scaled, truth, origin)
        self.neutrality_ = self._fit_neutrality(scaled, truth, origin)
        return self

    def _count(self, texts: Sequence[str], truth: Labels, origin: Names) -> sparse.csr_matrix:
        """Build the vocabulary, and count. Lexicon terms belong to it even if no text has them (emoji)."""
        options = {"analyzer": features, "binary": True, "dtype": np.float64}
        frequent = CountVectorizer(min_df=self.parameters.min_count, **options)
        counts = frequent.fit_transform(texts)
        vocabulary = frequent.get_feature_names_out().tolist()
        known = self.lexicon or {}
        induced = induce_lexicon(vocabulary, counts, truth, origin == REVIEWS)
        self.induced_ = {term: valence for term, valence in induced.items() if term not in known}
        negatable = {*self.induced_, *(term for term in known if term[0].isalnum())}
        wanted = {*known, *(NEGATED + term for term in negatable)}
        vocabulary += sorted(wanted.difference(vocabulary))
        # Equal strings become one object: pickle distinguishes objects, and the same training must give the same file.
        vocabulary = [sys.intern(term) for term in vocabulary]
        self.vectorizer_ = CountVectorizer(vocabulary=vocabulary, **options)
        counts.resize((len(texts), len(vocabulary)))
        return sparse.csr_matrix(counts)

    def _scale(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        norms = np.sqrt(counts @ self.idf_**2)
        return sparse.csr_matrix(sparse.diags(1 / np.where(norms, norms, 1.0)) @ counts)

    def _head(self, parameters: HeadParameters) -> Head:
        return Head(parameters, self.idf_, self.columns_)

    def _fit_polarity(self, x: sparse.csr_matrix, truth: Labels, origin: Names) -> Head:
        """Fit on polar texts, with weights that balance each source, and on neutral texts on both sides."""
        weights = _balance(truth, origin)
        weights[origin == TEMPLATES] *= self.parameters.template_weight
        weights[np.isin(origin, GENERAL)] *= self.parameters.general_weight
        weights[origin == EDGES] *= self.parameters.edge_weight
        weights[truth == NEUTRAL] *= self.parameters.neutral_share
        polar, neutral = np.flatnonzero(truth != NEUTRAL), np.flatnonzero(truth == NEUTRAL)
        rows = np.concatenate([polar, neutral, neutral])
        sides = np.concatenate([truth[polar] == POSITIVE, neutral < 0, neutral >= 0])
        return self._head(self.parameters.polarity).fit(x[rows], sides, weights[rows])

    def _fit_polarity_long(self, x: sparse.csr_matrix, truth: Labels, origin: Names) -> Head:
        rows = np.flatnonzero((origin == REVIEWS) | ~np.any(origin == REVIEWS))
        rows = rows[truth[rows] != NEUTRAL]
        head = self._head(self.parameters.polarity_long)
        return head.fit(x[rows], truth[rows] == POSITIVE, np.ones(len(rows)))

    def _fit_neutrality(self, x: sparse.csr_matrix, truth: Labels, origin: Names) -> Head:
        rows = np.flatnonzero((origin != REVIEWS) & (origin != EDGES))
        neutral = truth[rows] == NEUTRAL
        weights = np.where(neutral, self.parameters.neutral_weight, 1.0)
        sides = self.parameters.polar_template_weight, self.parameters.neutral_template_weight
        weights *= np.where(origin[rows] == TEMPLATES, np.where(neutral, sides[1], sides[0]), 1.0)
        weights[np.isin(origin[rows], GENERAL)] *= self.parameters.general_weight
        weights[origin[rows] == SNIPPETS] *= self.parameters.snippet_weight
        return self._head(self.parameters.neutrality).fit(x[rows], neutral, weights)

    def log_odds(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Calibrated log-odds of positive against negative, and of neutral against polar."""
        return self.raw_log_odds(texts).at_temperatures(*temperatures(self.parameters))

    def raw_log_odds(self, texts: Sequence[str]) -> RawLogOdds:
        """The log-odds of each head, before calibration."""
        scaled = self._scale(self.vectorizer_.transform(texts))
        first, last, limit = self.parameters.blend
        lengths = np.array([len(terms(text)) for text in texts])
        return RawLogOdds(
            short=self.polarity_.log_odds(scaled),
            long=self.polarity_long_.log_odds(scaled),
            neutrality=self.neutrality_.log_odds(scaled),
            share=limit * np.clip((lengths - first) / (last - first), 0.0, 1.0),
        )

    def predict_proba(self, texts: Sequence[str]) -> Floats:
        """Probability of each class, in the order negative, neutral, positive."""
        polarity, neutrality = self.log_odds(texts)
        polar = expit(-neutrality)
        return np.stack([polar * expit(-polarity), expit(neutrality), polar * expit(polarity)], axis=1)

    def predict(self, texts: Sequence[str]) -> Labels:
        """The most probable class."""
        return np.asarray(self.classes_[self.predict_proba(texts).argmax(axis=1)])


def _balance(truth: Labels, origin: Names) -> Floats:
    """Weights that balance the positive and the negative texts within each source."""
    weights = np.ones(len(truth))
    for source in np.unique(origin):
        sides = [(origin == source) & (truth == label) for label in (NEGATIVE, POSITIVE)]
        total = sum(side.sum() for side in sides)
        for side in sides:
            if side.any():
                weights[side] = total / 2 / side.sum()
    return weights


def train(data: TrainingData, parameters: Parameters = DEFAULT) -> SentimentPipeline:
    """Fit the pipeline on the data and on template sentences."""
    edges = review_edges(data.rows) if parameters.edge_weight else ()
    rows = [*data.rows, *edges, *sentences()]
    texts, labels, sources = zip(*rows, strict=True)
    lexicon = {sys.intern(term): valence for term, valence in data.lexicon.items()}
    return SentimentPipeline(parameters, lexicon).fit(texts, labels, sources)


def calibrate(rows: Sequence[Row], lexicon: dict[str, float], parameters: Parameters) -> Parameters:
    """The same parameters with the temperatures that fit these texts (Guo et al., 2017, "On Calibration").

    They minimise the log loss on a quarter of the texts, with a pipeline that was fitted on the other texts. A prior
    keeps each temperature near its given value, as strongly as _PRIOR_TEXTS texts would.
    """
    held_out = [row for row in rows if is_held_out(row, share=4)]
    training = [row for row in rows if not is_held_out(row, share=4)]
    if not training or not held_out:
        return parameters
    pipeline = train(TrainingData(training, lexicon), parameters)
    raw = pipeline.raw_log_odds([row.text for row in held_out])
    truth = np.array([row.label for row in held_out])
    given = np.log(temperatures(parameters))

    def loss(logarithms: Floats) -> float:
        polarity, neutrality = raw.at_temperatures(*np.exp(logarithms))
        side = log_expit(np.where(truth == POSITIVE, polarity, -polarity))
        likelihood = np.where(truth == NEUTRAL, log_expit(neutrality), log_expit(-neutrality) + side)
        return float(_PRIOR_TEXTS / 2 * ((logarithms - given) ** 2).sum() - likelihood.sum())

    short, long, neutrality = (float(value) for value in np.exp(minimize(loss, given, method="L-BFGS-B").x).round(3))
    return replace(
        parameters,
        polarity_temperature=short,
        polarity_long_temperature=long,
        neutrality_temperature=neutrality,
    )


def compile_pipeline(pipeline: SentimentPipeline) -> Scorer:
    """Compile a fitted pipeline into a table. It is exact, up to the order of floating-point additions."""
    parameters = pipeline.parameters
    idf = pipeline.idf_
    heads: list[tuple[Head, float]] = [
        (pipeline.polarity_, parameters.polarity_temperature),
        (pipeline.polarity_long_, parameters.polarity_long_temperature),
        (pipeline.neutrality_, parameters.neutrality_temperature),
    ]
    columns, biases = [idf**2], []
    for head, temperature in heads:
        weights, bias = head.feature_weights()
        columns.append(weights / temperature)
        biases.append(bias / temperature)
    table = np.vstack([np.zeros(len(columns)), np.stack(columns, axis=1)])
    vocabulary = pipeline.vectorizer_.get_feature_names_out().tolist()
    return Scorer(vocabulary, table, np.array(biases), parameters.blend)
