"""Models that are plain arithmetic: they see mean colours, and repeat what they hear."""

import threading
import time
from typing import Any

import numpy as np

from mmjax.encoders.pictures import open_image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def unit(rows: Any) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Colours:
    """Sees mean colours; the frozen one takes every word for blue."""

    def __init__(self, *offers: str) -> None:
        self.offers = frozenset(offers or ("embed_texts", "embed_images", "embed_base_texts"))

    def embed_texts(self, texts):
        return unit([COLOURS[text] for text in texts])

    def embed_base_texts(self, texts):
        return unit([COLOURS["blue"] for _ in texts])

    def embed_images(self, images):
        return unit([np.asarray(open_image(i)).mean(axis=(0, 1)) for i in images])

    def embed_base_images(self, images):
        return -self.embed_images(images)


class Names(Colours):
    """Says the colours that it knows."""

    def __init__(self, names=("red", "green")) -> None:
        super().__init__()
        self.classes = tuple(names)

    def classify(self, images, k=1):
        scores = self.embed_images(images) @ self.embed_texts(self.classes).T
        named = [list(zip(self.classes, map(float, row), strict=True)) for row in scores]
        return [sorted(each, key=lambda pair: -pair[1])[:k] for each in named]

    def classify_base(self, images, k=1):
        return [[(self.classes[0], 1.0)] for _ in images]

    def taught(self, classes, shots=()):
        self.shots = [len(of_class) for of_class in shots]
        return Names(classes)


class Parrot:
    """Says every word of a question, one after the other."""

    def __init__(self, fails: Exception | None = None, pause: float = 0.01) -> None:
        self.card = {"stage": {"encoders": {"image": {}, "language": {}}}}
        self.talks = True
        self.heard: list[Any] = []
        self.fails, self.pause = fails, pause
        self.said = 0
        self.ended = threading.Event()

    def answer(self, questions, images, max_new_tokens, *, history, on_text, look_every):
        self.heard.append((questions, images, max_new_tokens, history, look_every))
        try:
            for word in questions[0].split():
                on_text(0, f" {word}")
                self.said += 1
                time.sleep(self.pause)
            if self.fails is not None:
                raise self.fails
        finally:
            self.ended.set()
        return []
