"""Serve any text classifier in ONNX format: a transformer with its tokenizer, or a pipeline over strings.

This module needs the extra `onnx`, so only `artifact` imports it, when it loads such a model. Loading runs no code from
the model: onnxruntime interprets a graph of known operators, and no libraries of custom operators are registered.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from sentiment_app.ml.runtime import LABELS, Assessment, Floats, ModelError, Scores, sum_by_label

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
MAX_REASON_CHARACTERS: Final = 300


def pack(model: bytes, tokenizer: bytes | None) -> bytes:
    """The file that is served: an archive that is the same for the same content."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, part in ((MODEL, model), (TOKENIZER, tokenizer)):
            if part is not None:
                archive.writestr(zipfile.ZipInfo(name), part)
    return content.getvalue()


class OnnxScorer:
    """A classifier in ONNX format.

    Each process scores with a single thread, because there is a process for each core.

    Args:
        content: the archive that `pack` wrote.
        classifier: `classes` (the label of each class), `output` (its name), `is_logits`, `max_tokens` (texts are cut
            there), and `batch_size` (the number of texts that are scored at once).

    Raises:
        ModelError: the model cannot be loaded, or its inputs are not strings or tokens.
    """

    def __init__(self, content: bytes, classifier: Mapping[str, Any]) -> None:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            model = archive.read(MODEL)
            tokenizer = archive.read(TOKENIZER).decode() if TOKENIZER in archive.namelist() else None
        self._session = _open_session(model)
        self._inputs = {part.name: part for part in self._session.get_inputs()}
        self._tokenizer = _open_tokenizer(tokenizer, classifier["max_tokens"]) if tokenizer else None
        self._classifier = classifier
        _check_inputs(self._inputs, has_tokenizer=tokenizer is not None)

    def output_names(self) -> list[str]:
        """The names of all outputs."""
        return [part.name for part in self._session.get_outputs()]

    def outputs(self, texts: Sequence[str]) -> Any:
        """The raw output for a few texts: an array of shape (n, classes), or a list of dictionaries by class."""
        return self._session.run([self._classifier["output"]], self._feed(texts))[0]

    def score(self, text: str) -> Scores:
        """Probabilities of negative, neutral and positive."""
        return self.score_many([text])[0]

    def score_many(self, texts: Iterable[str]) -> list[Scores]:
        """Probabilities for each text. Texts of a similar length are scored together, which saves padding."""
        given = list(texts)
        order = sorted(range(len(given)), key=lambda index: len(given[index]))
        found = np.empty((len(given), len(LABELS)))
        size = self._classifier["batch_size"]
        for start in range(0, len(order), size):
            part = order[start : start + size]
            found[part] = self._probabilities([given[index] for index in part])
        return [Scores(*row) for row in found.tolist()]

    def explain(self, text: str) -> None:
        """Return None, because such a model is not a sum of its words."""

    def assess(self, text: str) -> Assessment:
        """Scores. Such a model does not say which words it knows."""
        return Assessment(self.score(text), None)

    def assess_many(self, texts: Iterable[str]) -> list[Assessment]:
        """The assessment of each text."""
        return [Assessment(scores, None) for scores in self.score_many(texts)]

    def _probabilities(self, texts: Sequence[str]) -> Floats:
        found = to_array(self.outputs(texts))
        if self._classifier["is_logits"]:
            shifted = np.exp(found - found.max(axis=1, keepdims=True))
            found = shifted / shifted.sum(axis=1, keepdims=True)
        return sum_by_label(found, self._classifier["classes"])

    def _feed(self, texts: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        if self._tokenizer is None:
            (name, part), *_ = self._inputs.items()
            return {name: np.array(texts, dtype=object).reshape([-1] + [1] * (len(part.shape) - 1))}
        encoded = [self._tokenizer.encode(text) for text in texts]  # encode_batch would start threads
        length = max(1, *(len(each.ids) for each in encoded), 1)
        padding = {"input_ids": _padding_id(self._tokenizer)}
        values = {
            "input_ids": [each.ids for each in encoded],
            "attention_mask": [each.attention_mask for each in encoded],
            "token_type_ids": [each.type_ids for each in encoded],
        }
        return {
            name: np.array([row + [padding.get(name, 0)] * (length - len(row)) for row in values[name]], _dtype(part))
            for name, part in self._inputs.items()
        }


def to_array(output: Any) -> Floats:
    """An output as an array of shape (n, classes). skl2onnx returns a dictionary by class for each text by default."""
    if isinstance(output, list):
        return np.array([list(row.values()) for row in output], dtype=np.float64)
    return np.asarray(output, dtype=np.float64)


def _open_session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its messages may quote texts
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # it has no base class for its errors
        raise ModelError(f"onnxruntime cannot load the model: {str(error)[:MAX_REASON_CHARACTERS]}") from None


def _open_tokenizer(content: str, max_tokens: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(content)
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
    except Exception as error:
        raise ModelError(f"{TOKENIZER} cannot be read: {type(error).__name__}") from error
    return tokenizer


def _check_inputs(inputs: Mapping[str, Any], *, has_tokenizer: bool) -> None:
    tokens = {"input_ids", "attention_mask", "token_type_ids"}
    if has_tokenizer and "input_ids" in inputs and tokens.issuperset(inputs):
        return
    if not has_tokenizer and [part.type for part in inputs.values()] == ["tensor(string)"]:
        return
    listed = ", ".join(f"{name} ({part.type})" for name, part in inputs.items())
    raise ModelError(
        f"the ONNX model needs the inputs {listed}. It must take strings, or the tokens of a {TOKENIZER} beside it: "
        f"{', '.join(sorted(tokens))}"
    )


def _padding_id(tokenizer: Tokenizer) -> int:
    """Its value does not matter, because the attention mask hides it; but it must be a token."""
    found = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
    return next((number for number in found if number is not None), 0)


def _dtype(part: Any) -> type:
    return np.int32 if part.type == "tensor(int32)" else np.int64
