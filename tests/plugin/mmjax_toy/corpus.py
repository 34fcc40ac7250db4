"""A corpus: pictures of dots, drawn on the spot; `dots:48` draws 48 of them."""

import hashlib
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from mmjax.data.records import Corpus, Item
from mmjax.specs.data import PairsSpec

NAMES = ("one", "two", "three", "four")


def read(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """As many pictures as `place` says, each of one to four dots."""
    items = []
    for i in range(int(place or 48)):
        dots, shift = i % 4 + 1, i // 4
        image = Image.new("RGB", (32, 32), (shift * 7 % 256, 40, 200))
        for dot in range(dots):
            x, y = 16 * (dot % 2) + shift % 5, 16 * (dot // 2) + shift // 5 % 5
            ImageDraw.Draw(image).ellipse((x, y, x + 9, y + 9), fill="white")
        image.save(encoded := io.BytesIO(), "PNG")
        caption = f"{NAMES[dots - 1]} dots, number {i}"
        captions = {language: (caption,) for language in languages}
        label, shown = NAMES[dots - 1], {"drawn": encoded.getvalue()}
        items.append(Item(str(i), str(i), label, captions, shown, keywords=False))
    labels = {name: dict.fromkeys(languages, name) for name in NAMES}
    fingerprint = hashlib.sha256(f"dots {place}".encode()).hexdigest()
    return Corpus("dots", tuple(items), labels, fingerprint)
