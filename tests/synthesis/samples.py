"""What tests of readers and writers share."""

import io
from typing import Any

from PIL import Image

from mmjax.data.turn_records import BLANK, Message, Record

CAPTION = "Describe the image."

# Hard to keep: tokens that are words, every loss, keys of `meta` that rows have themselves.
RECORDS = [
    Record(
        "1",
        ("a/x.jpg",),
        (
            Message("user", "  Is <image> a token, or <\\video>?\n", loss=True),
            Message("assistant", "<image> is a word.", loss=True),
            Message("user", "And\n\nthen?"),
            Message("assistant", "红苹果", loss=False),
        ),
        {"triplets": [{"question": "q"}], "margin": None, "finished": True},
    ),
    Record("2", (), (Message("user", "No image?"), Message("assistant", "None.", loss=True))),
    Record(
        "3",
        ("a/y.jpg", "https://host/z.jpg", BLANK, "elsewhere/w.jpg"),
        (Message("user", ""), Message("assistant", "Four.", loss=True)),
        {"system": "Be brief.", "meta": "of a kind", "model": "m"},
    ),
]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


def pair(name: str, image: str, caption: str, **meta: Any) -> Record:
    turns = Message("user", CAPTION), Message("assistant", caption, loss=True)
    return Record(name, (image,), turns, meta)
