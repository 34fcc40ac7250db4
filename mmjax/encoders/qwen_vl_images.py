"""Pictures for Qwen-VL: patches at their own resolution, several pictures packed into one row."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from mmjax.checks import foreign, ranges
from mmjax.encoders.image_preprocess import check_steps, picture_settings
from mmjax.encoders.llava_images import WORD, Mixed
from mmjax.encoders.picture_tokens import PictureTokens, check_count, text_positions
from mmjax.encoders.pictures import ImageLike, check_room, open_image
from mmjax.encoders.qwen_vl_config import MERGE, QwenVlConfig
from mmjax.encoders.text_preprocess import bucket
from mmjax.errors import MmjaxError

COORDINATES = 4  # behind a patch's pixels: its row, its column, its picture, its window
# Patches of one row: each length that occurs costs one compilation.
LENGTHS = tuple(64 << i for i in range(12))
_THINNEST = 200  # how often the longer side may hold the shorter one
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_LEAST, _MOST = 56 * 56, 28 * 28 * 1280  # pixels


@dataclasses.dataclass(frozen=True)
class QwenImages:
    """Picture constants of a Qwen-VL.

    Attributes:
      config: the model's.
      least: pixels that a picture has at least, after it was resized.
      most: pixels that it has at most.
      mean: of each colour.
      std: the same.
      resample: PIL's number of the filter.
      rescale: what a pixel's value is multiplied by.
    """

    config: QwenVlConfig
    least: int = _LEAST
    most: int = _MOST
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    resample: int = 3
    rescale: float = 1 / 255

    def grid(self, height: int, width: int, where: str = "a picture") -> tuple[int, int]:
        """Rows and columns of patches of a picture, multiples of 2.

        Args:
          height: the picture's, in pixels.
          width: the same.
          where: names it in messages.

        Returns:
          (rows, columns).

        Raises:
          MmjaxError: it is too thin.

        Source:
          smart_resize of Qwen2-VL.
        """
        if max(height, width) > _THINNEST * min(height, width):
            raise MmjaxError(
                f"{where} has {width} x {height} pixels; this model reads pictures whose sides "
                f"differ at most {_THINNEST}-fold"
            )
        side = self.config.vision.patch_size * MERGE
        rows, columns = round(height / side), round(width / side)
        if rows * columns * side * side > self.most:
            shrink = math.sqrt(height * width / self.most)
            rows, columns = (max(1, math.floor(x / shrink / side)) for x in (height, width))
        elif rows * columns * side * side < self.least:
            grow = math.sqrt(self.least / (height * width))
            rows, columns = (math.ceil(x * grow / side) for x in (height, width))
        return rows * MERGE, columns * MERGE

    def count(self, height: int, width: int) -> int:
        """Tokens that a picture of this size costs."""
        rows, columns = self.grid(height, width)
        return rows * columns // MERGE**2

    @property
    def frame(self) -> tuple[str, str]:
        """The texts of the tokens around a picture."""
        return "<|vision_start|>", "<|vision_end|>"

    def tokens(self, height: int, width: int, where: str = "a picture") -> PictureTokens:
        """As `PictureReader.tokens`: one for every four patches, at its row and column.

        Raises:
          MmjaxError: the picture is too thin.
        """
        rows, columns = self.grid(height, width, where)
        places, positions = _tokens(rows, columns)
        return PictureTokens(places, bucket(rows * columns, LENGTHS), positions)

    def inputs(self, image: ImageLike, index: int = 0) -> dict[str, np.ndarray]:
        """{"pixel_values": float32 [size, patch_width + 4]}, as `QwenVision` reads them."""
        rows, _ = self._pack([self.patches(image, index)])
        return {"pixel_values": rows[0]}

    @property
    def most_tokens(self) -> int:
        """Tokens that no picture exceeds."""
        return -(-self.most // (self.config.vision.patch_size * MERGE) ** 2)

    def patches(
        self, image: ImageLike, index: int = 0
    ) -> tuple[Float[np.ndarray, "n w"], int, int]:
        """Cuts a picture into patches, those that become one token side by side.

        Args:
          image: a picture.
          index: its number, for error messages.

        Returns:
          (float32 [n, channels * frames * patch_size^2], rows, columns).

        Raises:
          MmjaxError: names the picture that cannot be read, or is too thin.
        """
        where = f"picture {index}"
        picture = open_image(image, index)
        rows, columns = self.grid(picture.height, picture.width, where)
        vision, p = self.config.vision, self.config.vision.patch_size
        size = columns * p, rows * p
        check_room(size[0], max(size[1], picture.height), where, "resized")
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling(self.resample))
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        pixels = (np.asarray(picture, np.float32) * np.float32(self.rescale) - mean) / std
        pixels = pixels.reshape(rows // MERGE, MERGE, p, columns // MERGE, MERGE, p, 3)
        pixels = pixels.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3, 1, p * p)
        pixels = np.broadcast_to(pixels, (len(pixels), 3, vision.frames, p * p))
        return pixels.reshape(len(pixels), -1), rows, columns

    def mix(self, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[ImageLike]]) -> Mixed:
        """Puts pictures where texts have image tokens.

        Args:
          prompts: token ids of n texts.
          images: for each text its pictures, in the order of its image tokens.

        Returns:
          The texts with their pictures, and every token's three positions.

        Raises:
          MmjaxError: a text whose image tokens are not as many as its pictures, or a picture that
            cannot be read.
        """
        token = self.config.image_token_id
        cut = []
        for row, (prompt, pictures) in enumerate(zip(prompts, images, strict=True)):
            check_count(row, sum(i == token for i in prompt), token, len(pictures))
            cut += [self.patches(picture, len(cut)) for picture in pictures]
        tiles, starts = self._pack(cut)
        number, all_ids, all_places, all_positions = 0, [], [], []
        for prompt in prompts:
            ids, places, shown = list[int](), list[int](), list[tuple[int, np.ndarray]]()
            for i in prompt:
                if i != token:
                    ids.append(i)
                    places.append(WORD)
                    continue
                own, positions = _tokens(*cut[number][1:])
                shown.append((len(ids), positions))
                places += (1 + starts[number] + own).tolist()
                ids += [i] * len(own)
                number += 1
            all_ids.append(np.array(ids, np.int32))
            all_places.append(np.array(places, np.int32))
            all_positions.append(text_positions(len(ids), shown))
        return Mixed(all_ids, all_places, tiles, all_positions)

    def _pack(
        self, cut: Sequence[tuple[np.ndarray, int, int]]
    ) -> tuple[Float[np.ndarray, "r l w"], list[int]]:
        """Pictures in as few rows as it takes when each goes into the first that has room.

        Args:
          cut: of every picture its patches, rows and columns.

        Returns:
          (rows of patches with their places, of every picture the number of its first token).
        """
        width = self.config.vision.patch_width + COORDINATES
        if not cut:
            return np.zeros((0, MERGE**2, width), np.float32), []
        length = bucket(max(len(patches) for patches, _, _ in cut), LENGTHS)
        used: list[int] = []
        spots = []
        for patches, _, _ in cut:
            fits = [i for i, n in enumerate(used) if n + len(patches) <= length]
            row = fits[0] if fits else len(used)
            if not fits:
                used.append(0)
            spots.append((row, used[row]))
            used[row] += len(patches)
        out = np.zeros((len(used), length, width), np.float32)
        windows = np.zeros(len(used), int)
        for number, ((patches, rows, columns), (row, at)) in enumerate(
            zip(cut, spots, strict=True)
        ):
            part = out[row, at : at + len(patches)]
            part[:, :-COORDINATES] = patches
            places = _places(rows, columns)
            part[:, -4:-2], part[:, -2] = places, 1 + number
            if self.config.vision.window:
                by = MERGE * self.config.vision.window
                across = -(-columns // by)
                part[:, -1] = 1 + windows[row] + places[:, 0] // by * across + places[:, 1] // by
                windows[row] += -(-rows // by) * across
        return out, [(row * length + at) // MERGE**2 for row, at in spots]


def _tokens(rows: int, columns: int) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m 3"]]:
    """Numbers and positions of the tokens of so many rows and columns of patches."""
    places = np.arange(rows * columns // MERGE**2, dtype=np.int32)
    y, x = np.divmod(places, columns // MERGE)
    return places, np.stack([0 * y, y, x], axis=-1)


def _places(rows: int, columns: int) -> Int[np.ndarray, "n 2"]:
    """Row and column of every patch, those that become one token side by side."""
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    blocks = grid.reshape(rows // MERGE, MERGE, columns // MERGE, MERGE, 2)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(rows * columns, 2)


_PIXELS = ranges.optional(ranges.whole(1, 1 << 30))
_OWN: ranges.RangeTable = {
    **{name: check for name, check in ranges.PICTURES.items() if name not in ("size", "crop_size")},
    "size": ranges.optional(
        ranges.keyed(
            dict.fromkeys(("shortest_edge", "longest_edge", "min_pixels", "max_pixels"), _PIXELS)
        )
    ),
    **dict.fromkeys(("min_pixels", "max_pixels"), _PIXELS),
    **dict.fromkeys(("patch_size", "temporal_patch_size", "merge_size"), ranges.whole(1, 64)),
}


def load_qwen_images(
    folder: Path, config: QwenVlConfig, said: Mapping[str, Any], image_size: int | None
) -> QwenImages:
    """Reads the picture constants of a Qwen-VL's folder.

    Args:
      folder: holds preprocessor_config.json, or transformers 5's processor_config.json.
      config: the model's.
      said: what the file would say, where another one said it.
      image_size: must be None: pictures keep their proportions.

    Returns:
      The constants.

    Raises:
      MmjaxError: a value out of range, or patches that are not the model's.
    """
    del image_size  # refused for language models before
    path = folder / "preprocessor_config.json"
    own = picture_settings(folder, said)
    ranges.check_ranges(own, str(path), _OWN)
    vision = config.vision
    for name, mine in (
        ("patch_size", vision.patch_size),
        ("temporal_patch_size", vision.frames),
        ("merge_size", MERGE),
    ):
        if own.get(name, mine) != mine:
            raise MmjaxError(f"{path}: {name} {own[name]}, but the model's is {mine}")
    check_steps(path, own)
    size = own.get("size") or {}
    least = own.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or _LEAST
    most = own.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or _MOST
    side = (vision.patch_size * MERGE) ** 2
    foreign.integer(f"{path}: max_pixels", most, max(least, side), 1 << 30)
    return QwenImages(
        config,
        least=least,
        most=most,
        mean=tuple(own.get("image_mean", _MEAN)),
        std=tuple(own.get("image_std", _STD)),
        resample=own.get("resample", 3),
        rescale=own.get("rescale_factor", 1 / 255),
    )
