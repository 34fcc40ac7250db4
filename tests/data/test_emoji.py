import numpy as np
import pytest
from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from mmjax import assets
from mmjax.data.builders import emoji_fonts
from mmjax.data.builders.emoji import draw_png
from mmjax.data.builders.emoji_fonts import load_font
from mmjax.data.builders.emoji_table import TABLE, family, read_table
from mmjax.errors import DataError

GRIN, MAN, ROCKET, ASTRONAUT = "😀", "👨", "🚀", "👨‍🚀"


def _box(width, height, x=0):
    pen = TTGlyphPen(None)
    pen.moveTo((x, 0))
    pen.lineTo((x, height))
    pen.lineTo((x + width, height))
    pen.lineTo((x + width, 0))
    pen.closePath()
    return pen.glyph()


@pytest.fixture(scope="session")
def tiny_font(tmp_path_factory):
    """A font with three boxes, one more for a joined sequence, and a glyph without ink."""
    shapes = {".notdef": (1, 1), "grin": (800, 800), "man": (800, 400), "rocket": (100, 100)}
    shapes |= {"joiner": (1, 1), "astronaut": (400, 800)}
    glyphs = {name: _box(*size) for name, size in shapes.items()}
    glyphs["blank"] = TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    codes = {GRIN: "grin", MAN: "man", ROCKET: "rocket", "\u200d": "joiner", "🛸": "blank"}
    builder.setupCharacterMap({ord(c): name for c, name in codes.items()})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics({name: (1000, 0) for name in glyphs})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Tiny", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    rule = "feature ccmp { sub man joiner rocket by astronaut; } ccmp;"
    addOpenTypeFeaturesFromString(builder.font, rule)
    path = tmp_path_factory.mktemp("font") / "tiny.ttf"
    builder.save(path)
    return path


@pytest.fixture(scope="session")
def openmoji():
    return load_font("openmoji", assets.path("openmoji") / "OpenMoji-color-glyf_colr0.ttf")


def _ink_size(image):
    dark = np.asarray(image.convert("L")) < 128
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    return columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


def test_a_picture_is_square_white_and_filled_to_the_same_share(tiny_font):
    font = load_font("openmoji", tiny_font)
    for emoji, width, height in ((GRIN, 144, 144), (MAN, 144, 72), (ASTRONAUT, 72, 144)):
        image = font.draw(emoji, 160)
        assert image is not None
        assert (image.size, image.mode) == ((160, 160), "RGB")
        assert image.getpixel((0, 0)) == (255, 255, 255)
        np.testing.assert_allclose(_ink_size(image), (width, height), atol=2)


def test_small_signs_stay_small(tiny_font):
    image = load_font("openmoji", tiny_font).draw(ROCKET, 160)
    assert image is not None
    # An eighth of the reference, at most 1.5 times its scale.
    np.testing.assert_allclose(_ink_size(image), (27, 27), atol=2)


def test_what_a_font_has_not_is_not_drawn(tiny_font):
    font = load_font("openmoji", tiny_font)
    assert font.draw("🍎", 160) is None  # no code point: no box in its place
    assert font.draw("👨‍🍎", 160) is None
    assert font.draw(MAN + "\u200d" + GRIN, 160) is None  # parts, but no picture of the whole
    assert font.draw("🛸", 160) is None  # no ink
    assert draw_png(font, "🍎", 160) is None


def test_the_picture_sign_makes_no_difference(tiny_font):
    font = load_font("openmoji", tiny_font)
    assert draw_png(font, GRIN + "\ufe0f", 32) == draw_png(font, GRIN, 32) is not None


def test_unreadable_fonts_are_one_sentence(tmp_path, tiny_font):
    path = tmp_path / "font.ttf"
    for content in (b"", b"no font", tiny_font.read_bytes()[:300]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"font\.ttf"):
            load_font("openmoji", path)


def test_system_fonts_are_found_in_the_usual_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji_fonts, "_folders", lambda: iter([tmp_path / "none", tmp_path]))
    assert emoji_fonts.system_font("noto") is None
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "NotoColorEmoji.ttf").write_bytes(b"")
    assert emoji_fonts.system_font("noto") == tmp_path / "deep" / "NotoColorEmoji.ttf"


def test_openmoji_draws_plain_sequences_and_flags(openmoji):
    rows = read_table()
    chosen = rows[::60] + [row for row in rows if row.name_en in ("woman astronaut", "flag: China")]
    pictures = [draw_png(openmoji, row.emoji, 64) for row in chosen]
    assert None not in pictures
    assert len(set(pictures)) == len(chosen)
    assert all(openmoji.text_of(row.emoji) is not None for row in rows)
    red = np.asarray(openmoji.draw("🍎", 64), float).reshape(-1, 3).mean(0)
    assert red[0] > red[1] + 30  # an apple, in colour


def test_the_table_is_whole():
    rows = read_table()
    assert len(rows) == 1923
    assert len({row.group for row in rows}) == 10
    by_id = {row.id: row for row in rows}
    assert by_id["1F600"].emoji == GRIN
    assert by_id["1F600"].name_zh == "嘿嘿"
    assert "smile" in by_id["1F600"].keywords_en
    for row in rows:
        spelt = "".join(chr(int(code, 16)) for code in row.id.split("-"))
        assert row.emoji.replace("\ufe0f", "") == spelt.replace("\ufe0f", "")
    assert TABLE.read_text("utf-8").startswith("# ")  # attribution


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.replace("hexcode", "code"), "first row"),
        (lambda s: s.replace("\tgrinning face\t", "\t"), "line 4"),
        (lambda s: s.replace("1F603\t", "1F600\t"), "line 5: 1F600 stands twice"),
        (lambda s: "", "first row"),
    ],
)
def test_broken_tables_name_the_line(tmp_path, change, match):
    path = tmp_path / "emoji.tsv"
    path.write_text(change("\n".join(TABLE.read_text("utf-8").split("\n")[:8])), "utf-8")
    with pytest.raises(DataError, match=match):
        read_table(path)


@pytest.mark.parametrize(
    "same",
    [
        "👩‍🚀 👨‍🚀 🧑‍🚀 👩🏽‍🚀",
        "🧑 👨 👩 👱 👱‍♀️ 🧔 🧔‍♂️ 👨‍🦰 🧑‍🦳",
        "🏃 🏃‍♀️ 🏃‍♂️ 🏃‍➡️",
        "👍 👍🏿",
        "✌ ✌️",
        "👪 👨‍👩‍👧 👩‍👩‍👦‍👦",
        "👫 👬 👭 🧑‍🤝‍🧑",
        "💏 👩‍❤️‍💋‍👨",
        "💑 👨‍❤️‍👨",
        "🎅 🤶 🧑‍🎄",
        "🤴 👸 🫅",
        "🤛 🤜",
    ],
)
def test_near_duplicates_are_one_family(same):
    assert len({family(emoji) for emoji in same.split()}) == 1


def test_different_things_are_different_families():
    assert (
        len(
            {
                family(e)
                for e in ("🧑‍🚀", "🧑‍🚒", "🧑", "🧒", "🧓", "🐱", "🐶", "😀", "❤️", "💏", "♀️")
            }
        )
        == 11
    )
    rows = read_table()
    assert 1600 < len({row.family for row in rows}) < 1750
