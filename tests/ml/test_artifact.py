import json

import pytest

from sentiment_app.ml.artifact import Artifact, open_artifact, sign
from sentiment_app.ml.runtime import ModelError

KEY = "a key that signs the models of tests only"


@pytest.fixture
def signed(model):
    return model[0]._replace(signature=sign(model[0].manifest, KEY))


def test_a_signed_artifact_loads_and_scores(signed, model):
    manifest, scorer = open_artifact(signed, KEY)
    assert manifest["version"] == model[1]
    assert scorer.score("I love it").label == "positive"


def test_another_key_is_refused(signed):
    with pytest.raises(ModelError, match="signature"):
        open_artifact(signed, "some other key that is long enough as well")


def test_a_changed_manifest_is_refused(signed):
    with pytest.raises(ModelError, match="signature"):
        open_artifact(signed._replace(manifest=signed.manifest.replace(b"templates", b"tampered!")), KEY)


def test_a_changed_file_is_refused_before_it_is_read(signed):
    with pytest.raises(ModelError, match="digest"):
        open_artifact(signed._replace(serving=b"not even numpy"), KEY)


def test_other_golden_scores_are_refused(signed):
    manifest = json.loads(signed.manifest)
    manifest["golden"][0]["scores"] = [1.0, 0.0, 0.0]
    raw = json.dumps(manifest).encode()
    with pytest.raises(ModelError, match="golden"):
        open_artifact(Artifact(raw, signed.serving, sign(raw, KEY)), KEY)
