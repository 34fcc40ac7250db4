"""The emoji that there are: names, keywords and groups, and which of them are near-duplicates."""

from dataclasses import dataclass
from pathlib import Path

from mmjax.data.files import read_text
from mmjax.errors import DataError, shown

TABLE = Path(__file__).with_name("emoji.tsv")

# Raise it whenever other records or pictures come out: data sets that were made before are then
# made again.
VERSION = "1.0.0"

_COLUMNS = [
    "hexcode",
    "emoji",
    "group",
    "subgroup",
    "version",
    "name_en",
    "name_zh",
    "keywords_en",
    "keywords_zh",
    "skin_tone_variants",
]

_PERSON, _CHILD, _ELDER, _RULER, _CLAUS = 0x1F9D1, 0x1F9D2, 0x1F9D3, 0x1FAC5, 0x1F385
_JOINER, _TEXT_STYLE, _PICTURE_STYLE = 0x200D, 0xFE0E, 0xFE0F

# Dropped: skin tones, hair, gender signs, "facing right", joiners and styles.
_DROPPED = {_JOINER, _TEXT_STYLE, _PICTURE_STYLE, 0x2640, 0x2642, 0x27A1} | {
    *range(0x1F3FB, 0x1F400),
    *range(0x1F9B0, 0x1F9B4),
}
# Replaced: the same drawing for a man, a woman and a person, or seen in a mirror.
_SAME = {
    0x1F468: _PERSON,  # man
    0x1F469: _PERSON,  # woman
    0x1F471: _PERSON,  # blond hair
    0x1F9D4: _PERSON,  # beard
    0x1F466: _CHILD,
    0x1F467: _CHILD,
    0x1F474: _ELDER,
    0x1F475: _ELDER,
    0x1F934: _RULER,  # prince
    0x1F478: _RULER,  # princess
    0x1F936: _CLAUS,
    0x1F930: 0x1FAC4,  # pregnant
    0x1FAC3: 0x1FAC4,
    0x1F46C: 0x1F46B,  # holding hands
    0x1F46D: 0x1F46B,
    0x1F91C: 0x1F91B,  # fist facing left, right
    0x1FAF2: 0x1FAF1,  # hand to the left, right
    0x1FAF8: 0x1FAF7,  # pushing hand to the left, right
    0x1F50E: 0x1F50D,  # magnifying glass tilted left, right
}
_FAMILY, _KISS, _COUPLE, _HOLDING_HANDS = 0x1F46A, 0x1F48F, 0x1F491, 0x1F46B


@dataclass(frozen=True)
class Emoji:
    """One row of the table.

    Attributes:
      id: code points in hexadecimal, joined by "-".
      emoji: the emoji itself.
      group: one of ten groups, e.g. "animals-nature".
      subgroup: one of a hundred, e.g. "animal-bird".
      version: of Unicode emoji that brought it, e.g. "15.1".
      name_en: English name.
      name_zh: Chinese name.
      keywords_en: English keywords.
      keywords_zh: Chinese keywords.
      family: the same for near-duplicates, which must not be split between train and test.
    """

    id: str
    emoji: str
    group: str
    subgroup: str
    version: str
    name_en: str
    name_zh: str
    keywords_en: tuple[str, ...]
    keywords_zh: tuple[str, ...]
    family: str


def read_table(path: Path = TABLE) -> list[Emoji]:
    """Reads the table.

    Args:
      path: a tab-separated file; lines that start with "#" are comments.

    Returns:
      Its rows, in order.

    Raises:
      DataError: a column or a field lacks, or an emoji stands twice; says the line.
    """
    rows: dict[str, Emoji] = {}
    lines = read_text(path).split("\n")
    numbered = [(n, s.split("\t")) for n, s in enumerate(lines, 1) if s and not s.startswith("#")]
    if not numbered or numbered[0][1] != _COLUMNS:
        raise DataError(f"{path}: the first row must name the columns {', '.join(_COLUMNS)}")
    for number, fields in numbered[1:]:
        if len(fields) != len(_COLUMNS) or not all(fields[:7]):
            raise DataError(
                f"{path}, line {number}: expected {len(_COLUMNS)} fields, the first 7 not empty, "
                f"found {shown(fields)}"
            )
        code, emoji, group, subgroup, version, name_en, name_zh, words_en, words_zh, _ = fields
        if code in rows:
            raise DataError(f"{path}, line {number}: {code} stands twice")
        keywords = _words(words_en), _words(words_zh)
        named = group, subgroup, version, name_en, name_zh
        rows[code] = Emoji(code, emoji, *named, *keywords, family(emoji))
    return list(rows.values())


def _words(field: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in field.split("|") if word.strip()))


def family(emoji: str) -> str:
    """Names the group of near-duplicates that an emoji belongs to.

    Args:
      emoji: the emoji, e.g. "👩🏽‍🚀".

    Returns:
      Code points of the group's plainest member, e.g. "1F9D1-1F680" (astronaut).
    """
    codes = [_SAME.get(ord(c), ord(c)) for c in emoji if ord(c) not in _DROPPED]
    people = [code for code in codes if code in (_PERSON, _CHILD)]
    if codes == [_PERSON, 0x1F384]:  # Mx Claus
        codes = [_CLAUS]
    elif codes == [_PERSON, 0x1F91D, _PERSON]:
        codes = [_HOLDING_HANDS]
    elif codes[:2] == [_PERSON, 0x2764]:
        codes = [_KISS if 0x1F48B in codes else _COUPLE]
    elif len(people) == len(codes) > 1:
        codes = [_FAMILY]
    return "-".join(f"{code:04X}" for code in codes) or emoji
