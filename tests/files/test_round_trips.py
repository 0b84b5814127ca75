"""Any table of texts, however it is written, is read back exactly. One damaged row does not affect the other rows."""

import csv
import gzip
import io
import json
import os

from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from sentiment_app.files.reader import CSV, NDJSON, File, Format, Limits

# The daily run always has the same examples, so only changed code can make it fail. EXAMPLES=2000 runs more, at random.
asked = int(os.environ.get("EXAMPLES") or 0)
examples = settings(max_examples=asked or 200, derandomize=not asked, database=None, deadline=None, print_blob=True)
LIMITS = Limits(10**6, 10**9)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1, max_size=40)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
DELIMITERS = st.sampled_from([",", ";", "\t", "|"])
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030"])


def read(content, media_type=CSV, **options):
    file = File(io.BytesIO(content), Format(media_type, **options), LIMITS)
    rows = list(file)
    note(file.describe())
    return rows


def write(rows, **dialect):
    file = io.StringIO(newline="")
    csv.writer(file, **dialect).writerows(rows)
    return file.getvalue()


@st.composite
def dialects(draw):
    """Dialects of `csv.writer` that can write any text."""
    quotes, line_end = draw(st.sampled_from(['"', "'"])), draw(LINE_ENDS)
    # csv.writer does not quote a LF if lines end with CR. A few single quotes do not show that they enclose texts.
    kinds = [csv.QUOTE_ALL] if quotes == "'" or line_end == "\r" else [csv.QUOTE_ALL, csv.QUOTE_MINIMAL]
    escaped = quotes == '"' and draw(st.booleans())
    return {
        "delimiter": draw(DELIMITERS),
        "lineterminator": line_end,
        "quotechar": quotes,
        "quoting": draw(st.sampled_from(kinds)),
        **({"doublequote": False, "escapechar": "\\"} if escaped else {}),
    }


@examples
@given(st.lists(TEXTS, min_size=2, max_size=12), dialects(), ENCODINGS, st.booleans())
def test_csv_is_read_back_exactly(texts, dialect, encoding, is_gzip):
    # A file shows that it escapes with backslashes only if it has an escaped quote.
    assume("escapechar" not in dialect or '"' in "".join(texts) or "\\" not in "".join(texts))
    table = write([["custom_id", "text", "stars"], *([f"r-{i}", text, i] for i, text in enumerate(texts))], **dialect)
    note(repr(table))
    content = table.encode(encoding)
    rows = read(
        gzip.compress(content) if is_gzip else content,
        encoding=encoding if encoding == "gb18030" else None,
        compression="gzip" if is_gzip else None,
    )
    assert [(row.custom_id, row.text, row.error) for row in rows] == [
        (f"r-{i}", text, None) for i, text in enumerate(texts)
    ]


@examples
@given(st.lists(TEXTS, min_size=1, max_size=12), LINE_ENDS, ENCODINGS, st.booleans())
def test_ndjson_is_read_back_exactly(texts, line_end, encoding, ensure_ascii):
    lines = (json.dumps({"text": text, "custom_id": i}, ensure_ascii=ensure_ascii) for i, text in enumerate(texts))
    content = "".join(line + line_end for line in lines).encode(encoding)
    rows = read(content, NDJSON, encoding=encoding if encoding == "gb18030" else None)
    assert [(row.custom_id, row.text) for row in rows] == [(str(i), text) for i, text in enumerate(texts)]


WORDS = st.lists(st.sampled_from(["room", "staff", "food", "great", "awful", "it was", "50%", "don't"]), min_size=2)
SENTENCES = WORDS.map(" ".join)
DAMAGES = {
    "unclosed quote": lambda fields: [fields[0], '"' + fields[1], *fields[2:]],
    "missing delimiter": lambda fields: [fields[0] + fields[1], *fields[2:]],
    "extra delimiter": lambda fields: [fields[0], "", *fields[1:]],
    "cut off": lambda fields: fields[:1],
    "other delimiter": lambda fields: ["^".join(fields)],
}


@examples
@given(
    st.lists(SENTENCES, min_size=6, max_size=30),
    DELIMITERS,
    LINE_ENDS,
    st.sampled_from(sorted(DAMAGES)),
    st.data(),
)
def test_damaged_row_is_reported_and_other_rows_are_exact(texts, delimiter, line_end, damage, data):
    place = data.draw(st.integers(0, len(texts) - 1))
    rows = [[str(1000 + i), text, "en"] for i, text in enumerate(texts)]
    rows[place] = DAMAGES[damage](rows[place])
    lines = [delimiter.join(fields) for fields in [["custom_id", "text", "lang"], *rows]]
    found = read((line_end.join(lines) + line_end).encode())
    assert len(found) == len(texts)
    for i, (row, text) in enumerate(zip(found, texts, strict=True)):
        if i == place:
            assert (
                row.error or row.text == text or row.text == '"' + text
            )  # a quote of the text, where it cannot enclose
        else:
            assert (row.custom_id, row.text, row.error) == (str(1000 + i), text, None)
