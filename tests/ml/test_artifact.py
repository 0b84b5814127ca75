import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sentiment_app.ml import artifact
from sentiment_app.ml.artifact import SERVING, Artifact, describe, open_artifact, sign
from sentiment_app.ml.runtime import Assessment, ModelError, Scorer, Scores, ScoringError

KEY = "a key that signs the models of tests only"


@pytest.fixture
def signed(model):
    return model[0]._replace(signature=sign(model[0].manifest, KEY))


def test_signed_artifact_loads_and_scores(signed, model):
    manifest, scorer = open_artifact(signed, KEY)
    assert manifest["version"] == model[1]
    assert scorer.score("I love it").label == "positive"


def test_signature_of_another_key_is_refused(signed):
    with pytest.raises(ModelError, match="signature"):
        open_artifact(signed, "some other key that is long enough as well")


def test_changed_manifest_is_refused(signed):
    with pytest.raises(ModelError, match="signature"):
        open_artifact(signed._replace(manifest=signed.manifest.replace(b"templates", b"tampered!")), KEY)


@pytest.mark.asvs("1.5.2")
def test_changed_file_is_refused_before_it_is_loaded(signed):
    with pytest.raises(ModelError, match="digest"):
        open_artifact(signed._replace(serving=b"not even numpy"), KEY)


def test_different_golden_scores_are_refused(signed):
    manifest = json.loads(signed.manifest)
    manifest["golden"][0]["scores"] = [1.0, 0.0, 0.0]
    raw = json.dumps(manifest).encode()
    with pytest.raises(ModelError, match="golden"):
        open_artifact(Artifact(raw, signed.serving, sign(raw, KEY)), KEY)


def resigned(signed, **changes):
    """The artifact with another manifest, which is signed."""
    manifest = {name: value for name, value in (json.loads(signed.manifest) | changes).items() if value is not None}
    raw = json.dumps(manifest).encode()
    return Artifact(raw, signed.serving, sign(raw, KEY))


def test_artifact_of_another_version_is_refused(signed, model):
    assert open_artifact(signed, KEY, model[1])
    with pytest.raises(ModelError, match=f"belongs to the version {model[1]}"):
        open_artifact(signed, KEY, "20260101-00000000")


@pytest.mark.parametrize("signature", ["", "ä", "\ud800", "0" * 64])
def test_malformed_signature_is_refused(signed, signature):
    with pytest.raises(ModelError, match="signature"):
        open_artifact(signed._replace(signature=signature), KEY)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: value} for name in ("golden", "files") for value in (None, 7, [], "x")),
        *({"version": value} for value in (None, 7, [])),
        {"golden": [{"text": "x"}]},
        {"golden": [{"text": "x", "scores": [0.5, 0.5]}]},
        {"golden": [{"text": "x", "scores": ["a", "b", "c"]}]},
    ],
)
def test_incomplete_manifest_is_refused(signed, changes):
    with pytest.raises(ModelError, match="the manifest is not complete"):
        open_artifact(resigned(signed, **changes), KEY)


@pytest.mark.parametrize("raw", [b"[]", b"7", b"null", b"{", b"\xff", b"[" * 100_000])
def test_manifest_that_is_no_object_is_refused(signed, raw):
    with pytest.raises(ModelError, match="the manifest is not complete"):
        open_artifact(Artifact(raw, signed.serving, sign(raw, KEY)), KEY)


@pytest.mark.parametrize("rows", [slice(None, -1), slice(None, None, 2), slice(0, 0)])
def test_table_of_another_length_is_refused(signed, rows):
    with np.load(io.BytesIO(signed.serving)) as arrays:
        changed = {**arrays, "table": arrays["table"][rows]}
    content = io.BytesIO()
    np.savez(content, **changed)
    files = {**json.loads(signed.manifest)["files"], SERVING: artifact.digest(content.getvalue())}
    broken = resigned(signed, files=files)._replace(serving=content.getvalue())
    with pytest.raises(ModelError, match=r"table of weights|does not load"):
        open_artifact(broken, KEY)


@pytest.mark.parametrize("scores", [(2.0, 3.0, 5.0), (-1.0, 1.0, 1.0), (float("nan"),) * 3, (float("inf"), 0.0, 0.0)])
def test_model_whose_scores_are_no_probabilities_is_not_described(scores):
    class Wrong(Odd):
        def assess(self, _text):
            return Assessment(Scores(*self.scores), None)

    with pytest.raises(ScoringError, match="probabilities"):
        describe({SERVING: b""}, Wrong(scores), "tests")


def test_same_model_can_be_stored_twice_at_once(tmp_path):
    files = {f"file-{number}": bytes(200_000) for number in range(20)} | {artifact.MANIFEST: b"{}"}
    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(lambda _: artifact.write(tmp_path, "one", files), range(40)))
    assert set(stored) == {tmp_path / "one"}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == files


def test_half_written_model_is_not_listed(tmp_path):
    partial = tmp_path / ".one.x"
    partial.mkdir()
    (partial / artifact.MANIFEST).write_text('{"version": "one", "recipe": "fast", "created_at": "2026"}')
    assert artifact.find_manifests(tmp_path) == []


class Odd:
    """A scorer that fails like an imported pipeline may fail after an upgrade of its library."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, _text):
        if self.scores is None:
            raise AttributeError("multi_class")
        return self.scores


@pytest.mark.parametrize("scores", [None, Scores(float("nan"), float("nan"), float("nan"))])
def test_model_that_cannot_score_golden_texts_is_refused(signed, monkeypatch, scores):
    monkeypatch.setattr(artifact, "load", lambda *_: Odd(scores))
    with pytest.raises(ModelError, match="golden"):
        open_artifact(signed, KEY)


def test_digest_in_unsigned_manifest_is_not_used_as_path(tmp_path):
    other = tmp_path / "other"
    other.write_text("somebody's")
    assert artifact.Cache(tmp_path / "cache").get(str(other)) is None
    assert other.exists()


@pytest.mark.parametrize("content", ["{}", "[]", "7", "{", '{"created_at": "2026"}'])
def test_broken_manifest_does_not_hide_others(tmp_path, content):
    for name, text in (("broken", content), ("whole", '{"version": "one", "recipe": "fast", "created_at": "2026"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / artifact.MANIFEST).write_text(text)
    assert [entry["version"] for entry in artifact.find_manifests(tmp_path)] == ["one"]


SERVE = """
import pathlib, re, sys
from sentiment_app.ml.artifact import Artifact, open_artifact
manifest, serving = (pathlib.Path(path).read_bytes() for path in sys.argv[1:3])
scorer = open_artifact(Artifact(manifest, serving, sys.argv[3]), sys.argv[4])[1]
size = re.search(r"VmRSS:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]
print(scorer.score("w1 w2 w3").label, "sklearn" in sys.modules, size)
"""


def test_default_size_model_needs_less_than_100_mb_and_no_sklearn(tmp_path):
    size = 240_000  # the default recipe keeps 239 419 features
    vocabulary = [f"w{number} w{number * 7}" for number in range(size)]
    scorer = Scorer(vocabulary, np.zeros((size + 1, 4)), np.array([1.0, 1.0, -1.0]), (50.0, 150.0, 0.7))
    content = io.BytesIO()
    scorer.save(content)
    known = {"recipe": "large", "parameters": {}, "data": [], "metrics": {}, "duration_seconds": 0.0}
    _, raw = describe({SERVING: content.getvalue()}, scorer, "tests", **known)
    (tmp_path / "manifest").write_bytes(raw)
    (tmp_path / "serving").write_bytes(content.getvalue())
    arguments = [str(tmp_path / "manifest"), str(tmp_path / "serving"), sign(raw, KEY), KEY]
    done = subprocess.run([sys.executable, "-c", SERVE, *arguments], capture_output=True, text=True)
    label, imported, kilobytes = done.stdout.split()
    assert (label, imported) == ("positive", "False")
    assert int(kilobytes) * 1024 < 100e6
