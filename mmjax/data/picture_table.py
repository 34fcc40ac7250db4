"""Pictures as a language model with an image tower of its own reads them, and their tokens."""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from mmjax.data.tables import Rows
from mmjax.encoders.batching import Items
from mmjax.encoders.picture_tokens import PictureReader, PictureTokens
from mmjax.encoders.pictures import ImageLike, size_of


@runtime_checkable
class Sized(Protocol):
    """Pictures that know their sizes without being decoded."""

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of one."""
        ...


@dataclasses.dataclass(frozen=True)
class PictureTable:
    """Pictures that are cut into tiles or patches when their turn comes.

    Attributes:
      images: the model's picture constants.
      items: the pictures.
      blank: whether white pictures of the same sizes are shown in their place.
      count: `PictureTokens.size` that every picture is filled up to; 0 takes the most that one of
        those asked for together has.
    """

    images: PictureReader
    items: Items
    blank: bool = False
    count: int = 0

    def __len__(self) -> int:
        return len(self.items)

    @functools.cached_property
    def _sizes(self) -> dict[int, tuple[int, int]]:
        return {}

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of a picture."""
        if i not in self._sizes:
            own = self.items
            self._sizes[i] = own.size(i) if isinstance(own, Sized) else size_of(own[i], i)
        return self._sizes[i]

    def tokens(self, i: int, where: str) -> PictureTokens:
        """A picture's tokens in a text; `where` names the text in messages."""
        return self.images.tokens(*self.size(i), f"the picture of {where}")

    def picture(self, i: int) -> ImageLike:
        """A picture, or the white one in its place."""
        if not self.blank:
            return self.items[i]
        height, width = self.size(i)
        return Image.new("RGB", (width, height), "white")

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """What the image tower reads of pictures, first axis b; zeros behind a picture's own."""
        read = {int(i): self.images.inputs(self.picture(int(i)), int(i)) for i in np.unique(rows)}
        return {
            name: self._stacked([read[int(i)][name] for i in rows]) for name in read[int(rows[0])]
        }

    def _stacked(self, arrays: list[np.ndarray]) -> np.ndarray:
        if not arrays[0].ndim:
            return np.stack(arrays)
        count = max(self.count, *map(len, arrays))
        out = np.zeros((len(arrays), count, *arrays[0].shape[1:]), arrays[0].dtype)
        for place, array in zip(out, arrays, strict=True):
            place[: len(array)] = array
        return out
