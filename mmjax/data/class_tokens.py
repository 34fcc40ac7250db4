"""Class tokens of pictures, computed once for a frozen vision transformer that nothing changes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from mmjax import assets
from mmjax.data import feature_cache
from mmjax.data.tables import Rows
from mmjax.encoders.base import Encoder
from mmjax.errors import MmjaxError


@dataclass(frozen=True)
class ClassTokenTable:
    """Class tokens of pictures, after some layers.

    Attributes:
      values: one row a picture.
    """

    values: Float[np.ndarray, "n taps c"]

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """{"class_tokens": f32 [b taps c]}."""
        return {"class_tokens": self.values[rows]}


def load_class_tokens(
    encoder: Encoder, images: Sequence[Path | Image.Image], layers: Sequence[int]
) -> ClassTokenTable:
    """Reads class tokens from the feature cache, computing what is missing.

    The cache holds those of all layers, so that another number of taps computes nothing.

    Args:
      encoder: the vision transformer.
      images: files or pictures; what they show names them in the cache.
      layers: after which to read, counted from 0.

    Returns:
      One row a picture, in order.

    Raises:
      MmjaxError: a picture that cannot be read, or a cache that cannot be written.
    """
    keys = [_content(picture) for picture in images]
    request = feature_cache.Request(
        "class token", (encoder.outputs_fingerprint,), images, keys, "class_tokens"
    )
    every = feature_cache.load_features(assets.cache_dir() / "features", request, lambda: encoder)
    whole = every.values.reshape(len(every), -1, every.width)
    return ClassTokenTable(whole[:, np.asarray(layers)])


def _content(picture: Path | Image.Image) -> str:
    """Sha256 of a picture as it lies in its file, or of its pixels."""
    if isinstance(picture, Image.Image):
        pixels = f"{picture.mode} {picture.size}".encode() + picture.tobytes()
        return hashlib.sha256(pixels).hexdigest()
    try:
        return hashlib.sha256(picture.read_bytes()).hexdigest()
    except OSError as error:
        raise MmjaxError(f"picture {picture} cannot be read: {error.strerror}") from error
