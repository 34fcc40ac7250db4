"""Own pictures: a .jsonl file with a picture and its captions a line."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.data.files import check_picture, name_of, read_jsonl, text_of, whole_text
from mmjax.data.labels import Names
from mmjax.data.records import Corpus, Item, Query
from mmjax.errors import MmjaxError, shown
from mmjax.specs.data import PairsSpec


def load(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Rows {"image": file, LANG: text, ["keywords_LANG"], ["label"], ["id"], ["family"]}.

    A list of texts under a language is several captions; each of them is a query. Labels: `Names`.

    Args:
      place: the file.
      spec: as of every corpus; nothing of it is read here.
      languages: that every row must be captioned in.

    Returns:
      The corpus.

    Raises:
      MmjaxError: names the file and the row that is not as it should be.
    """
    path = Path(place)
    items, classes, seen, queries = [], Names(languages), set(), []
    for row, record in read_jsonl(path):
        image = check_picture(row, path.parent / text_of(row, record, "image"))
        several = any(isinstance(record.get(lang), list) for lang in languages)
        captions = {lang: _captions(row, record, lang, several) for lang in languages}
        name = name_of(row, record, "id", record["image"])
        if name in seen:
            raise MmjaxError(
                f"{row}: the id {shown(name)} stands twice; give each row its own 'id'"
            )
        seen.add(name)
        label = classes.read(row, record)
        family = name_of(row, record, "family", name)
        items.append(Item(name, family, label, captions, {"photo": image}, keywords=not several))
        asked = {lang: texts if several else texts[:1] for lang, texts in captions.items()}
        queries += [Query(lang, t, (name,)) for lang, texts in asked.items() for t in texts]
    if not items:
        raise MmjaxError(f"{path} has no rows; expected one JSON object a line")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for item in items:
        image = item.images["photo"]
        assert isinstance(image, Path)
        digest.update(f"{image}:{image.stat().st_size}:{image.stat().st_mtime_ns};".encode())
    one_each = all(item.keywords for item in items)
    found = () if one_each else tuple(queries)
    return Corpus(
        path.stem, tuple(items), classes.names, digest.hexdigest(), found, places=classes.places
    )


def _captions(
    place: str, record: Mapping[str, Any], language: str, several: bool
) -> tuple[str, ...]:
    """A row's captions in a language: all of a list, or the name with its keywords."""
    keywords = record.get(f"keywords_{language}", [])
    if not isinstance(keywords, list) or not all(isinstance(k, str) for k in keywords):
        raise MmjaxError(f"{place}: 'keywords_{language}' must be a list of texts")
    keywords = [whole_text(f"{place}: 'keywords_{language}'", keyword) for keyword in keywords]
    if several and keywords:
        raise MmjaxError(
            f"{place}: 'keywords_{language}' beside a list of captions; put them into the list"
        )
    value = record.get(language)
    if not isinstance(value, list):
        return (text_of(place, record, language), *keywords)
    texts = {f"{language}[{i}]": text for i, text in enumerate(value or [""])}
    return tuple(text_of(place, texts, key) for key in texts)
