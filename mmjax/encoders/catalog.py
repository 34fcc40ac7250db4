"""The encoder families, by Hugging Face's model_type."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from flax import linen as nn

from mmjax.encoders import bert, dinov2, llama
from mmjax.encoders.convert import KeyRule
from mmjax.errors import MmjaxError
from mmjax.sharding import Rules


@dataclasses.dataclass(frozen=True)
class Family:
    """All that loading needs to know about a kind of model."""

    name: str
    modality: Literal["text", "image"]
    config: Callable[[Mapping[str, Any]], Any]  # config.json -> the family's own config
    module: Callable[..., nn.Module]  # (config, dtype, param_dtype)
    key_table: Callable[[Any], Sequence[KeyRule]]
    ignored: re.Pattern[str]
    rules: Callable[[Any], Rules] | None = None  # who holds what on a mesh; None replicates


_BERT = Family("bert", "text", bert.BertConfig.from_hf, bert.Bert, bert.key_table, bert.IGNORED)
_DINOV2 = Family(
    "dinov2",
    "image",
    dinov2.Dinov2Config.from_hf,
    dinov2.Dinov2,
    dinov2.key_table,
    dinov2.IGNORED,
)
_LLAMA = Family(
    "llama",
    "text",
    llama.LlamaConfig.from_hf,
    llama.Llama,
    llama.key_table,
    llama.IGNORED,
    llama.rules,
)

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "dinov2": _DINOV2,
    "llama": _LLAMA,
}


def find(config: Mapping[str, Any], where: str) -> Family:
    """The family of a model.

    Args:
      config: content of config.json.
      where: the file, for the error message.

    Returns:
      The family.

    Raises:
      MmjaxError: no or an unknown model_type.
    """
    kind = config.get("model_type", "")
    if kind not in FAMILIES:
        raise MmjaxError(
            f"{where}: model_type {kind!r} is not supported; known: {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind]
