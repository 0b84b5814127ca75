"""ONNX classifiers are imported, released, served and refused like other models."""

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from sentiment_app.registry import releases
from sentiment_app.registry.serving import serving

WORDS = ["[PAD]", "[UNK]", "good", "bad", "monday", "fine"]
TEXTS = ["good fine", "bad awful", "on monday", "good good", "awful", "at noon"]
LABELS = ["positive", "negative", "neutral"] * 2


@pytest.fixture
def flask(make_app, tmp_path):
    app = make_app(model_dir=tmp_path / "models")
    with app.app_context():
        runner = app.test_cli_runner()
        yield lambda *arguments: runner.invoke(args=["model", *map(str, arguments)])


def write_transformer(folder, weights, *, output="logits", int_type=TensorProto.INT64, **config):
    """A classifier whose logits are the mean of a row of `weights` for each token, as an export would have it."""
    folder.mkdir(exist_ok=True)
    table = np.asarray(weights, np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["found"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["found", "wide"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["wide", "middle"], ["number"], keepdims=0),
        helper.make_node("Clip", ["number", "least"], ["size"]),
        helper.make_node("Div", ["total", "size"], [output]),
    ]
    constants = {
        "table": table,
        "last": np.array([-1]),
        "middle": np.array([1]),
        "least": np.array(1, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info(name, int_type, ["n", "length"]) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", table.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# Of [PAD], [UNK], good, bad, monday and fine, for the classes neg, neu and pos.
WEIGHTS = [[9, 9, 9], [0, 1, 0], [-3, 0, 3], [3, 0, -3], [0, 3, 0], [-1, 0, 2]]
NAMES = {"id2label": {"0": "NEG", "1": "NEU", "2": "POS"}, "max_position_embeddings": 16}


def softmax(logits):
    powers = np.exp(np.asarray(logits, float))
    return powers / powers.sum()


def activate(flask, *arguments):
    done = flask("import", *arguments)
    assert done.exit_code == 0, done.output
    version = next(line.split()[0] for line in done.output.splitlines() if "is stored" in line)
    for command in ("release", "activate", "verify"):
        assert flask(command, version).exit_code == 0
    return version


def analyze(client, headers, text, **fields):
    answer = client.post("/api/v1/sentiment/analyze", json={"text": text, **fields}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json


def test_transformer_is_served_with_the_labels_of_its_configuration(flask, client, as_ada, tmp_path):
    version = activate(flask, write_transformer(tmp_path / "model", WEIGHTS, **NAMES))
    answer = analyze(client, as_ada, "good monday", explain=True)
    assert answer["model_version"] == version
    assert list(answer["scores"].values()) == pytest.approx(softmax([-1.5, 1.5, 1.5]), abs=1e-5)
    assert "explanation" not in answer


def test_padding_does_not_change_the_scores_of_a_batch(flask, tmp_path):
    activate(flask, write_transformer(tmp_path / "model", WEIGHTS, **NAMES))
    scorer = serving().current().scorer
    scorer._classifier["batch_size"] = 3
    texts = ["good", "bad bad monday fine good", "", "monday", "fine fine", "bad"]
    for text, scores in zip(texts, scorer.score_many(texts), strict=True):
        assert scores == pytest.approx(scorer.score(text), abs=1e-5)
    assert scorer.score_many([]) == []


def test_model_without_a_mask_scores_each_text_alone(flask, tmp_path):
    """It would take the padding beside a longer text for words."""
    folder = write_transformer(tmp_path / "model", WEIGHTS, **NAMES)
    mean = helper.make_node("ReduceMean", ["found", "middle"], ["logits"], keepdims=0)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["found"]), mean]
    table = numpy_helper.from_array(np.asarray(WEIGHTS, np.float32), "table")
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [table, numpy_helper.from_array(np.array([1]), "middle")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    activate(flask, folder)
    scorer = serving().current().scorer
    assert scorer._classifier["batch_size"] == 1
    assert scorer.score_many(["good", "bad " * 9])[0] == scorer.score("good")


def test_large_model_is_released_in_pieces(flask, tmp_path, monkeypatch):
    monkeypatch.setattr(releases, "SENT_BYTES", 100)
    version = activate(flask, write_transformer(tmp_path / "model", WEIGHTS, **NAMES))
    assert flask("release", version).exit_code == 0  # again
    assert flask("verify", version).exit_code == 0


def test_text_is_cut_at_the_limit_of_the_model(flask, client, as_ada, tmp_path):
    activate(flask, write_transformer(tmp_path / "model", WEIGHTS, **NAMES))
    assert analyze(client, as_ada, "good " * 16 + "bad " * 500)["scores"]["positive"] > 0.9


def test_two_classes_have_no_neutral_scores(flask, client, as_ada, tmp_path):
    weights = [[row[0], row[2]] for row in WEIGHTS]
    folder = write_transformer(tmp_path / "model", weights, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    refused = flask("import", folder)
    assert refused.exit_code == 1
    assert "--labels LABEL_0=negative,LABEL_1=" in refused.output
    activate(flask, folder, "--labels", "LABEL_0=negative,LABEL_1=positive")
    scores = analyze(client, as_ada, "good")["scores"]
    assert list(scores.values()) == pytest.approx([*softmax([-3, 3])[:1], 0, softmax([-3, 3])[1]], abs=1e-5)


def test_several_classes_may_have_the_same_label(flask, client, as_ada, tmp_path):
    weights = [[0, 0, 0, 0, 0]] * 2 + [[0, 0, 0, 1, 2]] * 4
    folder = write_transformer(tmp_path / "model", weights)
    activate(flask, folder, "--labels", "0=negative,1=negative,2=neutral,3=positive,4=positive")
    expected = softmax([0, 0, 0, 1, 2])
    scores = analyze(client, as_ada, "good")["scores"]
    assert list(scores.values()) == pytest.approx([expected[:2].sum(), expected[2], expected[3:].sum()], abs=1e-5)


@pytest.mark.parametrize("zipmap", [True, False])
def test_pipeline_over_strings_scores_like_its_original(flask, client, as_ada, tmp_path, zipmap):
    # Lower case needs the locale en_US.UTF-8 in onnxruntime.
    fitted = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression()).fit(TEXTS, LABELS)
    model = to_onnx(
        fitted, initial_types=[("text", StringTensorType([None, 1]))], options={id(fitted): {"zipmap": zipmap}}
    )
    (tmp_path / "own.onnx").write_bytes(model.SerializeToString())
    labels = [] if zipmap else ["--labels", "0=negative,1=neutral,2=positive"]
    activate(flask, tmp_path / "own.onnx", *labels)
    for text in TEXTS:
        expected = dict(zip(fitted.classes_, fitted.predict_proba([text])[0], strict=True))
        assert analyze(client, as_ada, text)["scores"] == pytest.approx(expected, abs=1e-4)


def test_same_file_with_other_labels_is_another_model(flask, tmp_path):
    folder = write_transformer(tmp_path / "model", WEIGHTS)
    first = activate(flask, folder, "--labels", "0=negative,1=neutral,2=positive")
    assert activate(flask, folder, "--labels", "0=positive,1=neutral,2=negative") != first


def test_record_states_the_time_for_a_text(flask, tmp_path):
    version = activate(flask, write_transformer(tmp_path / "model", WEIGHTS, **NAMES))
    manifest = json.loads(flask("show", version, "--json").output)
    assert manifest["classifier"]["milliseconds_per_text"].keys() == {"short", "long"}
    assert manifest["classifier"]["max_tokens"] == 16
    assert manifest["libraries"].keys() >= {"onnxruntime", "tokenizers"}


def test_missing_libraries_are_named(flask, tmp_path, monkeypatch):
    version = activate(flask, write_transformer(tmp_path / "model", WEIGHTS, **NAMES))
    monkeypatch.delitem(sys.modules, "sentiment_app.ml.onnx_scorer")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for command in (("verify", version), ("import", tmp_path / "model")):
        done = flask(*command)
        assert (done.exit_code, "Install requirements-onnx.txt" in done.output) == (1, True), done.output


def test_host_without_the_libraries_keeps_its_model_and_names_them(flask, client, as_ada, tmp_path, monkeypatch, model):
    assert analyze(client, as_ada, "good")["model_version"] == model[1]
    activate(flask, write_transformer(tmp_path / "model", WEIGHTS, **NAMES))
    monkeypatch.delitem(sys.modules, "sentiment_app.ml.onnx_scorer")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert analyze(client, as_ada, "good")["model_version"] == model[1]
    assert "needs the module onnxruntime" in client.get("/readyz").json["checks"]["model_switch"]


def with_external_data(folder):
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def with_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")


def with_nonsense(folder):
    (folder / "model.onnx").write_bytes(b"nonsense")


def with_second_model(folder):
    (folder / "model.onnx").rename(folder / "a.onnx")
    (folder / "b.onnx").write_bytes(b"")


def without_model(folder):
    (folder / "model.onnx").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_external_data, "weights of the ONNX model are in another file"),
        (without_tokenizer, "must take strings, or the tokens"),
        (with_broken_tokenizer, "tokenizer.json cannot be read"),
        (with_nonsense, "onnxruntime cannot load the model"),
        (with_second_model, "a.onnx, b.onnx. Name one of them"),
        (without_model, "has 0 ONNX files"),
    ],
)
def test_folder_that_is_no_classifier_is_refused(flask, tmp_path, damage, message):
    folder = write_transformer(tmp_path / "model", WEIGHTS, **NAMES)
    damage(folder)
    done = flask("import", folder)
    assert (done.exit_code, message in done.output.replace("\n", " ")) == (1, True), done.output


def test_model_without_a_table_of_scores_is_refused(flask, tmp_path):
    node = helper.make_node("Identity", ["text"], ["same"])
    graph = helper.make_graph(
        [node],
        "echo",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["n"])],
        [helper.make_tensor_value_info("same", TensorProto.STRING, ["n"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "e.onnx")
    done = flask("import", tmp_path / "e.onnx")
    assert (done.exit_code, "no output of shape (texts, classes)" in done.output) == (1, True)
