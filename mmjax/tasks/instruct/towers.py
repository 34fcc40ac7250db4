"""The frozen models of an `instruct` stage: two of them joined, or both halves of a LLaVA."""

import dataclasses

import numpy as np
from jaxtyping import Int

from mmjax.data.layout import Conversation, Encoded, Layout, encode
from mmjax.data.library import Library
from mmjax.data.tables import InputTable, RawTable
from mmjax.data.tiles import TileTable
from mmjax.encoders import Encoder, LanguageModel
from mmjax.encoders.batching import Items
from mmjax.encoders.llama import Llama
from mmjax.encoders.llava import Llava
from mmjax.encoders.llava_images import LlavaImages
from mmjax.errors import MmjaxError, setting
from mmjax.specs.spec import Stage


def encoders_of(stage: Stage, library: Library) -> tuple[LanguageModel, Encoder]:
    """The frozen language model, and what pictures pass through.

    A LLaVA is both: its decoder alone, and itself without the decoder's weights.

    Raises:
      MmjaxError: no language model, or one with a vision transformer too many or too few.
    """
    model = library.encoder(stage.encoders["language"])
    if not isinstance(model, LanguageModel):
        raise MmjaxError(
            f"{setting('encoders.language')} is {model.name!r}, a {model.family} encoder; the "
            "instruct task needs a language model"
        )
    image = stage.encoders.get("image")
    if isinstance(model.module, Llava):
        if image is not None:
            raise MmjaxError(
                f"{setting('encoders.image')} is {image.source!r}, but {model.name!r} is a LLaVA, "
                "which has an image tower of its own; leave encoders.image out"
            )
        return decoder_and_towers(model)
    if image is None:
        raise MmjaxError(
            f"{setting('encoders.image')} is missing: {model.name!r} ({model.family}) reads text "
            "alone; name a vision transformer, or a LLaVA as encoders.language"
        )
    return model, library.encoder(image)


def decoder_and_towers(model: LanguageModel) -> tuple[LanguageModel, LanguageModel]:
    """A LLaVA's decoder alone, and the LLaVA without the decoder's weights."""
    whole = model.module
    assert isinstance(whole, Llava)
    params = dict(model.params)
    decoder = dataclasses.replace(
        model,
        module=Llama(whole.config.text, whole.dtype, whole.param_dtype),
        params=params.pop("language_model"),
        config=whole.config.text,
        images=None,
    )
    return decoder, dataclasses.replace(model, params=params)


def layout_of(language: LanguageModel, vision: Encoder, taps: int, first: bool) -> Layout:
    """What stands around the turns that these models read.

    Args:
      language: the language model.
      vision: what pictures pass through.
      taps: tokens that a picture takes where they stand before the words.
      first: whether a modality token stands in front.
    """
    tokenizer, ends = language.preprocess.tokenizer, language.chat.eos_token_ids
    most = language.preprocess.max_length
    if isinstance(vision.module, Llava):
        return Layout.inline(tokenizer, ends, first, vision.config.image_token_id, most)
    return Layout.of(tokenizer, ends, first, taps, most)


def image_table(vision: Encoder, pictures: Items) -> RawTable | TileTable:
    """Pictures as the model reads them."""
    if isinstance(vision, LanguageModel):
        if not isinstance(vision.images, LlavaImages):
            raise MmjaxError(f"a {vision.family} is not trained here yet; a LLaVA is")
        return TileTable(vision.images, pictures)
    return RawTable(pictures, lambda items: {"pixel_values": vision.preprocess(items)})


def places_of(table: InputTable, picture: int | None) -> Int[np.ndarray, " p"] | None:
    """Which of a picture's tokens the text reads; None where all pictures are alike."""
    return table.places(picture) if isinstance(table, TileTable) and picture is not None else None


def encode_about(
    conversation: Conversation,
    language: LanguageModel,
    layout: Layout,
    table: InputTable,
    where: str,
    cut: bool = False,
) -> Encoded:
    """`encode` of a conversation about a picture of a table, or about none."""
    tokenizer, picture = language.preprocess.tokenizer, conversation.image
    if not isinstance(table, TileTable) or picture is None:
        return encode(conversation, tokenizer, layout, where, cut)
    places, tiles = table.places(picture), table.tiles(picture)
    return encode(conversation, tokenizer, layout, where, cut, places, tiles)
