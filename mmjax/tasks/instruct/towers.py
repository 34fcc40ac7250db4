"""The frozen models of an `instruct` stage: two of them joined, or both halves of one."""

import dataclasses

from mmjax.data.layout import Conversation, Encoded, Layout, encode
from mmjax.data.library import Library
from mmjax.data.picture_table import PictureTable
from mmjax.data.tables import InputTable, RawTable
from mmjax.encoders import Encoder, LanguageModel
from mmjax.encoders.batching import Items
from mmjax.encoders.llava import ReadsPictures
from mmjax.encoders.picture_tokens import PictureReader, PictureTokens
from mmjax.errors import MmjaxError, setting
from mmjax.specs.spec import Stage


def encoders_of(stage: Stage, library: Library) -> tuple[LanguageModel, Encoder]:
    """The frozen language model, and what pictures pass through.

    A model that has an image tower of its own, a LLaVA, say, is both: its decoder alone, and itself
    without the decoder's weights.

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
    if isinstance(model.module, ReadsPictures):
        if image is not None:
            raise MmjaxError(
                f"{setting('encoders.image')} is {image.source!r}, but {model.name!r} is a "
                f"{model.family}, which has an image tower of its own; leave encoders.image out"
            )
        return decoder_and_towers(model)
    if image is None:
        raise MmjaxError(
            f"{setting('encoders.image')} is missing: {model.name!r} ({model.family}) reads text "
            "alone; name a vision transformer, or as encoders.language a model that has an image "
            "tower of its own"
        )
    return model, library.encoder(image)


def decoder_and_towers(model: LanguageModel) -> tuple[LanguageModel, LanguageModel]:
    """A model's decoder alone, and the model without the decoder's weights."""
    whole = model.module
    assert isinstance(whole, ReadsPictures)
    params = dict(model.params)
    decoder = dataclasses.replace(
        model,
        module=whole.decoder(),
        params=params.pop("language_model"),
        config=model.config.text,
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
    if isinstance(vision, LanguageModel):
        token, frame = vision.config.image_token_id, _reader(vision).frame
        return Layout.inline(tokenizer, ends, first, token, frame, most)
    return Layout.of(tokenizer, ends, first, taps, most)


def _reader(model: LanguageModel) -> PictureReader:
    """The picture constants of a model that has an image tower of its own.

    Raises:
      MmjaxError: of a family whose pictures are not read one at a time.
    """
    if not isinstance(model.images, PictureReader):
        raise MmjaxError(
            f"{setting('encoders.language')} is {model.name!r}, a {model.family}, which is not "
            "trained here yet; a LLaVA, a Qwen-VL, a Gemma 3 or an Mllama is"
        )
    return model.images


def image_table(vision: Encoder, pictures: Items) -> RawTable | PictureTable:
    """Pictures as the model reads them."""
    if isinstance(vision, LanguageModel):
        return PictureTable(_reader(vision), pictures)
    return RawTable(pictures, lambda items: {"pixel_values": vision.preprocess(items)})


def tokens_of(table: InputTable, picture: int | None, where: str) -> PictureTokens | None:
    """The tokens of the picture that `where` is about; None where all pictures are alike."""
    if not isinstance(table, PictureTable) or picture is None:
        return None
    return table.tokens(picture, where)


def encode_about(
    conversation: Conversation,
    language: LanguageModel,
    layout: Layout,
    table: InputTable,
    where: str,
    cut: bool = False,
) -> Encoded:
    """`encode` of a conversation about a picture of a table, or about none."""
    shown = tokens_of(table, conversation.image, where)
    return encode(conversation, language.preprocess.tokenizer, layout, where, cut, shown)
