"""Frozen encoders: load one with `load_encoder`."""

from mmjax.encoders.base import Encoder as Encoder
from mmjax.encoders.image_preprocess import ImagePreprocess as ImagePreprocess
from mmjax.encoders.language_model import LanguageModel as LanguageModel
from mmjax.encoders.load import load_encoder as load_encoder
from mmjax.encoders.output import EncoderOutput as EncoderOutput
from mmjax.encoders.pooling import Pooling as Pooling
from mmjax.encoders.text_preprocess import TextPreprocess as TextPreprocess
from mmjax.encoders.text_preprocess import TokenBatch as TokenBatch

__all__ = [
    "Encoder",
    "EncoderOutput",
    "ImagePreprocess",
    "LanguageModel",
    "Pooling",
    "TextPreprocess",
    "TokenBatch",
    "load_encoder",
]
