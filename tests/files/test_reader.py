"""Reading uploads: memory stays bounded for any content, and each invalid row is reported with its line."""

import contextlib
import csv
import encodings
import gzip
import io
import itertools
import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentiment_app.files import encodings as file_encodings
from sentiment_app.files.errors import FileError, FileTooLargeError
from sentiment_app.files.lines import MAX_LINE_CHARACTERS
from sentiment_app.files.reader import CSV, JSON, NDJSON, File, Format, Limits
from sentiment_app.files.rows import Row, make_row

MANY = Limits(10**9, 10**12)


def read(content, kind=NDJSON, limits=MANY, **options):
    return list(File(io.BytesIO(content), Format(kind, **options), limits))


class Drip(io.BytesIO):
    """A stream that gives few bytes at a time, and cuts characters in two."""

    def read(self, size=-1):
        return super().read(3)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)))
def test_ndjson_round_trip_keeps_every_text(texts):
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    expected = [make_row(line, None, text) for line, text in enumerate(texts, 1)]
    assert read(content) == expected
    assert list(File(Drip(content), Format(NDJSON, encoding="utf-8"), MANY)) == expected


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30), min_size=1))
def test_csv_round_trip_keeps_every_text(texts):
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([["text", "other"], *([text, "x"] for text in texts)])
    found = read(file.getvalue().encode(), CSV, delimiter=",", encoding="utf-8")
    assert [item.text for item in found] == [make_row(0, None, text).text for text in texts]


@given(st.binary(max_size=500), st.sampled_from([NDJSON, CSV]))
def test_any_bytes_give_rows_or_a_file_error(content, kind):
    try:
        items = read(content, kind)
    except FileError:
        return
    assert all((item.text is None) != (item.error is None) for item in items)


def test_csv_text_with_line_breaks_is_one_row():
    found = read(b'text,custom_id\n"one\ntwo",a\nthree,b\n', CSV)
    assert found == [Row(2, "a", "one\ntwo"), Row(4, "b", "three")]


@pytest.mark.parametrize("kind", [NDJSON, CSV])
def test_endless_line_is_one_invalid_row(kind):
    good = b'{"text":"fine"}\n' if kind == NDJSON else b"fine\n"
    head = b"" if kind == NDJSON else b"text\n"
    found = read(head + good + b"x" * (MAX_LINE_CHARACTERS * 3) + b"\n" + good, kind)
    assert [item.text is None for item in found] == [False, True, False]


@pytest.mark.no_cover
def test_unclosed_quote_uses_bounded_memory():
    rows = itertools.chain([b'text\nfine\n"open\n'], (b"row\n" * 1000 for _ in range(100)))
    found = read(b"".join(rows), CSV)
    assert found[0].text == "fine"
    assert found[1].error.startswith("A quote in the line is not closed")
    assert len(found) == 100_002
    assert found[-1].text == "row"


def test_invalid_bytes_fail_only_their_row():
    found = read(b'{"text":"fine"}\n{"text":"\xff"}\n{"text":"fine"}\n', encoding="utf-8")
    assert [item.error is None for item in found] == [True, False, True]


def test_encoding_is_detected():
    text = "Das Frühstück war großartig, die Küche grün und schön. " * 20
    for encoding in ("cp1252", "utf-16", "utf-8"):
        assert read(f'text\n"{text}"\n'.encode(encoding), CSV)[0].text.startswith("Das Frühstück")
    assert read(b"\xef\xbb\xbftext\nfine\n", CSV)[0].text == "fine"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Très déçu, déjà vu. L'hôtel était sale et le garçon impoli."),
        ("cp1252", "It cost £20 and was not worth it. A naïve idea."),
        ("cp1252", "Não gostei da refeição, mas a decoração é ótima."),
        ("cp1252", "Det här är den bästa köttbullen jag ätit på länge."),
        ("cp1250", "Zażółć gęślą jaźń. Pokój był mały, ale obsługa świetna."),
        ("cp1250", "Příliš žluťoučký kůň úpěl. Pokoj byl malý, ale čistý."),
        ("cp1251", "Очень плохой отель, никогда больше не приеду."),
        ("cp1253", "Το δωμάτιο ήταν μικρό αλλά το προσωπικό ευγενικό."),
        ("cp932", "部屋は小さかったが、スタッフは素晴らしかった。"),
        ("gb18030", "房间很小，但是服务员很好。"),
    ],
)
def test_detection_prefers_common_encodings(encoding, text):
    rows = f"text\n{text}\n".encode(encoding) * 5
    assert read(rows, CSV, delimiter=";")[0].text == text


def test_invalid_byte_does_not_change_detected_utf_8():
    rows = "text\nLe garçon était très déçu\nfine\n".encode() + b"bro\xffken\n"
    assert [item.error is None for item in read(rows, CSV, delimiter=",")] == [True, True, False]


@pytest.mark.parametrize("kind", [NDJSON, CSV])
def test_byte_order_mark_is_removed_if_encoding_is_given(kind):
    content = b'\xef\xbb\xbf{"text":"fine"}\n' if kind == NDJSON else b"\xef\xbb\xbftext\nfine\n"
    assert [item.text for item in read(content, kind, encoding="utf-8")] == ["fine"]


def test_unknown_encodings_are_not_cached():
    known = len(encodings._cache)
    for number in range(10):
        with pytest.raises(FileError):
            read(b"x", encoding=f"nonsense-{number}")
        assert file_encodings.find_codec("utf-16" + "!" * number) == "utf-16"
    assert len(encodings._cache) <= known + 1
    for name in ("mbcs", "aliases", "__init__", "rot13", "bz2", "utf-8\0", "", "\udcff"):
        with contextlib.suppress(FileError):
            assert file_encodings.find_codec(name) == "utf-8"
    for name in ("latin1", "UTF-8", "Windows-1252", "iso-8859-15", "Shift_JIS", "utf_16_le", "l1", "koi8-r"):
        assert file_encodings.find_codec(name)


@pytest.mark.parametrize(
    ("given", "custom_id"),
    [
        ("7", "7"),
        ("1.5", "1.5"),
        ("123456789012345678901", "123456789012345678901"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("null", None),
    ],
)
def test_custom_id_may_be_a_number(given, custom_id):
    assert read(f'{{"text":"fine","custom_id":{given}}}\n'.encode()) == [Row(1, custom_id, "fine")]


@pytest.mark.parametrize("given", ["[" * 1010 + "]" * 1010, "{}", "true", "1e400", "1" * 5000])
def test_invalid_custom_id_fails_only_its_row(given):
    found = read(f'{{"text":"fine","custom_id":{given}}}\n{{"text":"fine"}}\n'.encode())
    assert [item.error is None for item in found] == [False, True]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_detected(delimiter):
    rows = "".join(f'{number}{delimiter}"A text, with; signs"\n' for number in range(5))
    found = read(f"id{delimiter}text\n{rows}".encode(), CSV, id_column="id")
    assert found[3] == Row(5, "3", "A text, with; signs")


def test_gzip_bomb_is_refused():
    bomb = gzip.compress(b'{"text":"' + b"a" * 50_000_000 + b'"}')
    with pytest.raises(FileTooLargeError):
        read(bomb, limits=Limits(10, 1_000_000), compression="gzip")


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_truncated_gzip_is_refused(cut):
    content = gzip.compress(b'{"text":"fine"}\n' * 100)
    with pytest.raises(FileError):
        read(content[:cut], compression="gzip")


@pytest.mark.asvs("5.2.1")
@pytest.mark.no_cover
def test_large_file_is_read_in_constant_memory():
    class Endless(io.RawIOBase):
        left = 4_000_000

        def read(self, size=-1):
            piece = b'{"text":"a text of some words"}\n' * 2000
            self.left -= len(piece)
            return piece if self.left > 0 else b""

    tracemalloc.start()
    rows = sum(1 for _ in File(Endless(), Format(NDJSON), MANY))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows > 100_000
    assert peak < 2_000_000


@pytest.mark.parametrize("content", [b",'x" * 50_000, b',"x' * 50_000, b";" * 200_000])
def test_hostile_header_takes_linear_time(content):
    started = time.process_time()
    with contextlib.suppress(FileError):
        read(content, CSV)
    assert time.process_time() - started < 30  # a quadratic algorithm would take hours


@pytest.mark.no_cover
def test_many_carriage_returns_take_linear_time():
    started = time.process_time()
    read(b"text\nfine\n" + (b"\r" * 60_000 + b"x\n") * 20, CSV)
    assert time.process_time() - started < 30  # a quadratic algorithm took 100 seconds


@pytest.mark.no_cover
def test_csv_record_over_too_many_lines_is_invalid():
    found = read(b'text\n"a\n' + b'","a\n' * 200_000 + b'"\nfine\n', CSV)
    assert found[-1].text.strip() == "fine"
    assert max(len(item.text or "") for item in found) < MAX_LINE_CHARACTERS


def test_csv_row_with_too_many_fields_is_invalid():
    found = read(b"name,text\nAda,fine\nBob,Good,cheap\n", CSV)
    assert found[0] == Row(2, None, "fine")
    assert found[1].error.startswith("The line has 3 fields, but the header has 2.")


@pytest.mark.parametrize("encoding", ["zlib", "hex", "rot13", "idna", "utf-7", "undefined", "unicode_escape", "x\0"])
def test_codecs_that_are_not_text_encodings_are_refused(encoding):
    with pytest.raises(FileError):
        read(b"x", encoding=encoding)


@pytest.mark.parametrize("content", [b"\xff\xfea", "ok".encode("utf-16") + b"\x00\xd8\x00"])
def test_file_in_another_encoding_is_refused(content):
    with pytest.raises(FileError):
        read(content)


@pytest.mark.parametrize(("content", "form"), [(b"\n" * 100, NDJSON), (b"text\n" + b"\n" * 100, CSV)])
def test_blank_lines_count_as_rows(content, form):
    with pytest.raises(FileTooLargeError):
        list(File(io.BytesIO(content), Format(form), Limits(50, 10_000)))
    assert list(File(io.BytesIO(content), Format(form), Limits(500, 10_000))) == []


@pytest.mark.parametrize(
    "row",
    [
        '{"text": "first", "text": "second"}',
        '{"text": "a", "custom_id": 1, "custom_id": 2}',
    ],
)
def test_object_with_a_key_twice_is_reported(row):
    good = '{"text": "a text about \\"text\\"", "custom_id": "custom_id"}'
    for content, media_type in ((f"{row}\n{good}\n", NDJSON), (f"[{row}, {good}]", JSON)):
        assert [item.error is None for item in read(content.encode(), media_type)] == [False, True]
