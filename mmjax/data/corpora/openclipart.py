"""Openclipart: drawings of things with English titles and keywords, in the public domain.

They come in a Debian package (asset `openclipart`), rendered once. Titles are whatever those who
drew them wrote; many name nobody knows what ("gramastar"), or the artist's whole series. What is
left are titles of words that name emoji too, or stand at several drawings.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmjax import assets
from mmjax.data.builders.emoji_table import read_table
from mmjax.data.files import read_jsonl
from mmjax.data.records import Corpus, Item
from mmjax.errors import MmjaxError
from mmjax.files import sha256_of
from mmjax.specs.data import PairsSpec

LANGUAGE = "en"
STYLE = "drawing"
MOST_ALIKE = 5  # drawings of one title; above, it is a series' name
LONGEST = 8  # words of a title
_NOISE = re.compile(
    r"\b(clip ?art|icon|svg|b and w|by [a-z .]+ - )|\d+|[()_]", re.IGNORECASE | re.ASCII
)


def load_openclipart(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads the drawings whose titles say what they show.

    Args:
      place: "": the asset has them.
      spec: as of every corpus; nothing of it is read here.
      languages: with `en` among them.

    Returns:
      The corpus: title and keywords are captions, a title's drawings are a family, the folder of
      the package is the label.

    Raises:
      MmjaxError: another language alone, or the asset is not there.
    """
    if LANGUAGE not in languages:
        raise MmjaxError(
            f"config.languages is {tuple(languages)}; openclipart's titles are in {LANGUAGE!r}"
        )
    folder = assets.path("openclipart")
    rows = [record for _, record in read_jsonl(folder / "rows.jsonl")]
    count = Counter(word for row in rows for word in _used(row))
    titles = Counter(row["title"].casefold() for row in rows)
    vocabulary = {
        word
        for row in read_table()
        for text in (row.name_en, *row.keywords_en)
        for word in _words(text)
    }
    items: list[Item] = []
    for row in rows:
        title = _clean(row["title"])
        if titles[row["title"].casefold()] > MOST_ALIKE or not _says(title, vocabulary, count):
            continue
        keywords = [k for k in row["keywords"] if k.isascii() and any(map(str.isalpha, k))]
        captions = {LANGUAGE: (title, *keywords)}
        picture: Path = folder / row["file"]
        items.append(Item(row["id"], title.casefold(), row["group"], captions, {STYLE: picture}))
    labels = {item.label: {LANGUAGE: item.label.replace("_", " ")} for item in items}
    return Corpus("openclipart", tuple(items), labels, sha256_of(folder / "rows.jsonl"))


def _used(row: dict[str, Any]) -> set[str]:
    return {word for text in (row["title"], *row["keywords"]) for word in _words(text)}


def _words(text: str) -> Iterator[str]:
    yield from re.findall(r"[a-z]+", text.lower())


def _clean(title: str) -> str:
    """A title without numbers, and without what names no thing."""
    return " ".join(_NOISE.sub(" ", title).split()).strip(" -.,:;#&+")


def _says(title: str, known: set[str], count: Counter[str]) -> bool:
    """Whether a title is of known words: one of them names an emoji, others are used elsewhere."""
    words = list(_words(title))
    if not title.isascii() or not 0 < len(words) <= LONGEST:
        return False
    stems = [_stem(word, known) for word in words]
    named = any(stem in known and len(stem) > 2 for stem in stems)
    pairs = zip(words, stems, strict=True)
    return named and all(s in known or count[w] > 1 or len(w) < 3 for w, s in pairs)


def _stem(word: str, known: set[str]) -> str:
    """A plural's singular, where that is known."""
    shorter = (word, word.removesuffix("s"), word.removesuffix("es"))
    return next((form for form in shorter if form in known), word)
