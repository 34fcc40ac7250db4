"""Pictures to normalised arrays."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from mmjax.checks import ranges
from mmjax.encoders.pictures import ImageLike, check_room, open_image
from mmjax.errors import MmjaxError
from mmjax.files import read_json_object, read_optional_json

# Raised whenever `open_image` makes other pixels of a file: features of the old ones are stale.
READING = 3
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class ImagePreprocess:
    """Resize, cut out the centre, scale, normalise: with an encoder's constants."""

    shortest_edge: int  # pixels
    crop: int  # pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: int = 3  # PIL's number of the filter; 3 is bicubic
    rescale: float = 1 / 255
    squash: bool = False  # resize to a square, whatever the proportions (ViT, Chinese-CLIP)
    unrounded: bool = False  # resize without rounding to whole numbers (DINOv3)

    def imagenet_square(self) -> "ImagePreprocess":
        """The same size, but squashed to a square, bicubic, with ImageNet's mean and deviation."""
        return dataclasses.replace(
            self,
            shortest_edge=self.crop,
            squash=True,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            resample=3,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 over all constants, and over how pictures are read."""
        constants = dataclasses.asdict(self) | {"reading": READING}
        if not self.unrounded:  # younger than many a cached feature
            del constants["unrounded"]
        return hashlib.sha256(json.dumps(constants, sort_keys=True).encode()).hexdigest()

    def __call__(
        self, images: Sequence[ImageLike], first_index: int = 0
    ) -> Float[np.ndarray, "n h w 3"]:
        """Prepares pictures.

        Args:
          images: n pictures.
          first_index: number of the first one, for error messages.

        Returns:
          Float32 [n, crop, crop, 3].

        Raises:
          MmjaxError: names the picture that cannot be read, has no pixels, or is too long and thin.
        """
        out = np.empty((len(images), self.crop, self.crop, 3), np.float32)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        for i, image in enumerate(images):
            index = first_index + i
            picture, where = open_image(image, index), f"picture {index}"
            parts = [np.asarray(self._crop(p, where), np.float32) for p in self._parts(picture)]
            pixels = parts[0] if len(parts) == 1 else np.stack(parts, axis=-1)
            out[i] = (pixels * np.float32(self.rescale) - mean) / std
        return out

    def _parts(self, image: Image.Image) -> list[Image.Image]:
        """The picture, or its colours one by one, which Pillow then does not round."""
        return [band.convert("F") for band in image.split()] if self.unrounded else [image]

    def _crop(self, image: Image.Image, where: str) -> Image.Image:
        width, height = image.size
        short, long = min(width, height), max(width, height)
        # Truncated, not rounded, as in transformers.
        longest = int(self.shortest_edge * long / short)
        if self.squash:
            longest = self.shortest_edge
        size = (self.shortest_edge, longest) if width <= height else (longest, self.shortest_edge)
        # Pillow changes the width first, and the height of that.
        check_room(size[0], max(size[1], height), where, "resized")
        if size != image.size:
            image = image.resize(size, Image.Resampling(self.resample))
        left, top = (size[0] - self.crop) // 2, (size[1] - self.crop) // 2
        return image.crop((left, top, left + self.crop, top + self.crop))


def load_image_preprocess(
    folder: Path, image_size: int | None, config: Mapping[str, Any] | None = None
) -> ImagePreprocess:
    """Reads preprocessor_config.json of a Hugging Face folder.

    Args:
      folder: where the file is.
      image_size: None takes the file's sizes; else the short side is made this long and the whole
        centre square is kept.
      config: what the file would say, where another one said it; empty or None reads the file.

    Returns:
      The preprocessing.

    Raises:
      MmjaxError: no such file, or steps other than resize, centre crop, rescale, normalise.
    """
    path = folder / "preprocessor_config.json"
    config = config or read_json_object(path)
    ranges.check_ranges(config, str(path), ranges.PICTURES)
    check_steps(path, config)
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    # Processors that know no crop and resize to a square.
    is_vit = kind.startswith(("ViT", "Siglip", "DINOv3"))
    size, cuts = config.get("size", 224), config.get("do_center_crop", not is_vit)
    squash = is_vit or (isinstance(size, Mapping) and "height" in size)
    if not cuts and not squash:
        raise MmjaxError(f"{path}: do_center_crop is false, which needs a square size")
    shortest = _side(size)
    crop = _side(config.get("crop_size", 224)) if cuts else shortest
    if shortest is None or crop is None:
        raise MmjaxError(
            f"{path}: expected a size with shortest_edge and a square crop_size, or a square size, "
            f"got {size} and {config.get('crop_size')}"
        )
    if image_size is not None:
        shortest = crop = image_size
    try:
        return ImagePreprocess(
            shortest_edge=shortest,
            crop=crop,
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
            resample=config.get("resample", 2 if kind.startswith(("ViT", "DINOv3")) else 3),
            rescale=config.get("rescale_factor", 1 / 255),
            squash=squash,
            unrounded=kind.startswith("DINOv3"),
        )
    except KeyError as error:
        raise MmjaxError(f"{path} lacks {error}") from error


def check_steps(path: Path, said: Mapping[str, Any], *more: str) -> None:
    """Refuses preprocessing that leaves out what is always done here.

    Args:
      path: of the file, for the error message.
      said: its content.
      *more: steps beside resizing, rescaling and normalising.

    Raises:
      MmjaxError: a step is false.
    """
    for step in ("do_resize", "do_rescale", "do_normalize", *more):
        if not said.get(step, True):
            raise MmjaxError(f"{path}: {step} is false, which is not supported")


def picture_settings(folder: Path, said: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """What a folder says of its pictures.

    Args:
      folder: holds preprocessor_config.json, or transformers 5's processor_config.json.
      said: what the file would say, where another one said it.

    Returns:
      The settings; empty where nothing is said.
    """
    own = said or read_optional_json(folder / "preprocessor_config.json")
    return own or read_optional_json(folder / "processor_config.json").get("image_processor") or {}


def _side(size: Any) -> int | None:
    """The one number in a processor's size, if there is one."""
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return _side(size["shortest_edge"])
        size = size.get("height") if size.get("height") == size.get("width") else None
    return size if isinstance(size, int) else None
