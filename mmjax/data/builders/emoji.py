"""The data set `emoji`: every emoji drawn in every style, with its names and keywords."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mmjax.data.builders.emoji_fonts import EmojiFont, load_font
from mmjax.data.builders.emoji_table import VERSION, Emoji, read_table
from mmjax.data.builders.local import LocalBuilder
from mmjax.errors import DataError
from mmjax.progress import track


class EmojiBuilder(LocalBuilder):
    """One record an (emoji, style); pictures are square PNGs on white."""

    name = "emoji"
    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        fonts: Mapping[str, Path],
        pixels: int = 160,
        rows: Sequence[Emoji] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keeps what `_generate_examples` needs.

        Args:
          fonts: style -> font file, in the order of the records.
          pixels: side of the pictures.
          rows: which emoji; None for the whole table.
          **kwargs: tensorflow-datasets' own, e.g. data_dir.
        """
        self._fonts, self._pixels, self._rows = dict(fonts), pixels, rows
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        names = (
            "id emoji name_en name_zh keywords_en keywords_zh group subgroup version family style"
        )
        image = tfds.features.Image(shape=(self._pixels, self._pixels, 3), encoding_format="png")
        return self._described(
            description="Emoji: pictures, English and Chinese names, keywords and groups.",
            homepage="https://emojibase.dev",
            licence="names: MIT (emojibase), Unicode-3.0; OpenMoji pictures: CC-BY-SA-4.0",
            features={**{name: text() for name in names.split()}, "image": image},
        )

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        rows = read_table() if self._rows is None else self._rows
        fonts = [load_font(style, path) for style, path in self._fonts.items()]
        work = [(row, font) for font in fonts for row in rows]
        drawn = dict.fromkeys(self._fonts, 0)
        for row, font in track(work, "drawing emoji"):
            image = draw_png(font, row.emoji, self._pixels)
            # The newest emoji are missing from older system fonts.
            if image is None:
                continue
            drawn[font.style] += 1
            yield f"{font.style}:{row.id}", _record(row, font.style, image)
        empty = [style for style, count in drawn.items() if not count]
        if empty:
            raise DataError(f"the font {self._fonts[empty[0]]} has none of the {len(rows)} emoji")


def draw_png(font: EmojiFont, emoji: str, pixels: int) -> bytes | None:
    """Draws an emoji and encodes it.

    Args:
      font: the font.
      emoji: the emoji.
      pixels: side of the square.

    Returns:
      A PNG file's bytes, or None where the font has no picture of it.
    """
    image = font.draw(emoji, pixels)
    if image is None:
        return None
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _record(row: Emoji, style: str, image: bytes) -> dict[str, Any]:
    return {
        "id": row.id,
        "emoji": row.emoji,
        "name_en": row.name_en,
        "name_zh": row.name_zh,
        "keywords_en": "|".join(row.keywords_en),
        "keywords_zh": "|".join(row.keywords_zh),
        "group": row.group,
        "subgroup": row.subgroup,
        "version": row.version,
        "family": row.family,
        "style": style,
        "image": image,
    }
