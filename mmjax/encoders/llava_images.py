"""Pictures for LLaVA: tiles of the image tower's size, and where their tokens go in a text."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from mmjax.encoders.image_preprocess import ImagePreprocess, load_image_preprocess, picture_settings
from mmjax.encoders.picture_tokens import PictureTokens, check_count
from mmjax.encoders.pictures import ImageLike, check_room, open_image
from mmjax.encoders.vision import VisionConfig
from mmjax.errors import MmjaxError

WORD, NEWLINE = -1, 0  # what stands at a place that holds a word, and where a row of patches ends


@runtime_checkable
class TiledConfig(Protocol):
    """What of a model's config says how its pictures become tiles and tokens."""

    @property
    def vision(self) -> VisionConfig:
        """Of the image tower."""
        ...

    @property
    def tokens_per_tile(self) -> int:
        """Embeddings that one tile becomes."""
        ...

    @property
    def image_token_id(self) -> int:
        """Stands for a picture among the words."""
        ...

    @property
    def pinpoints(self) -> tuple[tuple[int, int], ...]:
        """Sizes (height, width) for the tiles; empty where a picture is one tile."""
        ...


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Texts with pictures, not padded: what `Llava.mix` wants, a row each.

    Attributes:
      ids: int32 [l_i] a row, each image token repeated for all that its picture becomes.
      places: int32 [l_i] a row, as in `Llava.mix`.
      tiles: float32 [t, side, side, 3] of all pictures; of a Qwen-VL as its image tower reads them.
      positions: int32 [l_i, 3] a row, where tokens have three positions; None where they have one.
      together: whether a picture's tokens all read one another.
    """

    ids: list[np.ndarray]
    places: list[np.ndarray]
    tiles: np.ndarray
    positions: list[np.ndarray] | None = None
    together: bool = False


@dataclasses.dataclass(frozen=True)
class LlavaImages:
    """Picture constants of a LLaVA."""

    preprocess: ImagePreprocess
    config: TiledConfig
    pad: bool = False  # LLaVA-1.5: make pictures square, in the mean's colour, before all else

    def tiles(self, image: ImageLike, index: int = 0) -> Float[np.ndarray, "t h w 3"]:
        """Cuts a picture into what the image tower reads.

        LLaVA-1.5 reads one square. LLaVA-NeXT reads the whole picture squeezed into a square, then
        the squares of a larger one that keeps the proportions, row by row.

        Args:
          image: a picture.
          index: its number, for error messages.

        Returns:
          Float32 [t, side, side, 3].

        Raises:
          MmjaxError: names the picture that cannot be read.

        Source:
          LlavaImageProcessorPil and LlavaNextImageProcessorPil in transformers.
        """
        picture = open_image(image, index)
        if not self.config.pinpoints:
            square = self._square(picture, f"picture {index}") if self.pad else picture
            return self.preprocess([square], index)
        side = self.preprocess.crop
        resample = Image.Resampling(self.preprocess.resample)
        height, width = best_size(picture.height, picture.width, self.config.pinpoints)
        scale = width / picture.width, height / picture.height
        if scale[0] < scale[1]:
            size = width, min(math.ceil(picture.height * scale[0]), height)
        else:
            size = min(math.ceil(picture.width * scale[1]), width), height
        canvas = Image.new("RGB", (width, height))
        at = (width - size[0]) // 2, (height - size[1]) // 2
        canvas.paste(picture.resize(size, resample), at)
        squares = [
            canvas.crop((x, y, x + side, y + side))
            for y in range(0, height, side)
            for x in range(0, width, side)
        ]
        return self.preprocess([picture.resize((side, side), resample), *squares], index)

    def count(self, height: int, width: int) -> int:
        """Tiles that a picture of this size, in pixels, is cut into."""
        if not self.config.pinpoints:
            return 1
        rows, columns = best_size(height, width, self.config.pinpoints)
        return 1 + rows * columns // self.preprocess.crop**2

    @property
    def most_tokens(self) -> int:
        """Tokens that no picture exceeds, but for the ends of its rows."""
        side = self.preprocess.crop
        tiles = 1 + max((h * w // side**2 for h, w in self.config.pinpoints), default=0)
        return tiles * self.config.tokens_per_tile

    @property
    def frame(self) -> tuple[str, str]:
        """A picture has a line of its own."""
        return "", "\n"

    def tokens(self, height: int, width: int, where: str = "a picture") -> PictureTokens:
        """As `PictureReader.tokens`: `places`, of so many tiles as `count` says."""
        del where  # of every size
        return PictureTokens(self.places(height, width), self.count(height, width))

    def inputs(self, image: ImageLike, index: int = 0) -> dict[str, np.ndarray]:
        """{"pixel_values": `tiles`}."""
        return {"pixel_values": self.tiles(image, index)}

    def _square(self, picture: Image.Image, where: str) -> Image.Image:
        side = max(picture.size)
        check_room(side, side, where, "padded")
        colour = tuple(int(x * 255) for x in self.preprocess.mean)
        canvas = Image.new("RGB", (side, side), colour)
        canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return canvas

    def places(self, height: int, width: int) -> Int[np.ndarray, "m"]:
        """Which tokens of a picture's tiles the text reads, in order.

        Args:
          height: the picture's, in pixels.
          width: the same.

        Returns:
          Int32 [m]: `NEWLINE`, or 1 + the number of a token among those of the picture's tiles.
        """
        n = self.config.tokens_per_tile
        whole = 1 + np.arange(n, dtype=np.int32)
        if not self.config.pinpoints:
            return whole
        side = self.preprocess.crop
        rows, columns = (x // side for x in best_size(height, width, self.config.pinpoints))
        grid = side // self.config.vision.patch_size
        tokens = 1 + n * np.arange(1, 1 + rows * columns, dtype=np.int32).reshape(
            rows, 1, columns, 1
        )
        tokens = tokens + np.arange(n, dtype=np.int32).reshape(1, grid, 1, grid)
        picture = unpad(tokens.reshape(rows * grid, columns * grid), height, width)
        ends = np.full((len(picture), 1), NEWLINE, np.int32)
        return np.concatenate([whole, np.concatenate([picture, ends], axis=1).reshape(-1)])

    def mix(self, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[ImageLike]]) -> Mixed:
        """Puts pictures where texts have image tokens.

        Args:
          prompts: token ids of n texts.
          images: for each text its pictures, in the order of its image tokens.

        Returns:
          The texts with their pictures.

        Raises:
          MmjaxError: a text whose image tokens are not as many as its pictures, or a picture that
            cannot be read.
        """
        token, side = self.config.image_token_id, self.preprocess.crop
        tiles, count, index = [np.zeros((0, side, side, 3), np.float32)], 0, 0
        all_ids, all_places = [], []
        for row, (prompt, pictures) in enumerate(zip(prompts, images, strict=True)):
            ids = np.array(prompt, np.int32)
            image_columns = np.flatnonzero(ids == token)
            check_count(row, len(image_columns), token, len(pictures))
            parts, start = [], 0
            for at, image in zip(image_columns, pictures, strict=True):
                opened = open_image(image, index)
                tiles.append(self.tiles(opened, index))
                places = self.places(opened.height, opened.width)
                shift = count * self.config.tokens_per_tile
                parts += [np.full(at - start, WORD, np.int32)]
                parts += [np.where(places == NEWLINE, NEWLINE, places + shift)]
                start, count, index = at + 1, count + len(tiles[-1]), index + 1
            places = np.concatenate([*parts, np.full(len(ids) - start, WORD, np.int32)])
            repeats = np.ones(len(ids), np.int64)
            repeats[image_columns] = [len(part) for part in parts[1::2]]
            all_ids.append(np.repeat(ids, repeats))
            all_places.append(places.astype(np.int32))
        return Mixed(all_ids, all_places, np.concatenate(tiles))


def best_size(height: int, width: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size that keeps most of a picture's pixels, and of those the one that wastes least.

    Args:
      height: the picture's.
      width: the same.
      sizes: (height, width) to choose from; the first of equals is taken.

    Returns:
      One of them.

    Source:
      select_best_resolution of LLaVA-NeXT.
    """

    def worth(size: tuple[int, int]) -> tuple[int, int]:
        scale = min(size[1] / width, size[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - size[0] * size[1]

    return max(sizes, key=worth)


def unpad(tokens: Int[np.ndarray, "h w"], height: int, width: int) -> Int[np.ndarray, "h2 w2"]:
    """Cuts off the rows or columns of patches that hold padding alone.

    Args:
      tokens: int [h, w], a padded picture's patches.
      height: the picture's before it was resized.
      width: the same.

    Returns:
      The part that shows the picture.

    Source:
      unpad_image of LLaVA-NeXT, with transformers' rounding to 7 digits.
    """
    rows, columns = tokens.shape
    if width / height > columns / rows:
        cut = (rows - int(round(height * (columns / width), 7))) // 2
        return tokens[cut : rows - cut]
    cut = (columns - int(round(width * (rows / height), 7))) // 2
    return tokens[:, cut : columns - cut]


def load_llava_images(folder: Path, config: TiledConfig) -> LlavaImages:
    """Reads the picture constants of a LLaVA's folder.

    Args:
      folder: holds preprocessor_config.json, or transformers 5's processor_config.json.
      config: the model's.

    Returns:
      The constants.

    Raises:
      MmjaxError: neither file, steps that are not supported, or a size that is not the tower's.
    """
    own = picture_settings(folder)
    preprocess = load_image_preprocess(folder, None, own)
    if preprocess.crop != config.vision.image_size:
        raise MmjaxError(
            f"{folder}: pictures are cut to {preprocess.crop} pixels, but the image tower was "
            f"trained for {config.vision.image_size}"
        )
    if config.pinpoints and preprocess.shortest_edge != preprocess.crop:
        raise MmjaxError(f"{folder}: tiles must have one size, got {own['size']} and a crop")
    # transformers 4's name of this step; both say it where pictures are padded to squares.
    return LlavaImages(preprocess, config, pad=bool(own.get("do_pad")) and not config.pinpoints)
