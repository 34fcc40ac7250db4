"""Pictures as a LLaVA reads them: tiles, and which of their tokens stand in the text."""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from PIL import Image

from mmjax.data.tables import Rows
from mmjax.encoders.batching import Items
from mmjax.encoders.llava_images import LlavaImages
from mmjax.encoders.pictures import size_of


@runtime_checkable
class Sized(Protocol):
    """Pictures that know their sizes without being decoded."""

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of one."""
        ...


@dataclasses.dataclass(frozen=True)
class TileTable:
    """Pictures that are cut into tiles when their turn comes.

    Attributes:
      images: a LLaVA's picture constants.
      items: the pictures.
      blank: whether white pictures of the same sizes are shown in their place.
      count: tiles that every picture is filled up to; 0 takes the most that one of those asked for
        together has.
    """

    images: LlavaImages
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

    def places(self, i: int) -> Int[np.ndarray, " m"]:
        """Which tokens of a picture's tiles the text reads; see `LlavaImages.places`."""
        return self.images.places(*self.size(i))

    def tiles(self, i: int) -> int:
        """Tiles that a picture is cut into."""
        return self.images.count(*self.size(i))

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """{"pixel_values": float32 [b, t, side, side, 3]}, black tiles behind a picture's own."""
        cut = {int(i): self._cut(int(i)) for i in np.unique(rows)}
        count = max(self.count, *(len(tiles) for tiles in cut.values()))
        pixels = np.zeros((len(rows), count, *cut[int(rows[0])].shape[1:]), np.float32)
        for place, i in zip(pixels, rows, strict=True):
            place[: len(cut[int(i)])] = cut[int(i)]
        return {"pixel_values": pixels}

    def _cut(self, i: int) -> np.ndarray:
        if not self.blank:
            return self.images.tiles(self.items[i], i)
        height, width = self.size(i)
        return self.images.tiles(Image.new("RGB", (width, height), "white"), i)
