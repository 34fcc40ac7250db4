"""Own pictures: a list, table, tar or folder with a picture and its captions a row."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.data.files import check_image, name_of, stamp_of, text_of, whole_text
from mmjax.data.labels import Names
from mmjax.data.own import FOLDER, files_of, own_rows, side_of
from mmjax.data.records import Corpus, Item, Query
from mmjax.errors import MmjaxError, shown
from mmjax.specs.data import PairsSpec


def load_jsonl(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Rows {"image": file, LANG: text, [keywords_LANG], [label], [id], [family], [split]}.

    A list of texts under a language is several captions; each of them is a query. Where a row has
    no text under the code of the last language, its `caption` is one. Labels: `Names`.

    Args:
      place: the source; see `mmjax.data.own`.
      spec: as of every corpus; nothing of it is read here.
      languages: that every row must be captioned in.

    Returns:
      The corpus.

    Raises:
      MmjaxError: names the file and the row that is not as it should be.
    """
    items, classes, seen, queries = [], Names(languages), set(), []
    for row, record in own_rows(place):
        image = check_image(row, Path(text_of(row, record, "image")))
        if "caption" in record:
            record.setdefault(languages[-1], record["caption"])
        several = any(isinstance(record.get(lang), list) for lang in languages)
        captions = {lang: _captions(row, record, lang, several) for lang in languages}
        name = name_of(row, record, "id", record["image"])
        if name in seen:
            raise MmjaxError(
                f"{row}: the id {shown(name)} stands twice; give each row its own 'id'"
            )
        seen.add(name)
        label = classes.read(row, record)
        family, side = name_of(row, record, "family", name), side_of(row, record)
        items.append(Item(name, family, label, captions, {"photo": image}, side, not several))
        query_texts = {lang: texts if several else texts[:1] for lang, texts in captions.items()}
        queries += [Query(lang, t, (name,)) for lang, texts in query_texts.items() for t in texts]
    if not items:
        raise MmjaxError(f"{place} has no rows; expected one picture a row")
    digest = hashlib.sha256()
    for path in files_of(place):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    for item in items:
        image = item.images["photo"]
        assert isinstance(image, Path)
        digest.update(stamp_of(image))
    one_each = all(item.keywords for item in items)
    own_queries = () if one_each else tuple(queries)
    return Corpus(
        Path(place.removeprefix(FOLDER)).stem,
        tuple(items),
        classes.names,
        digest.hexdigest(),
        own_queries,
        places=classes.places,
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
