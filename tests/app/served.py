"""Serves a page of plain arithmetic: python -m tests.app.served search|classify|chat FOLDER.

Gradio, the queue, the limits and the page are the real ones; a model costs nothing.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

from PIL import Image

from mmjax.app.classify import Classify
from mmjax.app.limits import Limits
from mmjax.app.pictures import SamplePictures, samples_in
from mmjax.app.search import Search
from mmjax.app.talk import PictureTalk
from tests.app.models import COLOURS, Colours, Names, Parrot

PICTURES = "pictures"  # the folder that is searched
LIMITS = Limits(file_bytes=200_000, pixels=1_000_000, pictures=4, classes=4, letters=1000)
CLASSES = ("red", "green")
PAUSE = 0.05  # seconds between two words


class Slow(Colours):
    """Takes a moment, as a model does."""

    def embed_texts(self, texts):
        time.sleep(0.02)
        return super().embed_texts(texts)


def main(kind: str, folder: Path) -> None:
    """Serves until it is interrupted."""
    (folder / "uploads").mkdir(parents=True)
    (folder / PICTURES).mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from mmjax.app import serving
    from mmjax.app.page import PageLook

    gallery, limits = None, LIMITS
    if kind == "search":
        for name, colour in COLOURS.items():
            Image.new("RGB", (40, 30), colour).save(folder / PICTURES / f"{name}.png")
        page = Search(Slow(), LIMITS)
        gallery = page.of_folder(folder / PICTURES, 10)
    elif kind == "classify":
        page = Classify(Names(CLASSES), LIMITS)
    else:
        limits = Limits(file_bytes=LIMITS.file_bytes, pixels=LIMITS.pixels, waiting=3)
        page = PictureTalk(Parrot(pause=PAUSE), limits)
    samples = SamplePictures()
    if kind != "search":
        for name, colour in COLOURS.items():
            Image.new("RGB", (40, 30), colour).save(folder / PICTURES / f"{name}.png")
        (folder / PICTURES / "broken.png").write_bytes(b"no picture")
        samples = samples_in(folder / PICTURES, 10, limits)
    look = PageLook(
        "a toy", page.about, ("green", "red"), limits, 1, [str(folder), os.getcwd()], samples
    )
    door = serving.Door("127.0.0.1", 0, False, folder / "uploads")
    serving.serve(serving.made(page, gallery, look), look, door)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1], Path(sys.argv[2]))
