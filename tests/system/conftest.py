import io
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from product import PASSWORD, Product

from sentiment_app.ml import training
from sentiment_app.ml.artifact import SERVING, Artifact, describe


@pytest.fixture(scope="module")
def product(model):
    with tempfile.TemporaryDirectory(prefix="sentiment-system-") as directory:
        Path(directory).chmod(0o755)
        product = Product(Path(directory), *model)
        for command in (
            ("flask", "db", "upgrade"),
            ("flask", "model", "release", model[1]),
            ("flask", "model", "activate", model[1]),
        ):
            done = product.run(*command)
            assert done.returncode == 0, done.stderr
        done = product.run(
            "flask", "user", "create", "ada", "ada@example.org", "--password-stdin", input=PASSWORD + "\n"
        )
        assert done.returncode == 0, done.stderr
        product.start()
        yield product
        product.stop()
        product.servers.stop()


@pytest.fixture(scope="module")
def second(product):
    """Another model, released but not active: of the same templates, fitted otherwise, so that its scores differ."""
    fitted = training.train(
        training.TrainingData([], {}), replace(training.FAST, min_count=2, polarity_temperature=0.9)
    )
    scorer, content = training.compile_pipeline(fitted), io.BytesIO()
    scorer.save(content)
    known = {"recipe": "templates", "parameters": {}, "data": [], "metrics": {}, "duration_seconds": 0.0}
    manifest, raw = describe({SERVING: content.getvalue()}, scorer, "tests", **known)
    product.keep_model(Artifact(raw, content.getvalue()), manifest["version"])
    done = product.run("flask", "model", "release", manifest["version"])
    assert done.returncode == 0, done.stderr
    return manifest["version"]
