"""Detect the encoding of a text that is not ASCII.

chardet's statistical models rank the encodings. On short texts its typical mistakes are visible after decoding
("Qualitа" with a Cyrillic letter, "spŠt", "Donít buy it"), so the ranking is weighted with how plausible each decoded
text is. docs/decisions.md has the measurements.
"""

import codecs
import re
import unicodedata
from itertools import islice

import chardet

# The encodings that are detected, most likely first, with a preference for encodings that are common today.
CANDIDATES = {
    **dict.fromkeys(("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258"), 1.0),
    **dict.fromkeys(("cp874", "cp932", "euc_jis_2004", "gb18030", "big5hkscs", "cp949"), 1.0),
    **dict.fromkeys(("koi8-r", "koi8-u", "iso8859-2", "iso8859-7"), 1.0),
    **dict.fromkeys(("mac-roman", "cp850", "cp437", "cp866"), 0.98),
    **dict.fromkeys(("iso8859-15", "iso8859-9", "iso8859-13", "mac-cyrillic"), 0.95),
    **dict.fromkeys(("cp852", "cp737", "cp775", "cp857", "cp862", "iso8859-6", "iso8859-8"), 0.8),
    **dict.fromkeys(("mac-greek", "mac-turkish", "johab"), 0.8),
    **dict.fromkeys(("iso8859-5", "mac-latin2"), 0.6),
}
RANKS = {encoding: rank for rank, encoding in enumerate(CANDIDATES)}
CODECS = {"euc_jis_2004": "euc_jp"}  # by chardet's name, where it differs
MAX_CANDIDATES = 8
MAX_SAMPLE_BYTES = 16 * 1024
MAX_CHARACTERS = 500
SCRIPTS = {"LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "THAI"}
OPENING_SIGNS, CLOSING_SIGNS = "“„‘‚«‹¡¿", "”’»›…"
ONE_LETTER_WORDS = "àáåæèéíóöøő"
# The letters beyond ASCII of each language that has Latin letters; languages with the same letters share an entry.
ALPHABETS = (
    *("àâæçèéêëîïôùûüœ", "äöüß", "áéíñóúü", "ãáâàçéêíóôõúü", "àèéìíòóù", "äåæéöø", "ąćęłńóśźż"),
    *("áäčďéěíĺľňóôŕřšťúůýž", "áéíóöőúüű", "čćđšžé", "ăâîşţșț", "çğıiöşüâî", "ąčęėįšųūž", "āčēģīķļņšūž"),
    *("äöõüšž", "áæéíóöþúýð", "àáâãèéêìíòóôõùúýăđơư"),
)


# A character of UTF-8 at the end of a file that was cut off. Other last bytes may be letters of another encoding.
CUT_CHARACTER = re.compile(rb"(?:[\xc2\xc3]|[\xe0-\xef][\x80-\xbf]|[\xf0-\xf4][\x80-\xbf]{1,2})\Z")


def detect(sample: bytes) -> str:
    """The probable encoding of a text, given a part of it that is not ASCII. cp1252 if nothing else is probable."""
    # The sample may end inside a character. A few invalid bytes do not make it another encoding.
    decoded = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape").decode(sample)
    invalid = sum("\udc80" <= character <= "\udcff" for character in decoded)
    valid = sum(character > "\x7f" for character in decoded) - invalid
    if sample.isascii() or invalid <= valid > 0 or (not invalid and CUT_CHARACTER.search(sample)):
        return "utf-8"
    sample = _select_lines(sample)
    found = chardet.detect_all(
        b"\n" + sample,  # without the line break, chardet takes texts that begin with "BM" for pictures
        ignore_threshold=True,
        include_encodings=CANDIDATES,
        compat_names=False,
        prefer_superset=False,
    )
    scores = {
        match["encoding"]: match["confidence"]
        * CANDIDATES[match["encoding"]]
        * _plausibility(sample, match["encoding"])
        for match in found[:MAX_CANDIDATES]
        if match["encoding"] in CANDIDATES
    }
    best = max(scores, key=lambda name: (round(scores[name], 3), -RANKS[name]), default="cp1252")
    # Later parts of the file may have other characters, so the most common encoding that gives the same text is used.
    text = _decode(sample, best)
    best = min((name for name in scores if _decode(sample, name) == text), key=RANKS.__getitem__, default=best)
    return CODECS.get(best, best)


def _decode(sample: bytes, encoding: str) -> str:
    return codecs.getincrementaldecoder(encoding)(errors="replace").decode(sample)


def _select_lines(sample: bytes) -> bytes:
    """As much of the sample as is analysed in milliseconds. Of a longer sample, only the lines that are not ASCII."""
    if len(sample) <= MAX_SAMPLE_BYTES:
        return sample
    lines = [line for line in re.split(rb"(?<=[\r\n])", sample) if not line.isascii()]
    return b"".join(lines)[:MAX_SAMPLE_BYTES]


def _plausibility(sample: bytes, encoding: str) -> float:
    """How much a decoded text looks like language: 1 if it has no odd character, near 0 if all are odd."""
    text = f"  {_decode(sample, encoding)}  "
    places = [match.start() for match in islice(re.finditer(r"[^\x00-\x7f]", text), MAX_CHARACTERS)]
    letters = [text[place].lower()[0] for place in places]
    latin = [letter for letter in letters if _script(letter) == "LATIN"]
    foreign = min(sum(letter not in alphabet for letter in latin) for alphabet in ALPHABETS)
    odd = foreign + sum(_is_odd(text[place - 2 : place], text[place], text[place + 1 : place + 3]) for place in places)
    return (1 - 0.8 * min(odd / max(len(places), 1), 1)) ** 3


def _is_odd(left: str, character: str, right: str) -> bool:
    """Whether a character that is not ASCII is unusual between its neighbours, two on each side."""
    before, after = left[1], right[0]
    category = unicodedata.category(character)
    if category == "Mn":
        return not (before.isalpha() or unicodedata.category(before) == "Mn")
    if category[0] == "L":
        return _is_odd_letter(left, character, right)
    if category[0] == "C" or character == "\ufffd":
        return category != "Cf"
    return _is_odd_sign(before, character, after) or (category == "So" and character not in "°©®")


def _is_odd_sign(before: str, sign: str, after: str) -> bool:
    if sign in OPENING_SIGNS:
        return before.isalnum()
    if sign in CLOSING_SIGNS:
        return after.isalpha() and not (sign == "’" and before.isalpha())
    if sign in "–—":
        return before.isalpha() != after.isalpha()
    return before.isalpha() or after.isalpha()


def _is_odd_letter(left: str, letter: str, right: str) -> bool:
    before, after = left[1], right[0]
    script = _script(letter)
    if before.isspace() and after.isspace():
        is_unknown_word = script == "LATIN" and letter not in ONE_LETTER_WORDS and left[0] != "."
        is_between_latin = script not in ("", "LATIN") and _script(left[0]) == _script(right[1]) == "LATIN"
        return is_unknown_word or is_between_latin
    if script and any(_script(neighbour) not in (script, "") for neighbour in (before, after)):
        return True
    is_inside_latin = not script and before.isascii() and before.isalpha() and after.isascii() and after.isalpha()
    return is_inside_latin or (letter.isupper() and before.islower())


def _script(letter: str) -> str:
    """The script of a letter, such as "LATIN"; empty for anything else."""
    name = unicodedata.name(letter, "").partition(" ")[0] if letter.isalpha() else ""
    return name if name in SCRIPTS else ""
