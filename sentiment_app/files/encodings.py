"""Find the codec for the name of a character encoding, and detect the encoding of a file."""

import codecs
import encodings.aliases
import pkgutil
import re

from charset_normalizer import from_bytes

from sentiment_app.files.errors import FileError

# Not every codec of Python is an encoding of text, and some take quadratic time.
ALLOWED = re.compile(
    r"ascii|utf-8(-sig)?|utf-16(-[lb]e)?|cp\d{3,4}|iso8859-\d+|koi8-[ru]|mac-.+|gbk|gb18030|gb2312|big5|big5hkscs"
    r"|shift_jis|euc_jp|euc_kr|johab|tis-620|hp-roman8"
)
NAMES = {*encodings.aliases.aliases, *(module.name for module in pkgutil.iter_modules(encodings.__path__))}
# The encodings that are detected, most likely first. With more candidates, the detection often picks a rare one.
CANDIDATES = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp874", "koi8_r", "utf_16"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949"),
]
MAX_CHAOS = 0.4  # charset_normalizer's default of 0.2 is too strict for short texts with many accents
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def find_codec(encoding: str) -> str:
    """The codec for the name of an encoding.

    Raises:
        FileError: there is no such encoding.
    """
    # Look up only known names, because Python caches every name forever.
    normal = encodings.normalize_encoding(encoding.lower()).replace(".", "_")
    try:
        name = codecs.lookup(normal).name if normal in NAMES else ""
    except LookupError:  # a codec of another operating system
        name = ""
    if not ALLOWED.fullmatch(name):
        raise FileError(f"The encoding {encoding[:40]!r} is not known. Use for example utf-8 or cp1252.", "encoding")
    return "utf-8-sig" if name == "utf-8" else name  # reads files with and without a byte order mark


def detect(sample: bytes) -> str:
    """The probable encoding of a file that begins with this sample."""
    for mark, name in BYTE_ORDER_MARKS.items():
        if sample.startswith(mark):
            return name
    # The sample may end inside a character. A few invalid bytes do not make it another encoding.
    decoded = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape").decode(sample)
    invalid = sum("\udc80" <= character <= "\udcff" for character in decoded)
    if invalid <= sum(character > "\x7f" for character in decoded) // 2:
        return "utf-8"
    found = from_bytes(sample, cp_isolation=CANDIDATES, threshold=MAX_CHAOS)
    ranked = sorted((round(match.chaos, 2), CANDIDATES.index(match.encoding)) for match in found)
    return CANDIDATES[ranked[0][1]] if ranked else "utf-8"
