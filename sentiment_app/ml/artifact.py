"""A trained model as files: the serving form, the pipeline that it was compiled from, and the manifest of both.

    <model_dir>/<version>/serving.npz         what production loads: arrays only, no pickle
                          pipeline.joblib     the fitted scikit-learn pipeline, for training and audit
                          outcomes.npz        which held-out texts it predicted correctly, for later comparisons
                          manifest.json       digests, recipe, data, metrics, golden texts with their scores

An imported model has only `pipeline.joblib`, or `classifier.onnx.zip` with an ONNX model, and the manifest.

Loading a joblib file runs code from it. So a file is loaded only if the manifest contains its SHA-256 digest. The
manifest of a release is signed with the service's key (HMAC-SHA256, RFC 2104).
"""

import contextlib
import hashlib
import hmac
import importlib
import io
import json
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import joblib

from sentiment_app.ml.runtime import LABELS, ModelError, PipelineScorer, Scorer, TextScorer, find_assessment

SERVING, PIPELINE, ONNX, MANIFEST = "serving.npz", "pipeline.joblib", "classifier.onnx.zip", "manifest.json"
LIBRARIES = ("numpy", "scipy", "scikit-learn", "joblib")

# Scored when a model is built, and again when it is loaded: the same file must give the same scores.
GOLDEN_TEXTS = (
    "I love this, it works perfectly.",
    "What a waste of money, it broke after a day.",
    "The parcel arrives on Tuesday.",
    "Not good at all :(",
    "not bad, not bad at all!",
    "Das ist ein Satz auf Deutsch.",
    "",
)
GOLDEN_TOLERANCE = 1e-6
# Processors compute the 8-bit numbers of an ONNX model with different instructions, which round differently.
ONNX_TOLERANCE = 0.02


class Golden(TypedDict):
    """A text and the scores that the model gave it when it was built."""

    text: str
    scores: list[float]


class Manifest(TypedDict):
    """Everything that is known about a model."""

    version: str
    created_at: str
    recipe: str
    parameters: dict[str, Any]
    data: list[dict[str, Any]]
    metrics: dict[str, Any]
    refit: NotRequired[bool]
    """Whether the model was trained on all data after its metrics were measured on held-out texts."""
    language: NotRequired[str | None]
    """The code of the language of the training data (ISO 639-1), if it is known."""
    duration_seconds: float
    code_version: str
    libraries: dict[str, str]
    files: dict[str, str]
    golden: list[Golden]
    classifier: NotRequired[dict[str, Any]]
    """How to read the outputs of an imported model: `classes` has the label of each class."""


class Artifact(NamedTuple):
    """A model as bytes: the manifest exactly as it was signed, and the file that is served."""

    manifest: bytes
    serving: bytes
    signature: str = ""


def digest(content: bytes) -> str:
    """The SHA-256 digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sign(manifest: bytes, key: str) -> str:
    """The HMAC-SHA256 of a manifest, in hexadecimal."""
    return hmac.new(key.encode(), manifest, hashlib.sha256).hexdigest()


def open_artifact(artifact: Artifact, key: str, version: str | None = None) -> tuple[Manifest, TextScorer]:
    """Check an artifact and load it: signature, version, digest, then the golden texts.

    Args:
        artifact: the manifest with its signature, and the file.
        key: the key of the signature.
        version: the version that it must be. Otherwise a signed release could be stored under another's name.

    Raises:
        ModelError: names the check that failed. No file is interpreted before its digest was verified.
    """
    if not hmac.compare_digest(sign(artifact.manifest, key).encode(), artifact.signature.encode(errors="replace")):
        raise ModelError("the signature of the manifest is not valid")
    manifest = _parse_manifest(artifact.manifest)
    if version not in (None, manifest["version"]):
        raise ModelError(f"the manifest belongs to the version {manifest['version']}")
    name = _served_file(manifest["files"])
    if manifest["files"].get(name) != digest(artifact.serving):
        raise ModelError(f"the digest of {name} differs from the digest in the manifest")
    scorer = load(name, artifact.serving, manifest.get("classifier", {}))
    _check_golden(scorer, manifest["golden"], ONNX_TOLERANCE if name == ONNX else GOLDEN_TOLERANCE)
    return manifest, scorer


def _parse_manifest(raw: bytes) -> Manifest:
    try:
        manifest = json.loads(raw)
        golden = [(str(entry["text"]), [float(score) for score in entry["scores"]]) for entry in manifest["golden"]]
        is_complete = bool(golden) and all(len(scores) == len(LABELS) for _, scores in golden)
        if is_complete and isinstance(manifest["version"], str) and isinstance(manifest["files"], dict):
            return cast(Manifest, manifest)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ModelError("the manifest is not complete: it needs a version, files and golden texts with their scores")


def load(name: str, content: bytes, classifier: Mapping[str, Any]) -> TextScorer:
    """The model in a file. The digest of the file must have been verified, because loading joblib runs code from it.

    Raises:
        ModelError: it does not load.
    """
    try:
        if name == SERVING:
            return Scorer.load(io.BytesIO(content))
        if name == PIPELINE:
            return PipelineScorer(joblib.load(io.BytesIO(content)), classifier["classes"])
        scorer: TextScorer = importlib.import_module("sentiment_app.ml.onnx_scorer").OnnxScorer(content, classifier)
    except ModelError:
        raise
    except ImportError as error:
        missing = f"{name} needs the module {error.name}, which is not installed"
        raise ModelError(missing + ". Install requirements-onnx.txt" * (name == ONNX)) from None
    except Exception as error:
        raise ModelError(f"{name} does not load: {type(error).__name__}") from error
    return scorer


def served_digest(manifest: Manifest) -> str:
    """The SHA-256 digest of the file that is served."""
    return manifest["files"][_served_file(manifest["files"])]


class Cache:
    """Files of released models on this host, by their SHA-256 digest. The cache may be deleted or read-only."""

    MAX_FILES = 8

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, sha256: str) -> bytes | None:
        """The file with this digest. A file with another digest is deleted."""
        if not re.fullmatch("[0-9a-f]{64}", sha256):  # it may come from a manifest that is not verified yet
            return None
        path = self._directory / sha256
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            if digest(content) == sha256:
                return content
            path.unlink()
        return None

    def put(self, content: bytes) -> None:
        """Store a file atomically, and delete all but the newest files."""
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._directory, prefix=".", delete=False) as partial:
                partial.write(content)
            Path(partial.name).replace(self._directory / digest(content))
            newest = sorted(self._directory.glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in newest[self.MAX_FILES :]:
                path.unlink()


def read(directory: Path) -> Artifact:
    """The artifact in the directory of a version, without a signature.

    Raises:
        ModelError: there is no model, or it cannot be read.
    """
    try:
        manifest = (directory / MANIFEST).read_bytes()
        return Artifact(manifest, (directory / _served_file(json.loads(manifest)["files"])).read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"the folder {directory} contains no model: {error.filename} is missing") from None
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the model in {directory} cannot be read: {error}") from None


def find_manifests(model_dir: Path) -> list[Manifest]:
    """The manifests of all models in a folder, newest first."""
    found: list[Manifest] = []
    for path in model_dir.glob(f"[!.]*/{MANIFEST}"):
        with contextlib.suppress(OSError, ValueError):  # a broken manifest must not hide the others
            manifest = json.loads(path.read_bytes())
            if isinstance(manifest, dict) and manifest.keys() >= {"version", "recipe", "created_at"}:
                found.append(cast(Manifest, manifest))
    return sorted(found, key=lambda manifest: manifest["created_at"], reverse=True)


def describe(files: dict[str, bytes], scorer: TextScorer, code_version: str, **known: Any) -> tuple[Manifest, bytes]:
    """The manifest of a new model, and its canonical bytes. The version is the day and a digest of the content."""
    now = datetime.now(UTC)
    served = _served_file(files)
    # The same file with other labels is another model.
    labels = ",".join(known.get("classifier", {}).get("classes", ()))
    libraries = ("onnxruntime", "tokenizers") if served == ONNX else ()
    manifest = {
        "version": f"{now:%Y%m%d}-{digest(files[served] + labels.encode())[:8]}",
        "created_at": now.isoformat(timespec="seconds"),
        "code_version": code_version,
        "libraries": {
            "python": platform.python_version(),
            **{name: library_version(name) for name in LIBRARIES + libraries},
        },
        "files": {name: digest(content) for name, content in sorted(files.items())},
        "golden": [Golden(text=text, scores=list(find_assessment(scorer, text).scores)) for text in GOLDEN_TEXTS],
        **known,
    }
    return cast(Manifest, manifest), json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode()


def write(model_dir: Path, version: str, files: dict[str, bytes]) -> Path:
    """Store the files of a version. The directory appears atomically."""
    model_dir.mkdir(parents=True, exist_ok=True)
    final = model_dir / version
    partial = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=model_dir))  # the same model may be stored twice at once
    partial.chmod(0o755)
    try:
        for name, content in files.items():
            (partial / name).write_bytes(content)
        try:
            partial.rename(final)
        except OSError:  # it exists: the same content was trained on the same day
            for name in files:
                (partial / name).replace(final / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _served_file(files: Mapping[str, object]) -> str:
    """The name of the file that is served: the compiled form, or an imported model as it was given."""
    return next((name for name in (SERVING, ONNX) if name in files), PIPELINE)


def _check_golden(scorer: TextScorer, golden: Sequence[Golden], tolerance: float) -> None:
    for entry in golden:
        try:
            scores = scorer.score(entry["text"])
        except Exception as error:
            raise ModelError(f"the golden texts cannot be scored: {type(error).__name__}") from error
        # A comparison with NaN is false, so NaN is refused.
        if not all(abs(a - b) <= tolerance for a, b in zip(scores, entry["scores"], strict=True)):
            raise ModelError("the golden texts have different scores than when the model was built")
