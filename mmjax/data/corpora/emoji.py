"""Emoji with their English and Chinese names: pictures of assets, and of fonts that are there."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax import assets
from mmjax.data import sources
from mmjax.data.corpora.emoji_names import names_of
from mmjax.data.records import Corpus, Item
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

# Of the table itself; names in others come from the asset `emoji-names`, without keywords.
OWN = ("en", "zh")
_PICTURE_STYLE = "\ufe0f"
OTHERS = ("ar", "de", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr")


def load_emoji(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads the emoji of the styles that a recipe names.

    Args:
      place: "": the assets have them.
      spec: styles, and what is the label.
      languages: of `OWN`, which bring keywords too, and `OTHERS`.

    Returns:
      The corpus; an emoji's variants are a family.

    Raises:
      MmjaxError: another language, or an asset that is not there.
    """
    unknown = sorted(set(languages) - {*OWN, *OTHERS})
    if unknown:
        raise MmjaxError(
            f"config.languages names {unknown}; the emoji source has {[*OWN, *OTHERS]}"
        )
    translations = {language: _names(language) for language in languages if language not in OWN}
    source = sources.load_source("emoji", styles=spec.styles)
    entries: dict[str, dict[str, Any]] = {}
    for record in source:
        entry = entries.setdefault(record["id"], {"record": record, "images": {}})
        entry["images"][record["style"]] = record["image"]
    items = []
    for name, entry in entries.items():
        record, images = entry["record"], entry["images"]
        # Newest emoji can be missing from a system font; the first style shows every item.
        if spec.styles[0] not in images:
            continue
        captions = {
            lang: (record[f"name_{lang}"], *sources.entries(record[f"keywords_{lang}"]))
            for lang in languages
            if lang in OWN
        } | {lang: (_called(record["emoji"], names, lang),) for lang, names in translations.items()}
        items.append(Item(name, record["family"], record[spec.label], captions, images))
    labels = names_of(spec.label, sorted({item.label for item in items}), languages)
    digest = hashlib.sha256(source.fingerprint.encode())
    for language in translations:
        digest.update(f"{language} {assets.path('emoji-names').name}".encode())
    fingerprint = digest.hexdigest() if translations else source.fingerprint
    return Corpus("emoji", tuple(items), labels, fingerprint)


def _names(language: str) -> Mapping[str, str]:
    """Emoji -> its name in one of `OTHERS`, as Unicode CLDR has it."""
    path = assets.path("emoji-names") / f"emoji_{language}.json"
    return {k: v.strip(":").replace("_", " ") for k, v in json.loads(path.read_bytes()).items()}


def _called(emoji: str, names: Mapping[str, str], language: str) -> str:
    """The name of an emoji, which may stand there with or without the sign for a picture."""
    plain = emoji.replace(_PICTURE_STYLE, "")
    for spelling in (emoji, plain, f"{emoji}{_PICTURE_STYLE}", f"{plain}{_PICTURE_STYLE}"):
        if spelling in names:
            return names[spelling]
    raise MmjaxError(f"the asset emoji-names has no name in {language!r} for {emoji}")
