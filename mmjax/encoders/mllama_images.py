"""Pictures for an Mllama: tiles of one size, and which words see which picture."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from PIL import Image

from mmjax.checks import ranges
from mmjax.encoders.image_preprocess import check_steps, picture_settings
from mmjax.encoders.mllama_config import MllamaConfig
from mmjax.encoders.picture_tokens import PictureTokens, check_count
from mmjax.encoders.pictures import ImageLike, check_room, open_image
from mmjax.errors import MmjaxError

_MEAN = _STD = (0.5, 0.5, 0.5)
_BILINEAR = 2  # PIL's number


@dataclasses.dataclass(frozen=True)
class BesideWords:
    """Texts and the pictures that stand beside them, not padded.

    Attributes:
      ids: int32 [l_i] a row.
      tiles: float32 [p, tiles, side, side, 3] of all pictures, of text after text.
      ratios: int32 [p]: the number of each picture's arrangement of tiles, counted from 1.
      reads: bool [l_i, p_i] a row: which of the row's own pictures a token sees.
    """

    ids: list[np.ndarray]
    tiles: np.ndarray
    ratios: np.ndarray
    reads: list[np.ndarray]

    def seats(self, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Where pictures belong in a padded batch.

        Args:
          rows: of the batch; those beyond the texts have no pictures.
          length: tokens of a row, the padding in front.

        Returns:
          (int32 [rows, i]: the number of the picture among all, or -1; bool [rows, length, i]).
        """
        most = max(reads.shape[1] for reads in self.reads)
        seats = np.full((rows, most), -1, np.int32)
        seen = np.zeros((rows, length, most), bool)
        first = 0
        for row, reads in enumerate(self.reads):
            size, count = reads.shape
            seats[row, :count] = first + np.arange(count)
            seen[row, length - size :, :count] = reads
            first += count
        return seats, seen


class SeenPictures(NamedTuple):
    """What layers that attend to pictures read, made once for a prompt.

    Attributes:
      keys: normalised, [cross layers, b, kv_heads, i * tiles * tokens, head_dim].
      values: the same.
      real: which tiles hold a part of a picture.
      there: which of a row's i pictures there are.
      reads: which pictures a token sees; of length 1 where all tokens see alike.
    """

    keys: Float[Array, "n b h m c"]
    values: Float[Array, "n b h m c"]
    real: Bool[Array, "b i t"]
    there: Bool[Array, "b i"]
    reads: Bool[Array, "b l i"]

    @property
    def later(self) -> "SeenPictures":
        """The same for tokens behind the last one, which see what that one sees."""
        return self._replace(reads=self.reads[:, -1:])

    def allowed(self, length: int) -> tuple[Bool[Array, "b _ m"], Bool[Array, "b _ 1"]]:
        """Which of the keys a token reads.

        A token in front of all pictures sees none, and its feed-forward part is left out; but it
        reads all keys of its row, those of empty tiles too, as in transformers.

        Args:
          length: of the tokens; others than those of `reads` stand in front, and see nothing.

        Returns:
          (the mask, whether a token sees a picture).
        """
        reads = self.reads
        if reads.shape[1] > 1:
            reads = jnp.pad(reads, [(0, 0), (length - reads.shape[1], 0), (0, 0)])
        tiles = reads[..., None] & self.real[:, None]
        sees = reads.any(axis=-1, keepdims=True)
        tiles = jnp.where(sees[..., None], tiles, self.there[:, None, :, None])
        flat = tiles.reshape(*reads.shape[:2], -1)
        return jnp.repeat(flat, self.keys.shape[3] // flat.shape[-1], axis=-1), sees


@dataclasses.dataclass(frozen=True)
class MllamaImages:
    """Picture constants of an Mllama.

    Attributes:
      config: the model's.
      mean: of each colour.
      std: the same.
      resample: PIL's number of the filter.
      rescale: what a pixel's value is multiplied by.
    """

    config: MllamaConfig
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    resample: int = _BILINEAR
    rescale: float = 1 / 255

    @property
    def most_tokens(self) -> int:
        """Keys that words may read of a picture."""
        return self.config.vision.max_tiles * self.config.vision.num_tokens

    @property
    def frame(self) -> tuple[str, str]:
        """A picture's token stands alone."""
        return "", ""

    def tokens(self, height: int, width: int, where: str = "a picture") -> PictureTokens:
        """As `PictureReader.tokens`: one, from which on the picture is seen."""
        del height, width, where  # of every size
        return PictureTokens(np.zeros(1, np.int32), self.config.vision.max_tiles)

    def inputs(self, image: ImageLike, index: int = 0) -> dict[str, np.ndarray]:
        """{"pixel_values": float32 [max_tiles, side, side, 3], "ratios": int32 []}; see `tiles`."""
        tiles, ratio = self.tiles(image, index)
        return {"pixel_values": tiles, "ratios": np.array(ratio, np.int32)}

    def arrangement(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles for a picture of this size.

        Args:
          height: the picture's, in pixels.
          width: the same.

        Returns:
          Those that enlarge it least, or if all are too small shrink it least; of equals the ones
          of the fewest tiles.

        Source:
          get_optimal_tiled_canvas of Mllama's picture processor in transformers.
        """
        side = self.config.vision.image_size
        scales = {
            (rows, columns): min(rows * side / height, columns * side / width)
            for rows, columns in self.config.vision.arrangements
        }
        larger = [scale for scale in scales.values() if scale >= 1]
        best = min(larger) if larger else max(scales.values())
        return min((a for a, s in scales.items() if s == best), key=lambda a: a[0] * a[1])

    def tiles(self, image: ImageLike, index: int = 0) -> tuple[Float[np.ndarray, "t s s 3"], int]:
        """Cuts a picture into tiles, row by row.

        Args:
          image: a picture.
          index: its number, for error messages.

        Returns:
          (float32 [max_tiles, side, side, 3], zeros where there is no tile; the number of the
          arrangement, counted from 1).

        Raises:
          MmjaxError: names the picture that cannot be read.

        Source:
          MllamaImageProcessorPil in transformers.
        """
        picture, vision = open_image(image, index), self.config.vision
        side = vision.image_size
        rows, columns = self.arrangement(picture.height, picture.width)
        width, height = _fitted(picture.width, picture.height, columns * side, rows * side, side)
        check_room(width, max(height, picture.height), f"picture {index}", "resized")
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Image.Resampling(self.resample))
        canvas = np.zeros((rows * side, columns * side, 3), np.float64)
        canvas[:height, :width] = np.asarray(picture)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        pixels = ((canvas * self.rescale).astype(np.float32) - mean) / std
        cut = pixels.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
        tiles = np.zeros((vision.max_tiles, side, side, 3), np.float32)
        tiles[: rows * columns] = cut.reshape(-1, side, side, 3)
        return tiles, 1 + vision.arrangements.index((rows, columns))

    def mix(
        self, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[ImageLike]]
    ) -> BesideWords:
        """Puts pictures beside texts with image tokens.

        Args:
          prompts: token ids of n texts.
          images: for each text its pictures, in the order of its image tokens.

        Returns:
          The texts and their pictures.

        Raises:
          MmjaxError: a text whose image tokens are not as many as its pictures, or a picture that
            cannot be read.
        """
        token, side = self.config.image_token_id, self.config.vision.image_size
        cut, reads = [], []
        for row, (prompt, pictures) in enumerate(zip(prompts, images, strict=True)):
            places = [at for at, i in enumerate(prompt) if i == token]
            check_count(row, len(places), token, len(pictures))
            cut += [self.tiles(picture, len(cut) + i) for i, picture in enumerate(pictures)]
            reads.append(seen_by(places, len(prompt)))
        none = np.zeros((0, self.config.vision.max_tiles, side, side, 3), np.float32)
        return BesideWords(
            [np.array(prompt, np.int32) for prompt in prompts],
            np.stack([tiles for tiles, _ in cut]) if cut else none,
            np.array([ratio for _, ratio in cut], np.int32),
            reads,
        )


def seen_by(places: Sequence[int], length: int) -> Bool[np.ndarray, "l i"]:
    """Which tokens see which picture.

    A picture is seen from its token on to the next picture's; pictures side by side are seen
    together, as long as the last of them.

    Args:
      places: of the image tokens, in order.
      length: tokens of the text.

    Returns:
      Bool [length, pictures].

    Source:
      get_cross_attention_token_mask of Mllama's processor in transformers.
    """
    seen = np.zeros((length, len(places)), bool)
    ends, end = [*places[1:], length], length
    for i in reversed(range(len(places))):
        end = end if ends[i] == places[i] + 1 else ends[i]
        seen[places[i] : end, i] = True
    return seen


def _fitted(width: int, height: int, widest: int, highest: int, side: int) -> tuple[int, int]:
    """A picture's width and height within a canvas, a tile large at least where that fits."""
    wide, high = min(max(width, side), widest), min(max(height, side), highest)
    if wide / width < high / height:
        return wide, min(math.floor(height * (wide / width)) or 1, high)
    return min(math.floor(width * (high / height)) or 1, wide), high


_OWN: ranges.RangeTable = {
    **{name: check for name, check in ranges.PICTURES.items() if name != "crop_size"},
    "max_image_tiles": ranges.whole(1, ranges.MOST_TILES),
}


def load_mllama_images(
    folder: Path, config: MllamaConfig, said: Mapping[str, Any], image_size: int | None
) -> MllamaImages:
    """Reads the picture constants of an Mllama's folder.

    Args:
      folder: holds preprocessor_config.json, or transformers 5's processor_config.json.
      config: the model's.
      said: what the file would say, where another one said it.
      image_size: must be None: tiles have the size that the tower was trained for.

    Returns:
      The constants.

    Raises:
      MmjaxError: a value out of range, tiles that are not the model's, or a step that is left out.
    """
    del image_size  # refused for language models before
    path = folder / "preprocessor_config.json"
    own = picture_settings(folder, said)
    ranges.check_ranges(own, str(path), _OWN)
    side, tiles = config.vision.image_size, config.vision.max_tiles
    size = own.get("size") or {}
    if size and size != {"height": side, "width": side}:
        raise MmjaxError(f"{path}: size {size}, but the model's tiles are {side} x {side}")
    if own.get("max_image_tiles", tiles) != tiles:
        raise MmjaxError(
            f"{path}: max_image_tiles {own['max_image_tiles']}, but the model's is {tiles}"
        )
    check_steps(path, own, "do_pad")
    return MllamaImages(
        config,
        mean=tuple(own.get("image_mean", _MEAN)),
        std=tuple(own.get("image_std", _STD)),
        resample=own.get("resample", _BILINEAR),
        rescale=own.get("rescale_factor", 1 / 255),
    )
