"""Pictures for Gemma 3: one square each, and the tokens that stand around it in a text."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mmjax.encoders.gemma_config import GemmaConfig
from mmjax.encoders.image_preprocess import ImagePreprocess, load_image_preprocess, picture_settings
from mmjax.encoders.llava_images import LlavaImages, Mixed
from mmjax.encoders.picture_tokens import PictureTokens
from mmjax.encoders.pictures import ImageLike
from mmjax.errors import MmjaxError

# What transformers' processor does where its file does not say: no crop, and a bilinear filter.
_DEFAULTS = {"do_center_crop": False, "resample": 2}


@dataclasses.dataclass(frozen=True)
class GemmaImages:
    """Picture constants of a Gemma 3."""

    preprocess: ImagePreprocess
    config: GemmaConfig

    @property
    def most_tokens(self) -> int:
        """Tokens of every picture."""
        return self.config.tokens_per_tile

    @property
    def frame(self) -> tuple[str, str]:
        """Gemma's own tokens around a picture, each on the picture's side of an empty line."""
        return "\n\n<start_of_image>", "<end_of_image>\n\n"

    def tokens(self, height: int, width: int, where: str = "a picture") -> PictureTokens:
        """As `PictureReader.tokens`; every picture has as many."""
        del height, width, where
        return PictureTokens(np.arange(self.config.tokens_per_tile, dtype=np.int32), 1)

    def inputs(self, image: ImageLike, index: int = 0) -> dict[str, np.ndarray]:
        """{"pixel_values": float32 [1, side, side, 3]}."""
        return {"pixel_values": self.preprocess([image], index)}

    def spelt(self, text: str, tokenizer: Tokenizer) -> str:
        """A text in which every token that begins a picture has its surroundings.

        The newlines are part of the text before it is cut into tokens, as they may join others.

        Args:
          text: a prompt; a chat template writes the token that begins a picture alone.
          tokenizer: knows that token, a picture's own and the one that ends it.

        Returns:
          The text with a picture's one token where `mix` puts the picture. What begins a picture
          that is already spelt out stays as it is.

        Source:
          Gemma3Processor in transformers.
        """
        config = self.config
        ids = config.begin_token_id, config.image_token_id, config.end_token_id
        begin, picture, end = (tokenizer.id_to_token(i) for i in ids)
        if not (begin and picture and end):
            return text
        alone = rf"{re.escape(begin)}(?!{re.escape(picture)})"
        return re.sub(alone, lambda _: f"\n\n{begin}{picture}{end}\n\n", text)

    def mix(self, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[ImageLike]]) -> Mixed:
        """Puts pictures where texts have image tokens.

        Args:
          prompts: token ids of n texts.
          images: for each text its pictures, in the order of its image tokens.

        Returns:
          The texts with their pictures, whose tokens read one another.

        Raises:
          MmjaxError: as `LlavaImages.mix`.
        """
        mixed = LlavaImages(self.preprocess, self.config).mix(prompts, images)
        return dataclasses.replace(mixed, together=True)


def load_gemma_images(
    folder: Path, config: GemmaConfig, said: Mapping[str, Any] | None, image_size: int | None
) -> GemmaImages:
    """Reads the picture constants of a Gemma 3's folder.

    Args:
      folder: holds preprocessor_config.json, or transformers 5's processor_config.json.
      config: the model's.
      said: unused, as image_size is: these files alone say it.
      image_size: None.

    Returns:
      The constants.

    Raises:
      MmjaxError: neither file, steps that are not supported, as crops of a picture (pan and scan)
        are not, or a size that is not the tower's.
    """
    del said, image_size
    own = picture_settings(folder)
    if own.get("do_pan_and_scan"):
        raise MmjaxError(
            f"{folder}: do_pan_and_scan is true, which is not supported; a picture is one square"
        )
    preprocess = load_image_preprocess(folder, None, _DEFAULTS | dict(own) if own else None)
    if not preprocess.squash or preprocess.crop != config.vision.image_size:
        raise MmjaxError(
            f"{folder}: pictures are cut to {preprocess.crop} pixels, but the image tower was "
            f"trained for squares of {config.vision.image_size}"
        )
    return GemmaImages(preprocess, config)
