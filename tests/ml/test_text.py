"""How people write: apostrophes, ratings, emoticons, and characters that nobody sees."""

from itertools import pairwise

import pytest

from sentiment_app.ml.text import terms, tokenize

APOSTROPHES = ["isn't", "isn’t", "isn‘t", "isn´t", "isn`t", "isnʼt", "isn＇t", "isn′t", "isn\x92t", "isnâ€™t", "isnt"]


@pytest.mark.parametrize("written", APOSTROPHES)
def test_every_apostrophe_is_an_apostrophe(written):
    assert terms(f"It {written} good") == ["it", "isn't", "not_good"]


@pytest.mark.parametrize("written", ["is n't good", "ca n't recommend", "do n't buy"])
def test_contraction_written_apart_negates(written):
    assert terms(written)[-1].startswith("not_")


@pytest.mark.parametrize(
    "written",
    [
        *(
            "⭐⭐⭐⭐⭐",
            "⭐️⭐️⭐️⭐️⭐️",
            "★ ★ ★ ★ ★",
            "🌟🌟🌟🌟🌟",
            "★★★★☆",
            "⭐ ⭐ ⭐ ⭐",
            "5⭐",
            "5 ⭐️",
            "4.5★",
            "4,5 ★",
            "5🌟",
        ),
        *("4.5 out of 5", "9 out of 10", "5 out of 5"),
    ],
)
def test_high_ratings_are_read(written):
    assert terms(f"Rating: {written} thanks") == ["rating", "<rated-high>", "thanks"]


@pytest.mark.parametrize("written", ["★☆☆☆☆", "⭐⭐", "1⭐", "1 out of 5", "2 out of 10", "★ ☆ ☆ ☆ ☆"])
def test_low_ratings_are_read(written):
    assert terms(written) == ["<rated-low>"]


@pytest.mark.parametrize(("written", "term"), [("10 / 10", "10/10"), ("7/10", "7/10"), ("1 / 5", "1/5")])
def test_fractions_are_ratings(written, term):
    assert terms(written) == [term]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("★ fast delivery", ["fast", "delivery"]),
        ("delivered on 1/5", ["delivered", "<number>"]),
        ("2 out of 3 people", ["<number>", "people"]),
        ("6 out of 5", ["<number>"]),
        ("Amazon 1/5", ["amazon", "1/5"]),
    ],
)
def test_what_only_looks_like_a_rating_is_not(written, expected):
    assert terms(written) == expected


@pytest.mark.parametrize(
    "written",
    [
        *(
            "Name:Table",
            "Total:3",
            r"C:\Users",
            "us:(555)",
            "Quality:Poor",
            "Camera (rear): good",
            "xDrive",
            "a=3",
            "b=D2",
        ),
        *(
            "see file:/etc",
            "x=(1+2)",
            "Size:Poor",
            "Model:P3",
            "ratio 3:2",
            "time 10:30",
            "options [a]: b",
            "Price:3.",
        ),
    ],
)
def test_emoticons_are_not_parts_of_words_numbers_and_paths(written):
    assert not {"<smile>", "<frown>", "<heart>"} & set(terms(written))
    letters = "".join(character for character in written.lower() if character.isalnum())
    assert "".join(terms(written)).replace("<number>", "") in letters  # nothing is cut off a word


@pytest.mark.parametrize(
    ("written", "term"),
    [
        *(
            (face, "<smile>")
            for face in (":)", "nice:)", ":-D", "lol:-D", ":P", "=)", ":o)", "xD", "XDD", "(:", ":]", ";)")
        ),
        *((face, "<frown>") for face in (":(", "sad:(", ":-(", ":/", ":'(", "):", "=(")),
    ],
)
def test_emoticons_are_read(written, term):
    assert term in terms(f"well {written} then")


@pytest.mark.parametrize("written", ["g\u200bood", "go\u00adod", "\ufeffgood", "g\u2060o\u200bod", "𝗴𝗼𝗼𝗱", "ｇｏｏｄ"])
def test_invisible_and_styled_characters_do_not_hide_words(written):
    assert terms(written) == ["good"]


@pytest.mark.parametrize(
    "text", ["isnâ€™t g\u200bood &amp; 4.5 out of 5", "â€™â€™", "\u200b\u200b", "a\u00ad&lt;b&gt;c ★ ★"]
)
def test_spans_refer_to_the_given_text(text):
    tokens = tokenize(text)
    assert [token.term for token in tokens] == terms(text)
    assert all(0 <= token.start < token.end <= len(text) for token in tokens)
    assert all(a.end <= b.start for a, b in pairwise(tokens))
