import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from sentiment_app.ml.runtime import ModelError
from sentiment_app.ml.training import datasets, evaluation
from sentiment_app.ml.training.labelled import LabelledFile, parse_names, read_file


def test_two_classes_are_evaluated_on_renormalised_scores():
    scores = np.array([[0.1, 0.8, 0.1 + 1e-9], [0.2, 0.7, 0.1]])
    measured = evaluation.evaluate(scores, np.array([2, 0]))
    assert measured["evaluated_on"] == "negative and positive, renormalised"
    assert (measured["accuracy"], measured["auc"]) == (1.0, 1.0)


def test_certain_neutral_text_is_neither_of_two_classes():
    scores = np.array([[0.0, 1.0, 0.0], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4]])
    assert evaluation.relevant_scores(scores, np.array([2, 0, 2]))[0][0].tolist() == [0.5, 0.5]
    assert evaluation.evaluate(scores, np.array([2, 0, 2]))["auc"] is not None


def test_source_named_like_a_special_source_is_renamed(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("text,label,source\ngood,positive,reviews\nbad,negative,shop\n")
    assert [row.source for row in read_file(LabelledFile(path))] == ["own reviews", "shop"]


def test_three_classes_are_evaluated():
    scores = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4]])
    measured = evaluation.evaluate(scores, np.array([0, 1, 2]))
    assert measured["evaluated_on"] == "three classes"
    assert measured["accuracy"] == pytest.approx(2 / 3)
    assert measured["macro_recall"] == pytest.approx(2 / 3)
    assert measured["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert measured["counts"] == {"negative": 1, "neutral": 1, "positive": 1}


def test_calibration_error_is_gap_between_confidence_and_accuracy():
    assert evaluation.calibration_error(np.array([0.9] * 10), np.array([True] * 6 + [False] * 4)) == pytest.approx(0.3)


def test_mcnemar_counts_only_differences():
    first = np.array([True] * 9 + [False])
    result = evaluation.mcnemar(first, ~first)
    assert result == {"only_first_right": 9, "only_second_right": 1, "p_value": pytest.approx(0.021484375)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"good, \nindeed",positive\nbad,negative\n'),
        ("a.ndjson", '{"text":"good, \\nindeed","label":"positive"}\n\n{"text":"bad","label":"negative"}\n'),
    ],
)
def test_csv_and_ndjson_are_read_alike(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    assert [(row.text, row.label) for row in read_file(LabelledFile(path))] == [("good, \nindeed", 2), ("bad", 0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\nx,happy\n", "line 2"),
        ("a.csv", "words,label\nx,positive\n", "no column named 'text'. Its columns are: words, label"),
        ("a.csv", "text,stars\nx,positive\n", "no label in the column 'label'.*text, stars.*--label-column"),
        ("a.csv", 'text,label\n"x,positive\ny,negative\n', "line 2: A quote in the line is not closed"),
        ("a.csv", "text,label\n", "no texts"),
        ("a.ndjson", "{", "line 1: The line is not valid JSON"),
        ("a.ndjson", "[]", "looks like a JSON array"),
        ("a.parquet", "no parquet", "not a valid Parquet file"),
        ("a.xlsx", "no workbook", "not a valid Excel workbook"),
        ("a.doc", "x", "is not known"),
        ("a.csv", b"text,label\na\0b,positive\n", "line 2: The text contains a NUL"),
    ],
)
def test_invalid_file_is_refused_with_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match=message):
        read_file(LabelledFile(path))


def test_files_may_have_other_columns_delimiters_and_encodings(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("id;Bewertung;Sterne\n1;Schönes Zimmer;5\n2;Nie wieder, übel;1\n".encode("cp1252"))
    file = LabelledFile(path, parse_names("1=negative,5=positive"), "bewertung", "Sterne")
    assert [(row.text, row.label) for row in read_file(file)] == [("Schönes Zimmer", 2), ("Nie wieder, übel", 0)]


def test_dropped_rows_are_counted():
    texts = [("good", 2), ("Good", 2), ("good", 0), ("", 1), ("bad", 0)]
    dropped = datasets.Dropped()
    kept = list(datasets.distinct((datasets.Row(text, label, "file") for text, label in texts), dropped))
    assert [row.text for row in kept] == ["good", "bad"]
    assert (dropped.duplicates, dropped.conflicts, dropped.without_terms) == (2, 1, 1)
    assert str(dropped).startswith("2 duplicates were dropped (1 of them with another label")


def test_parquet_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["good", "bad"], "label": [2, 0], "source": ["shop", "forum"]}), path)
    rows = read_file(LabelledFile(path, parse_names("0=negative,2=positive")))
    assert [tuple(row) for row in rows] == [("good", 2, "shop"), ("bad", 0, "forum")]


def test_label_names():
    assert parse_names("0=negative,4=positive") == {"0": 0, "4": 2}
    assert parse_names("bad,meh,good") == {"bad": 0, "meh": 1, "good": 2}
    with pytest.raises(ModelError):
        parse_names("0=sad")
    for text in ("0=negative,0=positive", "bad,bad,good"):
        with pytest.raises(ModelError):
            parse_names(text)


def test_texts_with_the_same_terms_are_on_the_same_side_of_a_split():
    for number in range(50):
        rows = [datasets.Row(text.format(number), 1, "file") for text in ("Foo bar {}", "foo  BAR {}", "“Foo bar” {}")]
        assert len({datasets.is_held_out(row) for row in rows}) == 1


def test_class_without_texts_does_not_count():
    scores = np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    measured = evaluation.evaluate(scores, np.array([1, 2]))
    assert [measured[name] for name in ("accuracy", "macro_recall", "macro_f1")] == [1.0, 1.0, 1.0]
    assert measured["counts"] == {"negative": 0, "neutral": 1, "positive": 1}
