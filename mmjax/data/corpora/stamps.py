"""Tux Paint's stamps: cut-out photographs with captions in up to 66 languages.

They come in a Debian package (asset `tuxpaint-stamps`, GPL as a whole; single pictures are under
GFDL, CC BY and CC BY-SA): fetched on demand, never part of mmjax.
"""

from collections.abc import Sequence
from pathlib import Path

from mmjax import assets
from mmjax.data.files import read_jsonl
from mmjax.data.records import Corpus, Item, Query
from mmjax.errors import MmjaxError
from mmjax.files import sha256_of
from mmjax.specs.data import PairsSpec

STYLE = "photo"
LOCALES = {"zh": "zh_CN", "pt": "pt_BR"}  # what gettext calls them; others as in a recipe
_ENDS = " .。!！|।"
# The folders of the package, in the languages that mmjax's recipes name classes in.
_LABELS = {
    "animals": {"en": "animals", "zh": "动物", "de": "Tiere", "ja": "動物"},
    "clothes": {"en": "clothes", "zh": "衣服", "de": "Kleidung", "ja": "服"},
    "food": {"en": "food", "zh": "食物", "de": "Essen", "ja": "食べ物"},
    "hobbies": {"en": "hobbies", "zh": "爱好", "de": "Hobbys", "ja": "趣味"},
    "household": {"en": "household", "zh": "家居用品", "de": "Haushalt", "ja": "家庭用品"},
    "medical": {"en": "medical", "zh": "医疗", "de": "Medizin", "ja": "医療"},
    "military": {"en": "military", "zh": "军事", "de": "Militär", "ja": "軍事"},
    "naturalforces": {
        "en": "natural forces",
        "zh": "自然力量",
        "de": "Naturgewalten",
        "ja": "自然の力",
    },
    "people": {"en": "people", "zh": "人物", "de": "Menschen", "ja": "人"},
    "plants": {"en": "plants", "zh": "植物", "de": "Pflanzen", "ja": "植物"},
    "seasonal": {"en": "seasonal", "zh": "节日", "de": "Jahreszeiten", "ja": "季節"},
    "space": {"en": "space", "zh": "太空", "de": "Weltraum", "ja": "宇宙"},
    "sports": {"en": "sports", "zh": "体育", "de": "Sport", "ja": "スポーツ"},
    "town": {"en": "town", "zh": "城镇", "de": "Stadt", "ja": "町"},
    "vehicles": {"en": "vehicles", "zh": "交通工具", "de": "Fahrzeuge", "ja": "乗り物"},
}


def load_stamps(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads the photographs that have a caption in every language that is asked for.

    Args:
      place: "": the asset has them.
      spec: as of every corpus; nothing of it is read here.
      languages: ISO 639 codes, such as `en`, `zh`, `de`, `ja`, `hi`.

    Returns:
      The corpus: photographs of one English caption are a family, the folder of the package is the
      label; any photograph with a caption answers it.

    Raises:
      MmjaxError: no photograph is captioned in all of them, or the asset is not there.
    """
    folder = assets.path("tuxpaint-stamps")
    items: list[Item] = []
    for _, row in read_jsonl(folder / "rows.jsonl"):
        by_locale: dict[str, str] = row["captions"]
        texts = {
            lang: by_locale.get(LOCALES.get(lang, lang), by_locale.get(lang, ""))
            for lang in languages
        }
        captions = {lang: (text.strip(_ENDS),) for lang, text in texts.items() if text.strip(_ENDS)}
        if captions.keys() != set(languages):
            continue
        family, picture = by_locale["en"].strip(_ENDS).casefold(), folder / row["file"]
        images: dict[str, bytes | Path] = {STYLE: picture}
        items.append(Item(row["id"], family, row["group"], captions, images, keywords=False))
    if not items:
        raise MmjaxError(
            f"config.languages is {tuple(languages)}; no stamp has captions in all of them"
        )
    labels = {
        label: {lang: names[lang] for lang in languages if lang in names}
        for label, names in _LABELS.items()
    }
    answers: dict[tuple[str, str], list[str]] = {}
    for item in items:
        for lang, (text,) in item.captions.items():
            answers.setdefault((lang, text), []).append(item.id)
    queries = tuple(Query(lang, text, tuple(ids)) for (lang, text), ids in answers.items())
    digest = f"{sha256_of(folder / 'rows.jsonl')}:{','.join(languages)}"
    return Corpus("stamps", tuple(items), labels, digest, queries)
