"""Which words a text reverses: negations, expectations, comparisons, and answers."""

import pytest

from sentiment_app.ml.text import terms, tokenize

GOOD, REVERSED = {"good", "better"}, {"not_good", "not_better"}

REVERSING = [
    "I thought it would be good, but it was not.",
    "We hoped the film would be good; however, it really wasn't",
    "It looked good, yet it never was.",
    "They said it was good, but that is not the case.",
    "Do I think this is a good airline? No.",
    "Is it good? Not at all!",
    "Is it good?? Nope",
    "I can't say that I found anything in this place good",
    "I don't think, given that we paid a lot, that this food is good",
    "It is not, after all these years, good",
    "Nobody in our family who tried the soup found it good",
    "It used to be good",
    "I was expecting it to be good",
    "My old phone was better than this one",
    "The old version was better than the new one",
    "It is far from good",
    "The room was less than good",
    "It fails to be good",
]
KEEPING = [
    "I thought it was good, and it was.",
    "It was bad, but it is good, not boring",
    "Do I think it is good? Yes.",
    "I am used to good food",
    "This phone is better than my old one",
    "It doesn't get any better than this",
    "I can't say that I didn't find it good",
    "Nobody can say it isn't good",
    "There is not a day when it isn't good",
    "It never fails to be good",
    "Why not? It is good",
    "I did not wait. It is good",
]


@pytest.mark.parametrize("text", REVERSING)
def test_reversed_word_is_another_term(text):
    found = terms(text)
    assert REVERSED.intersection(found), found
    assert not GOOD.intersection(found), found


@pytest.mark.parametrize("text", KEEPING)
def test_word_that_is_not_reversed_is_kept(text):
    found = terms(text)
    assert GOOD.intersection(found), found
    assert not REVERSED.intersection(found), found


@pytest.mark.parametrize("text", [*REVERSING, *KEEPING])
def test_each_reversed_word_keeps_its_span(text):
    tokens = tokenize(text)
    assert [token.term for token in tokens] == terms(text)
    words = {text[token.start : token.end].lower() for token in tokens if token.term in REVERSED | GOOD}
    assert words <= GOOD


@pytest.mark.parametrize(
    ("written", "expected"), [("Joy met Grace", ["met"]), ("joy and grace", ["joy", "and", "grace"])]
)
def test_given_names_that_are_words_are_masked_if_capitalised(written, expected):
    assert terms(written) == expected


@pytest.mark.parametrize(
    "text", ["?", "? no", "but", "but not", "than", "than this", "used", "thought would", "not ,", "far"]
)
def test_text_that_ends_early_is_read(text):
    assert [token.term for token in tokenize(text)] == terms(text)


@pytest.mark.parametrize(
    ("text", "is_reversed"),
    [
        ("They fixed my problem", True),
        ("My problem was sorted within a day", True),
        ("They took care of the problem", True),
        ("They never fixed my problem", False),
        ("I care about this problem", False),
        ("It was fixed. A new problem came", False),
    ],
)
def test_trouble_that_is_over_is_reversed(text, is_reversed):
    assert ("not_problem" in terms(text)) == is_reversed


@pytest.mark.parametrize(
    ("text", "is_reversed"),
    [
        ("Great, another update that breaks everything", True),
        ("Oh great! The train is late again", True),
        ("Great, we will come again", False),
        ("The film was great, another success", False),
        ("A great film that I want to see again", False),
    ],
)
def test_exclamation_before_a_repeated_nuisance_is_reversed(text, is_reversed):
    assert ("not_great" in terms(text)) == is_reversed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Critics call it bad, but I like it", "not_bad"),
        ("I had heard it was bad, I think it is fine", "not_bad"),
        ("I heard it was bad, so I stayed at home", "bad"),
        ("This is less useful than the old one", "not_useful"),
        ("My old lamp was less useful than this", "useful"),
        ("It is not only good", "good"),
        ("Not without charm", "charm"),
    ],
)
def test_more_constructions(text, expected):
    assert expected in terms(text)
