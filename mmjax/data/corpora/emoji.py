"""Emoji with their English and Chinese names: pictures of assets, and of fonts that are there."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.data import sources
from mmjax.data.records import Corpus, Item
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

# Unicode CLDR's and emojibase's own names of the emoji groups.
LABELS: Mapping[str, Mapping[str, str]] = {
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


def load(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads the emoji of the styles that a recipe names.

    Args:
      place: "": the assets have them.
      spec: styles, and what is the label.
      languages: of `en` and `zh`.

    Returns:
      The corpus; an emoji's variants are a family.

    Raises:
      MmjaxError: another language, or an asset that is not there.
    """
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
            lang: (record[f"name_{lang}"], *sources.entries(record[f"keywords_{lang}"]))
            for lang in languages
        }
        items.append(Item(name, record["family"], record[spec.label], captions, images))
    labels: Mapping[str, Mapping[str, str]] = LABELS
    if spec.label == "subgroup":  # they have no names but these, and those in English alone
        found_labels = sorted({item.label for item in items})
        labels = {x: {lang: x.replace("-", " ") for lang in languages} for x in found_labels}
    return Corpus("emoji", tuple(items), labels, source.fingerprint)
