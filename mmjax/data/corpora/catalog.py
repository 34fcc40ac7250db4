"""Every source of pictures with captions, and of parallel text, by name."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mmjax import plugins
from mmjax.data.files import check_picture, name_of, read_jsonl, text_of, whole_text
from mmjax.data.labels import Names, select
from mmjax.data.records import Corpus, Item, Pair, Query
from mmjax.errors import MmjaxError, setting, shown
from mmjax.specs.data import PairsSpec

# Unicode CLDR's and emojibase's own names of the emoji groups.
EMOJI_LABELS: Mapping[str, Mapping[str, str]] = {
    "smileys-emotion": {"en": "smileys and emotion", "zh": "笑脸与情感"},
    "people-body": {"en": "people and body", "zh": "人物与身体"},
    "animals-nature": {"en": "animals and nature", "zh": "动物与自然"},
    "food-drink": {"en": "food and drink", "zh": "食物与饮料"},
    "travel-places": {"en": "travel and places", "zh": "旅行与地点"},
    "activities": {"en": "activities", "zh": "活动"},
    "objects": {"en": "objects", "zh": "物品"},
    "symbols": {"en": "symbols", "zh": "符号"},
    "flags": {"en": "flags", "zh": "旗帜"},
    "component": {"en": "component", "zh": "组件"},
}


GLOSSES = 4  # of a dictionary's word that are kept


def load_corpus(spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads the pictures and captions that a recipe names.

    Args:
      spec: source, styles, labels to leave out, limit.
      languages: languages that every item must be captioned in.

    Returns:
      The corpus.

    Raises:
      MmjaxError: an unknown source; a row without picture or caption (names file and row).
    """
    if spec.source.endswith(".jsonl"):
        return select(_jsonl_corpus(Path(spec.source), languages), spec)
    name, _, place = spec.source.partition(":")
    reference = plugins.reference_in(spec.source)
    if name not in CORPORA and reference is not None:
        name, place = reference, spec.source[len(reference) + 1 :]
    if name not in CORPORA or bool(place) == (name in _WHOLE):
        raise MmjaxError(
            f"{setting('pairs.source')} is {spec.source!r}; expected 'emoji', 'digits', the path "
            "of a .jsonl file, one of 'cn_clip', 'muge', 'food101', 'mmimdb' and 'coop' with "
            "its folder, as in 'muge:FOLDER', or package.module:Name for a corpus of your own"
        )
    return select(CORPORA.find(name, "pairs.source")(place, spec, languages), spec)


def _emoji_corpus(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    del place
    from mmjax.data import sources

    unknown = sorted(set(languages) - {"en", "zh"})
    if unknown:
        raise MmjaxError(f"config.languages names {unknown}; the emoji source has ['en', 'zh']")
    source = sources.load("emoji", styles=spec.styles)
    found: dict[str, dict[str, Any]] = {}
    for record in source:
        entry = found.setdefault(record["id"], {"record": record, "images": {}})
        entry["images"][record["style"]] = record["image"]
    items = []
    for name, entry in found.items():
        record, images = entry["record"], entry["images"]
        # Newest emoji can be missing from a system font; the first style shows every item.
        if spec.styles[0] not in images:
            continue
        captions = {
            lang: (record[f"name_{lang}"], *_split(record[f"keywords_{lang}"]))
            for lang in languages
        }
        items.append(Item(name, record["family"], record[spec.label], captions, images))
    labels: Mapping[str, Mapping[str, str]] = EMOJI_LABELS
    if spec.label == "subgroup":  # they have no names but these, and those in English alone
        found_labels = sorted({item.label for item in items})
        labels = {x: {lang: x.replace("-", " ") for lang in languages} for x in found_labels}
    return Corpus("emoji", tuple(items), labels, source.fingerprint)


def _split(keywords: str) -> tuple[str, ...]:
    return tuple(k for k in keywords.split("|") if k)


def _jsonl_corpus(path: Path, languages: Sequence[str]) -> Corpus:
    """Rows {"image": file, LANG: text, ["keywords_LANG"], ["label"], ["id"], ["family"]}.

    A list of texts under a language is several captions; each of them is a query. Labels: `Names`.
    """
    items, classes, seen, queries = [], Names(languages), set(), []
    for place, record in read_jsonl(path):
        image = check_picture(place, path.parent / text_of(place, record, "image"))
        several = any(isinstance(record.get(lang), list) for lang in languages)
        captions = {lang: _captions(place, record, lang, several) for lang in languages}
        name = name_of(place, record, "id", record["image"])
        if name in seen:
            raise MmjaxError(
                f"{place}: the id {shown(name)} stands twice; give each row its own 'id'"
            )
        seen.add(name)
        label = classes.read(place, record)
        family = name_of(place, record, "family", name)
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


def _digits(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    from mmjax.data.corpora import digits

    return digits.load()


def _cn_clip(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    from mmjax.data.corpora import cn_clip

    return cn_clip.load(Path(place), spec.sides)


def _food101(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    from mmjax.data.corpora import food101

    return food101.load(Path(place))


def _mmimdb(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    from mmjax.data.corpora import mmimdb

    return mmimdb.load(Path(place))


def _coop(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    from mmjax.data.corpora import coop

    return coop.load(Path(place))


# (what stands behind the name's colon, spec, languages that every item must be captioned in) ->
# all items; `load_corpus` chooses among them.
Reader: TypeAlias = Callable[[str, PairsSpec, Sequence[str]], Corpus]
CORPORA = plugins.Catalog[Reader](
    plugins.CORPORA,
    "a function that reads a corpus",
    Callable,
    {
        "emoji": _emoji_corpus,
        "digits": _digits,
        "cn_clip": _cn_clip,
        "muge": _cn_clip,
        "food101": _food101,
        "mmimdb": _mmimdb,
        "coop": _coop,
    },
)
_WHOLE = ("emoji", "digits")  # need no folder, and take none


def load_parallel(source: str, limit: int) -> list[Pair]:
    """Reads parallel text other than captions.

    Args:
      source: `cedict`, or the path of a .jsonl file with `source` and `target`.
      limit: only the first so many pairs (0: all); of `cedict` the words that learners meet first.

    Returns:
      Pairs.

    Raises:
      MmjaxError: an unknown source, an empty one, or a row without text.
    """
    if source == "cedict":
        pairs = _cedict_pairs(limit)
    elif source.endswith(".jsonl"):
        pairs = [
            Pair(text_of(place, record, "source"), (text_of(place, record, "target"),))
            for place, record in read_jsonl(Path(source))
        ]
    else:
        raise MmjaxError(
            f"{setting('parallel.sources')} names {source!r}; expected 'captions', 'cedict' or a "
            "path of a .jsonl file"
        )
    if not pairs:
        raise MmjaxError(f"parallel source {source!r} has no pairs")
    return pairs[:limit] if limit else pairs


def _cedict_pairs(limit: int) -> list[Pair]:
    from mmjax.data import sources

    records = list(sources.load("cedict"))
    # HSK levels: what learners meet first is common; words that no list has (0) come last.
    records.sort(key=lambda record: record["common"] or 99)
    # Glosses of one word stand together in one text: which of them is meant, the word alone does
    # not say.
    return [
        Pair(record["zh"], (", ".join(_split(record["glosses_en"])[:GLOSSES]),))
        for record in records[: limit or None]
    ]
