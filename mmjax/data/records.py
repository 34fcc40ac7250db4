"""Records that tasks eat: items (pictures with captions) and parallel text, from any source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from mmjax.data.labels import LeftOut
from mmjax.encoders.image_preprocess import open_image
from mmjax.errors import MmjaxError


@runtime_checkable
class StoredImage(Protocol):
    """An encoded picture that is read when it is wanted."""

    def read(self) -> bytes:
        """The encoded picture."""
        ...


@dataclass(frozen=True)
class Item:
    """One thing that is shown and named.

    Attributes:
      id: unique name.
      family: items of one family are near-duplicates and stay on one side of every split.
      label: its class, or "" where there is none.
      captions: language -> (name, keyword, keyword ...), or captions.
      images: style -> encoded picture, or where to read one.
      side: "train" or "test" where the source says so, else "".
      keywords: whether captions after the first are keywords, to be joined to it.
      features: modality -> a vector that is ready, f32; one that the item lacks is not there.
    """

    id: str
    family: str
    label: str
    captions: Mapping[str, tuple[str, ...]]
    images: Mapping[str, bytes | Path | StoredImage]
    side: str = ""
    keywords: bool = True
    features: Mapping[str, Float[np.ndarray, " _"]] = field(
        default_factory=dict[str, Float[np.ndarray, " _"]], compare=False
    )

    def picture(self, style: str) -> Image.Image:
        """Its picture in a style, decoded.

        Raises:
          MmjaxError: it cannot be read.
        """
        image = self.images[style]
        try:
            return open_image(image if isinstance(image, (bytes, Path)) else image.read())
        except MmjaxError as error:
            raise MmjaxError(f"item {self.id}, style {style}: {error}") from error


@dataclass(frozen=True)
class Query:
    """A text with the pictures that answer it.

    Attributes:
      language: of the text.
      text: what is asked.
      items: ids of the pictures.
    """

    language: str
    text: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """All items of a source.

    Attributes:
      name: of the source.
      items: in the source's order.
      labels: label -> language -> its name as a caption.
      fingerprint: sha256 of the source.
      queries: what is asked in evaluation, where a picture has several captions or a caption
        several pictures; empty where every item is asked by its name.
      left_out: classes of the source that are not among the items.
      places: label -> where in the source it stands first, where that can be told.
    """

    name: str
    items: tuple[Item, ...]
    labels: Mapping[str, Mapping[str, str]]
    fingerprint: str
    queries: tuple[Query, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    def at(self, numbers: Int[np.ndarray, " k"]) -> list[Item]:
        """The items of these numbers."""
        return [self.items[i] for i in numbers]

    def speaks(self, language: str) -> bool:
        """Whether its pictures can be asked for in a language."""
        if self.queries:
            return any(query.language == language for query in self.queries)
        return all(item.captions.get(language) for item in self.items)


@dataclass(frozen=True)
class Pair:
    """One sentence in two languages; several targets mean the same."""

    source: str
    targets: tuple[str, ...]
