"""scikit-learn's handwritten digits: 1,797 grey pictures of 8 x 8 pixels in ten classes.

They come inside the scikit-learn package (extra `sklearn`): no download. Source: Optical
Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), UCI Machine Learning Repository.
"""

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmjax.data.records import Corpus, Item
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 56  # pixels a side of the picture that is kept: seven of them for one of the original


def load_digits(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads the digits; every one is an item of its own, captioned with its name.

    Args:
      place: "": the package has them.
      spec: as of every corpus; nothing of it is read here.
      languages: the same.

    Returns:
      The corpus, in the package's order.

    Raises:
      MmjaxError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MmjaxError(
            "config.pairs.source 'digits' comes with scikit-learn: "
            "python -m pip install 'mmjax[sklearn]'"
        ) from error
    dataset: Any = load_digits()
    pictures, classes = np.asarray(dataset["images"]), np.asarray(dataset["target"])
    grey = np.clip(pictures * 255 / 16, 0, 255).round().astype(np.uint8)  # 0 .. 16 as it comes
    items = []
    for number, (picture, digit) in enumerate(zip(grey, classes, strict=True)):
        name = f"digit-{number:04d}"
        captions = {language: (NAMES[digit],) for language in ("en", "zh")}
        items.append(Item(name, name, NAMES[digit], captions, {"grey": _png(picture)}))
    labels = {name: {"en": name, "zh": name} for name in NAMES}
    digest = hashlib.sha256(grey.tobytes() + classes.tobytes())
    return Corpus("digits", tuple(items), labels, digest.hexdigest())


def _png(picture: np.ndarray) -> bytes:
    image = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.convert("RGB").save(out, "PNG")
    return out.getvalue()
