"""Draws emoji with colour fonts, the same on every machine that has the font.

Sequences such as "man + joiner + rocket" are looked up in the font's own ligatures here. Pillow
would leave that to FriBiDi, a system library that bare machines lack.
"""

import io
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFont, features

from mmjax.errors import DataError

# Bitmap fonts exist at one size only.
_STYLES: Mapping[str, tuple[tuple[str, ...], int]] = {
    "openmoji": (("OpenMoji-color-glyf_colr0.ttf",), 256),
    "noto": (("NotoColorEmoji.ttf",), 109),
    "apple": (("Apple Color Emoji.ttc",), 160),
}
STYLES = tuple(_STYLES)

_PRIVATE = 0xF0000  # a plane of private-use code points
_PICTURE_STYLE = "\ufe0f"
_REFERENCE = "\U0001f600"
# The longer side of a picture's ink takes this share of the square ...
_FILL = 0.9
# ... unless its glyph is so small that it would grow more than this beyond the reference's scale.
_LARGEST_ZOOM = 1.5


@dataclass(frozen=True)
class EmojiFont:
    """A colour font, ready to draw.

    Attributes:
      style: "openmoji", "noto" or "apple".
      path: its file.
      font: Pillow's font.
      text_of: emoji -> text to hand to Pillow, or None where the font has no picture.
      zoom: square pixels per font pixel at which the reference emoji fills the square.
    """

    style: str
    path: Path
    font: ImageFont.FreeTypeFont
    text_of: Callable[[str], str | None]
    zoom: float

    def draw(self, emoji: str, pixels: int) -> Image.Image | None:
        """Draws an emoji in the middle of a white square.

        Args:
          emoji: the emoji.
          pixels: side of the square.

        Returns:
          An RGB picture, or None where the font has no picture of it.
        """
        ink = self._ink(emoji)
        if ink is None:
            return None
        scale = min(_FILL * pixels / max(ink.size), _LARGEST_ZOOM * self.zoom * pixels)
        size = [max(1, round(side * scale)) for side in ink.size]
        square = Image.new("RGB", (pixels, pixels), "white")
        small = ink.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        square.paste(small, ((pixels - size[0]) // 2, (pixels - size[1]) // 2))
        return square

    def _ink(self, emoji: str) -> Image.Image | None:
        text = self.text_of(emoji)
        return None if text is None else _ink(self.font, text)


def load_font(style: str, path: Path) -> EmojiFont:
    """Opens a colour font.

    Args:
      style: one of STYLES.
      path: the font's file.

    Returns:
      The font.

    Raises:
      DataError: the file is no font, or has no picture of a plain smiley.
    """
    size = _STYLES[style][1]
    try:
        font, text_of = _open(path, size)
        text = text_of(_REFERENCE)
        reference = None if text is None else _ink(font, text)
    except DataError:
        raise
    except Exception as error:  # both libraries raise whatever the damage leads to
        raise DataError(
            f"the {style} font {path} cannot be read ({error}); put a whole one there, or drop "
            f"{style!r} from the styles"
        ) from error
    if reference is None:
        raise DataError(f"the {style} font {path} has no colour picture of {_REFERENCE}")
    return EmojiFont(style, path, font, text_of, _FILL / max(reference.size))


def _open(path: Path, size: int) -> tuple[ImageFont.FreeTypeFont, Callable[[str], str | None]]:
    from fontTools.ttLib import TTFont

    # Given a name, TTFont would leave the file open where it cannot read it.
    with path.open("rb") as file, TTFont(file, fontNumber=0, lazy=True) as tables:
        cmap: dict[int, str] = tables.getBestCmap() or {}
        if "GSUB" not in tables:
            return _open_shaped(path, size, cmap)
        # The same font again, its sequences reachable under private-use code points.
        ligatures = _ligatures(tables["GSUB"].table)
        glyphs = sorted({*cmap.values(), *ligatures.values()})
        code_of = {glyph: chr(_PRIVATE + i) for i, glyph in enumerate(glyphs)}
        unicode_table = next(t for t in tables["cmap"].tables if t.isUnicode() and t.format == 12)
        unicode_table.cmap = {ord(code): glyph for glyph, code in code_of.items()}
        tables["cmap"].tables = [unicode_table]
        del tables["GSUB"]
        buffer = io.BytesIO()
        tables.save(buffer, reorderTables=False)
    buffer.seek(0)
    font = ImageFont.truetype(buffer, size, layout_engine=ImageFont.Layout.BASIC)

    def text_of(emoji: str) -> str | None:
        # Fonts spell sequences with or without the sign that asks for a picture.
        for spelling in (emoji, emoji.replace(_PICTURE_STYLE, "")):
            names = tuple(cmap.get(ord(c), "") for c in spelling)
            glyph = names[0] if len(names) == 1 else ligatures.get(names)
            if glyph:
                return code_of[glyph]
        return None

    return font, text_of


def _ligatures(table: Any) -> dict[tuple[str, ...], str]:
    """Every ligature that the font forms by itself: glyph names -> glyph name."""
    records = table.FeatureList.FeatureRecord
    chosen = {
        i for r in records if r.FeatureTag in ("ccmp", "liga") for i in r.Feature.LookupListIndex
    }
    ligatures = {}
    for index in sorted(chosen):
        for wrapped in table.LookupList.Lookup[index].SubTable:
            subtable = getattr(wrapped, "ExtSubTable", wrapped)
            for first, group in getattr(subtable, "ligatures", {}).items():
                for ligature in group:
                    ligatures.setdefault((first, *ligature.Component), ligature.LigGlyph)
    return ligatures


def _open_shaped(
    path: Path, size: int, cmap: Mapping[int, str]
) -> tuple[ImageFont.FreeTypeFont, Callable[[str], str | None]]:
    """Apple's fonts keep sequences in another table, which HarfBuzz reads."""
    shaped = features.check("raqm")
    engine = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
    font = ImageFont.truetype(path, size, layout_engine=engine)
    width = 1.3 * font.getlength(_REFERENCE)

    def text_of(emoji: str) -> str | None:
        text = emoji if shaped else emoji.replace(_PICTURE_STYLE, "")
        drawable = all(ord(c) in cmap or unicodedata.category(c) in ("Cf", "Mn") for c in text)
        # A sequence without a picture of its own is drawn as several, side by side.
        return text if drawable and font.getlength(text) <= width else None

    return font, text_of


def _ink(font: ImageFont.FreeTypeFont, text: str) -> Image.Image | None:
    """The drawn text on white, cut to what is not white."""
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    if right <= left or bottom <= top:
        return None
    # Colour layers can reach beyond the outline that the box is measured from.
    margin = max(right - left, bottom - top) // 4
    canvas = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), "white")
    at = (margin - left, margin - top)
    ImageDraw.Draw(canvas).text(at, text, font=font, embedded_color=True, fill="black")
    box = ImageChops.difference(canvas, Image.new("RGB", canvas.size, "white")).getbbox()
    return None if box is None else canvas.crop(box)


def _folders() -> Iterator[Path]:
    """The usual folders of fonts, the user's first."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    yield from (data / "fonts", home / ".fonts", home / "Library" / "Fonts")
    yield from (Path("/usr/local/share/fonts"), Path("/usr/share/fonts"))
    yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"))
    yield Path(sys.prefix) / "fonts"


def system_font(style: str) -> Path | None:
    """Finds the font of a style among the system's.

    Args:
      style: one of STYLES.

    Returns:
      Its file, or None.
    """
    for folder in _folders():
        for name in _STYLES[style][0]:
            fonts = sorted(folder.rglob(name)) if folder.is_dir() else []
            if fonts:
                return fonts[0]
    return None
