import io
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from harness import Product

from sentiment_app.ml.artifact import SERVING, Artifact, describe
from sentiment_app.ml.training import pipeline as training


@pytest.fixture(scope="session")
def product(model):
    with tempfile.TemporaryDirectory(prefix="sentiment-system-") as directory:
        Path(directory).chmod(0o755)
        product = Product(Path(directory), *model)
        product.start()
        yield product
        product.stop()


@pytest.fixture(scope="module")
def worker(product):
    process = product.process("sentiment_app.worker")
    yield process
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="session")
def second(product):
    """Another model, released but not active. Its training parameters differ, so that its scores differ."""
    fitted = training.train(
        training.TrainingData([], {}), replace(training.FAST, min_count=2, polarity_temperature=0.9)
    )
    scorer, content = training.compile_pipeline(fitted), io.BytesIO()
    scorer.save(content)
    known = {"recipe": "templates", "parameters": {}, "data": [], "metrics": {}, "duration_seconds": 0.0}
    manifest, raw = describe({SERVING: content.getvalue()}, scorer, "tests", **known)
    product.store_model(Artifact(raw, content.getvalue()), manifest["version"])
    product.run_or_fail("flask", "model", "release", manifest["version"])
    return manifest["version"]
