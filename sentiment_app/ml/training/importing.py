"""Import a fitted classifier of another origin: a scikit-learn pipeline, or an ONNX model with its tokenizer."""

import importlib
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np

try:
    import onnx
except ImportError:  # it is a part of the extra `onnx`
    onnx = None  # type: ignore[assignment]  # without the extra, nothing is imported

from sentiment_app.ml import artifact
from sentiment_app.ml.artifact import Manifest
from sentiment_app.ml.runtime import LABELS, SUM_TOLERANCE, ModelError, ScoringError, TextScorer

# Names of classes that need no explanation.
LABEL_NAMES: Final = dict(zip((*LABELS, "neg", "neu", "pos"), LABELS * 2, strict=True))
MAX_TOKENS: Final = 512
MAX_MODEL_BYTES: Final = 150 * 1024**2
BATCH_SIZES: Final = (1, 4, 16, 32)
# How much the scores of a text may depend on the texts beside it: rounding only.
BATCH_TOLERANCE: Final = 0.001
# A short and a long text, of which the speed is measured.
TIMED_TEXTS: Final = {"short": "The room was small, but the staff were lovely.", "long": "It was fine, I think. " * 84}
TIMED_SECONDS: Final = 0.5


def import_pipeline(
    file: Path, *, model_dir: Path, code_version: str, names: Mapping[str, int] | None = None
) -> Manifest:
    """Store a fitted scikit-learn pipeline as a model. It is served as it is.

    Args:
        file: the pipeline, saved with joblib. Loading it runs code from it.
        model_dir: the folder in which the model is stored.
        code_version: the git revision of the code.
        names: the names of its classes, with their index in LABELS. Negative (neg), neutral and positive are known.

    Raises:
        ModelError: it does not load, or has no probabilities for the labels.
    """
    content = file.read_bytes()
    try:
        pipeline = joblib.load(io.BytesIO(content))
    except ModuleNotFoundError as error:
        raise ModelError(f"{file} needs the module {error.name}, which is not installed here") from None
    except AttributeError as error:
        raise ModelError(f"{file} uses a function or class that is not importable here: {error}") from None
    except Exception as error:
        raise ModelError(f"{file} cannot be loaded: {type(error).__name__}") from error
    if not hasattr(pipeline, "predict_proba"):
        raise ModelError(
            f"{file}: the model has no predict_proba. Wrap a classifier without it in CalibratedClassifierCV"
        )
    classes = match_labels([str(name) for name in getattr(pipeline, "classes_", [])], names)
    return _store(file, {artifact.PIPELINE: content}, {"classes": classes}, model_dir, code_version)


def import_onnx(path: Path, *, model_dir: Path, code_version: str, names: Mapping[str, int] | None = None) -> Manifest:
    """Store a text classifier in ONNX format as a model. Loading it runs no code.

    Args:
        path: the ONNX file, or its folder. A transformer needs its `tokenizer.json` in the same folder or above it.
        model_dir: the folder in which the model is stored.
        code_version: the git revision of the code.
        names: the names or numbers of its classes, with their index in LABELS. By default the names are those in
            `config.json`, or those of the model's output.

    Raises:
        ModelError: it cannot be loaded, its inputs or outputs are not those of a text classifier, or the labels of its
            classes are not known.
    """
    try:
        importlib.import_module("onnx")
        onnx_scorer = importlib.import_module("sentiment_app.ml.onnx_scorer")  # it needs the optional extra `onnx`
    except ImportError as error:
        raise ModelError(f"ONNX models need the module {error.name}. Install requirements-onnx.txt") from None
    file = _find_model(path)
    if file.stat().st_size > MAX_MODEL_BYTES:
        raise ModelError(f"{file} has more than {MAX_MODEL_BYTES // 1024**2} MB")
    tokenizer = _read_beside(file, onnx_scorer.TOKENIZER)
    model = file.read_bytes()
    _refuse_external_data(model)
    content = onnx_scorer.pack(model, tokenizer)
    classifier: dict[str, Any] = {"max_tokens": _max_tokens(file), "batch_size": 1, "is_logits": False, "classes": []}
    scorer, found = _try_outputs(onnx_scorer.OnnxScorer, content, classifier)
    classes = list(found[0]) if isinstance(found, list) else _class_names(file, np.shape(found))
    classifier["classes"] = match_labels([str(name) for name in classes], names)
    classifier["is_logits"] = not _are_probabilities(onnx_scorer.to_array(found))
    measured = {size: _milliseconds(scorer, size) for size in BATCH_SIZES if _is_independent(scorer, classifier, size)}
    classifier["batch_size"] = min(measured, key=lambda size: sum(measured[size].values()))
    classifier["milliseconds_per_text"] = measured[classifier["batch_size"]]
    return _store(file, {artifact.ONNX: content}, classifier, model_dir, code_version)


def _refuse_external_data(content: bytes) -> None:
    """Refuse a model whose weights are in other files: onnxruntime would open any path that the model names.

    Raises:
        ModelError
    """
    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # noqa: BLE001  # onnxruntime says what is wrong
        return
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data for tensor in _tensors(model)):
        raise ModelError("the weights of the ONNX model are in another file. Save them in the file of the model")


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors in a protobuf message."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                if hasattr(part, "ListFields"):
                    yield from _tensors(part)


def _is_independent(scorer: Any, classifier: dict[str, Any], size: int) -> bool:
    """Whether the scores of a text are the same beside other texts. They are not if a model ignores the padding."""
    texts = [*artifact.GOLDEN_TEXTS, *TIMED_TEXTS.values()]
    classifier["batch_size"] = 1
    alone = np.array(scorer.score_many(texts))
    classifier["batch_size"] = size
    return bool(np.abs(np.array(scorer.score_many(texts)) - alone).max() <= BATCH_TOLERANCE)


def match_labels(classes: Sequence[str], names: Mapping[str, int] | None) -> list[str]:
    """The label of each class of a model.

    Raises:
        ModelError: a class has no label, or no class is negative or positive.
    """
    known = {name: LABELS[index] for name, index in names.items()} if names else LABEL_NAMES
    found = [known.get(name) or (known.get(name.lower()) if not names else None) for name in classes]
    labels = [label for label in found if label]
    if len(labels) < len(classes) or not {"negative", "positive"} <= set(labels):
        example = ",".join(f"{name}={LABELS[min(index, 2)]}" for index, name in enumerate(classes[:3]))
        raise ModelError(
            f"the model needs classes with the labels negative and positive, and perhaps neutral. Its classes are: "
            f"{', '.join(classes) or 'none'}. Name the label of each class, such as --labels {example or '0=negative'}"
        )
    return labels


def _store(
    file: Path, files: dict[str, bytes], classifier: dict[str, Any], model_dir: Path, code_version: str
) -> Manifest:
    known = {"recipe": f"imported {file.name}", "parameters": {}, "data": [], "metrics": {}, "duration_seconds": 0.0}
    (name, content), *_ = files.items()
    try:
        scorer = artifact.load(name, content, classifier)
        manifest, raw = artifact.describe(files, scorer, code_version, classifier=classifier, **known)
    except ModelError:
        raise
    except ScoringError as error:
        raise ModelError(f"{file} cannot score texts. {error}") from None
    except Exception as error:
        raise ModelError(f"{file} cannot score texts: it raised {type(error).__name__}") from error
    artifact.write(model_dir, manifest["version"], {**files, artifact.MANIFEST: raw})
    return manifest


def _find_model(path: Path) -> Path:
    if path.is_file():
        return path
    for name in ("model.onnx", "onnx/model.onnx"):
        if (path / name).is_file():
            return path / name
    found = sorted(path.rglob("*.onnx"))
    if len(found) == 1:
        return found[0]
    listed = f": {', '.join(str(file.relative_to(path)) for file in found[:10])}. Name one of them" if found else ""
    raise ModelError(f"the folder {path} has {len(found)} ONNX files{listed}")


def _read_beside(file: Path, name: str) -> bytes | None:
    """A file of the model. Some exports keep the ONNX file in a folder of its own."""
    for folder in (file.parent, file.parent.parent):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    return None


def _read_json(file: Path, name: str) -> dict[str, Any]:
    content = _read_beside(file, name)
    try:
        found = json.loads(content) if content else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ModelError(f"{name} beside {file} is not a JSON object")
    return found


def _max_tokens(file: Path) -> int:
    """The number of tokens that the model can read. RoBERTa counts its positions from 2."""
    config = _read_json(file, "config.json")
    limits = [_read_json(file, "tokenizer_config.json").get("model_max_length"), config.get("max_position_embeddings")]
    if isinstance(limits[1], int) and "roberta" in str(config.get("model_type", "")):
        limits[1] -= 2
    return min([MAX_TOKENS, *(limit for limit in limits if type(limit) is int and limit > 0)])


def _try_outputs(scorer_class: Any, content: bytes, classifier: dict[str, Any]) -> tuple[Any, Any]:
    """A scorer, and what it returns for the golden texts. Sets the name of the output with a value for each class."""
    scorer = scorer_class(content, classifier)
    names = scorer.output_names()
    wanted = [name for name in names if name in ("logits", "probabilities", "output_probability")]
    for name in [*wanted, *(name for name in reversed(names) if name not in wanted)]:
        classifier["output"] = name
        try:
            found = scorer.outputs(artifact.GOLDEN_TEXTS)
        except Exception as error:
            raise ModelError(f"the ONNX model cannot score texts: {type(error).__name__}") from error
        is_table = isinstance(found, list) and found and isinstance(found[0], dict)
        if is_table or (isinstance(found, np.ndarray) and found.ndim == 2 and found.dtype.kind == "f"):
            return scorer, found
    raise ModelError(
        f"the ONNX model has no output of shape (texts, classes). Its outputs are: {', '.join(names)}. "
        "Export it for text classification"
    )


def _class_names(file: Path, shape: tuple[int, ...]) -> list[str]:
    """The names of the classes in config.json; their numbers if it has none."""
    names = _read_json(file, "config.json").get("id2label")
    numbers = [str(number) for number in range(shape[1])]
    if not isinstance(names, dict) or set(names) != set(numbers):
        return numbers
    return [str(names[number]) for number in numbers]


def _are_probabilities(found: Any) -> bool:
    return bool((found >= 0).all() and (np.abs(found.sum(axis=1) - 1) <= SUM_TOLERANCE).all())


def _milliseconds(scorer: TextScorer, size: int) -> dict[str, float]:
    """The time for a text of each kind, if texts are scored in batches of this size."""
    measured = {}
    for kind, text in TIMED_TEXTS.items():
        scorer.score_many([text] * size)  # warms up
        started, rounds = time.perf_counter(), 0
        while rounds < 1 or time.perf_counter() - started < TIMED_SECONDS:
            scorer.score_many([text] * size)
            rounds += 1
        measured[kind] = round(1000 * (time.perf_counter() - started) / rounds / size, 3)
    return measured
