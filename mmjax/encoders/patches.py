"""Pictures of any proportions as a fixed number of patches, each with its place in the picture."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from mmjax.checks import ranges
from mmjax.encoders.image_preprocess import READING, check_steps
from mmjax.encoders.pictures import ImageLike, check_room, open_image
from mmjax.errors import MmjaxError
from mmjax.files import read_json_object

COORDINATES = 4  # behind a patch's pixels: its row, its column, the picture's rows and columns
MOST_PATCHES = 4096
_ROUGH = 1e-5  # to which a picture's scale is found


@dataclasses.dataclass(frozen=True)
class PatchPreprocess:
    """Resize to as many patches as fit, cut, normalise, pad: NaFlex of SigLIP 2."""

    patch_size: int
    max_patches: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: int = 2  # PIL's number of the filter; 2 is bilinear
    rescale: float = 1 / 255

    @property
    def shape(self) -> tuple[int, int]:
        """Of one picture's array."""
        return self.max_patches, self.patch_size**2 * 3 + COORDINATES

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 over all constants, and over how pictures are read."""
        constants = dataclasses.asdict(self) | {"reading": READING, "kind": "patches"}
        return hashlib.sha256(json.dumps(constants, sort_keys=True).encode()).hexdigest()

    def __call__(
        self, images: Sequence[ImageLike], first_index: int = 0
    ) -> Float[np.ndarray, "n l w"]:
        """Prepares pictures.

        Args:
          images: n pictures.
          first_index: number of the first one, for error messages.

        Returns:
          Float32 [n, max_patches, patch_size^2 * 3 + 4]: pixels (row, column, channel), then the
          patch's row and column and the picture's rows and columns; zeros behind the last patch.

        Raises:
          MmjaxError: names the picture that cannot be read, or has no pixels.
        """
        out = np.zeros((len(images), *self.shape), np.float32)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        p = self.patch_size
        for i, image in enumerate(images):
            picture = open_image(image, first_index + i)
            rows, columns = grid_of(picture.height, picture.width, p, self.max_patches)
            size = columns * p, rows * p
            check_room(
                size[0], max(size[1], picture.height), f"picture {first_index + i}", "resized"
            )
            if size != picture.size:
                picture = picture.resize(size, Image.Resampling(self.resample))
            pixels = (np.asarray(picture, np.float32) * np.float32(self.rescale) - mean) / std
            pixels = pixels.reshape(rows, p, columns, p, 3).transpose(0, 2, 1, 3, 4)
            n = rows * columns
            out[i, :n, :-COORDINATES] = pixels.reshape(n, -1)
            at = np.stack(np.divmod(np.arange(n), columns), axis=-1)
            out[i, :n, -COORDINATES:-2], out[i, :n, -2:] = at, (rows, columns)
        return out

    def lengths(self, prepared: Float[np.ndarray, "n l w"]) -> Int[np.ndarray, " n"]:
        """How many patches each prepared picture has; padding stands behind them."""
        return (prepared[..., -2] > 0).sum(axis=1)


def grid_of(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """Rows and columns of the largest grid of at most so many patches that keeps the proportions.

    Args:
      height: of the picture, in pixels.
      width: of the picture.
      patch: side of a patch.
      most: patches.

    Returns:
      (rows, columns), each at least 1.

    Source:
      NaFlex in Tschannen et al. 2025; the same halving of an interval as transformers', whose last
      digit decides where two grids are nearly alike.
    """

    def at(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(side * scale / patch)) for side in (height, width))
        return rows, columns

    low, high = _ROUGH / 10, 100.0
    while high - low >= _ROUGH:
        scale = (low + high) / 2
        rows, columns = at(scale)
        low, high = (scale, high) if rows * columns <= most else (low, scale)
    rows, columns = at(low)
    if rows * columns > most:  # a line of pixels that is longer than the patches reach
        return (most, 1) if rows > columns else (1, most)
    return rows, columns


_OWN: ranges.RangeTable = {
    "patch_size": ranges.whole(1, ranges.LARGEST_SIDE),
    "max_num_patches": ranges.whole(1, MOST_PATCHES),
}


def load_patch_preprocess(
    folder: Path, config: Any, said: Mapping[str, Any], image_size: int | None
) -> PatchPreprocess:
    """Reads preprocessor_config.json of a Siglip2Model.

    Args:
      folder: where the file is.
      config: the image tower's; its patches must be the file's.
      said: what the file would say, where another one said it; empty reads the file.
      image_size: must be None: the file says how many patches are read.

    Returns:
      The preprocessing.

    Raises:
      MmjaxError: no such file, a value out of range, or patches of another size.
    """
    path = folder / "preprocessor_config.json"
    content = {"patch_size": 16, "max_num_patches": 256, **(said or read_json_object(path))}
    ranges.check_ranges(content, str(path), {**ranges.PICTURES, **_OWN})
    if image_size is not None:
        raise MmjaxError(
            "image_size is given, but this encoder reads pictures of any proportions as "
            f"{content['max_num_patches']} patches"
        )
    check_steps(path, content)
    if content["patch_size"] != config.patch_size:
        raise MmjaxError(
            f"{path}: patch_size {content['patch_size']}, but the model's is {config.patch_size}"
        )
    return PatchPreprocess(
        patch_size=config.patch_size,
        max_patches=content["max_num_patches"],
        mean=tuple(content.get("image_mean", (0.5,) * 3)),
        std=tuple(content.get("image_std", (0.5,) * 3)),
        resample=content.get("resample", 2),
        rescale=content.get("rescale_factor", 1 / 255),
    )
