"""What a picture is in the text of a language model that has an image tower of its own."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from mmjax.encoders.pictures import ImageLike
from mmjax.errors import MmjaxError


class PictureTokens(NamedTuple):
    """A picture's tokens in a text, known from its height and width alone.

    Attributes:
      places: int32 [m]: which of what the image tower makes of the picture stands there, in order,
        as the model's `join` counts it; a model that reads pictures beside its words has one.
      size: rows that the tower reads of it, tiles or patches. Pictures of one batch are filled up
        to the largest of them.
      positions: int32 [m, 3], counted from the picture's first token; None where a model counts all
        tokens alike.
    """

    places: Int[np.ndarray, " m"]
    size: int
    positions: Int[np.ndarray, "m 3"] | None = None


@runtime_checkable
class PictureReader(Protocol):
    """A family's picture constants, as far as training asks them for one picture at a time."""

    @property
    def frame(self) -> tuple[str, str]:
        """What stands in a text before a picture's token and behind it."""
        ...

    def tokens(self, height: int, width: int, where: str = "a picture") -> PictureTokens:
        """The tokens of a picture of this size, in pixels.

        Raises:
          MmjaxError: `where` names a picture that the model does not read.
        """
        ...

    def inputs(self, image: ImageLike, index: int = 0) -> dict[str, np.ndarray]:
        """What the image tower reads of a picture.

        Args:
          image: a picture.
          index: its number, for error messages.

        Returns:
          Arrays by name; those that have axes have `PictureTokens.size` rows.

        Raises:
          MmjaxError: names the picture that cannot be read.
        """
        ...


def check_count(row: int, found: int, token: int, pictures: int) -> None:
    """Refuses a text whose image tokens are not as many as its pictures.

    Args:
      row: the text's number.
      found: image tokens in it.
      token: their id.
      pictures: that were given with it.

    Raises:
      MmjaxError: says both numbers.
    """
    if found != pictures:
        raise MmjaxError(
            f"prompt {row} has {found} image tokens (id {token}) but "
            f"{pictures} pictures; write one image token for each"
        )


def text_positions(
    length: int, pictures: Sequence[tuple[int, Int[np.ndarray, "_ 3"]]]
) -> Int[np.ndarray, "l 3"]:
    """Three positions of every token of a text with pictures.

    Args:
      length: tokens of the text, pictures' included.
      pictures: in order, the column of each one's first token and `PictureTokens.positions`.

    Returns:
      Int32 [length, 3]: words count by one, a word behind a picture from its largest position on.
    """
    out = np.repeat(np.arange(length, dtype=np.int32)[:, None], 3, axis=1)
    for at, own in pictures:
        behind = at + len(own)
        out[behind:] += own.max() + 1 - len(own)
        out[at:behind] = out[at] + own
    return out
