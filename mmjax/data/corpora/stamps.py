"""Tux Paint's stamps: cut-out photographs with captions in up to 66 languages.

They come in a Debian package (asset `tuxpaint-stamps`, GPL as a whole; single pictures are under
GFDL, CC BY and CC BY-SA): fetched on demand, never part of mmjax.
"""

from collections.abc import Sequence
from pathlib import Path

from mmjax import assets
from mmjax.data.corpora.label_names import by_language
from mmjax.data.files import read_jsonl
from mmjax.data.records import Corpus, Item, Query
from mmjax.errors import MmjaxError
from mmjax.files import sha256_of
from mmjax.specs.data import PairsSpec

STYLE = "photo"
LOCALES = {"zh": "zh_CN", "pt": "pt_BR"}  # what gettext calls them; others as in a recipe
_ENDS = " .。!！|।"
# The folders of the package, in the languages that mmjax's recipes name classes in.
_LABELS = by_language(
    """
animals: animals | 动物 | Tiere | 動物
clothes: clothes | 衣服 | Kleidung | 服
food: food | 食物 | Essen | 食べ物
hobbies: hobbies | 爱好 | Hobbys | 趣味
household: household | 家居用品 | Haushalt | 家庭用品
medical: medical | 医疗 | Medizin | 医療
military: military | 军事 | Militär | 軍事
naturalforces: natural forces | 自然力量 | Naturgewalten | 自然の力
people: people | 人物 | Menschen | 人
plants: plants | 植物 | Pflanzen | 植物
seasonal: seasonal | 节日 | Jahreszeiten | 季節
space: space | 太空 | Weltraum | 宇宙
sports: sports | 体育 | Sport | スポーツ
town: town | 城镇 | Stadt | 町
vehicles: vehicles | 交通工具 | Fahrzeuge | 乗り物
"""
)


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
