"""BERTs that end in an embedding of their own: Chinese-CLIP, AltCLIP, M-CLIP, Taiyi, LaBSE."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmjax.encoders import bert, layers
from mmjax.encoders.bert import Bert, BertConfig
from mmjax.encoders.clip import tower_config
from mmjax.encoders.family import Family, always
from mmjax.encoders.modules import AttendingModule, TextInputs, TextTower
from mmjax.encoders.pooling import Pooling, PoolingDense
from mmjax.errors import MmjaxError
from mmjax.weights.key_rules import COPY, TRANSPOSE, KeyRule, dense_rules, norm_rules


@dataclasses.dataclass(frozen=True)
class BertHeadConfig:
    """A BERT and what makes one vector of its tokens."""

    bert: BertConfig
    pooling: Pooling = Pooling("cls")  # noqa: RUF009  (frozen); its norm comes last of all
    tanh_pooler: bool = False  # BertModel's pooler: a dense layer and tanh on the class token
    transform_dim: int | None = None  # AltCLIP: a norm and a dense layer on every token come first
    projection_dim: int | None = None
    projection_bias: bool = False
    projection_act: Literal["identity", "tanh"] = "identity"
    projection_name: str = "text_projection"  # of its tensors in the checkpoint

    @property
    def hidden_size(self) -> int:
        """Width of the tokens."""
        return self.transform_dim or self.bert.hidden_size

    @property
    def max_length(self) -> int:
        """The longest text in tokens that the position table holds."""
        return self.bert.max_length

    @property
    def vocab_size(self) -> int:
        """Rows of the table of words."""
        return self.bert.vocab_size

    @property
    def pad_token_id(self) -> int:
        """Id that fills up short texts."""
        return self.bert.pad_token_id


class BertWithHead(TextTower, AttendingModule):
    """Token ids to hidden states; sows the embedding. `hook` sits in the BERT."""

    config: BertHeadConfig

    @nn.compact
    def encode(self, texts: TextInputs, adapters: layers.PyTree) -> Float[Array, "b l d"]:
        """Hidden states, float [b, l, d]; for AltCLIP after its own transformation."""
        config, dtypes = self.config, self.dtypes
        bert = Bert(config.bert, **self.hooked, name="bert")
        tokens = bert(*texts, adapters)
        if config.transform_dim is not None:
            norm = layers.LayerNorm(config.bert.layer_norm_eps, **dtypes, name="transform_norm")
            transform = layers.Dense(config.transform_dim, **dtypes, name="transform")
            tokens = transform(norm(tokens))
        pooled = dataclasses.replace(config.pooling, normalize=False)(tokens, texts.attention_mask)
        if config.tanh_pooler:
            pooler = layers.Dense(config.hidden_size, **dtypes, name="pooler")
            pooled = jnp.tanh(pooler(pooled))
        if config.projection_dim is not None:
            width, bias = config.projection_dim, config.projection_bias
            pooled = layers.Dense(width, use_bias=bias, **dtypes, name="projection")(pooled)
            if config.projection_act == "tanh":
                pooled = jnp.tanh(pooled)
        if config.pooling.normalize:
            pooled = config.pooling.unit(pooled)
        self.sow("intermediates", "pooled", pooled)
        return tokens


_BERT_DEFAULTS = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
_XLMR_LARGE = {
    "model_type": "xlm-roberta",
    "vocab_size": 250002,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
_SMALLER = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
# M-CLIP's config.json only names the model that it was made from.
M_CLIP_BASES: dict[str, Mapping[str, Any]] = {
    "xlm-roberta-large": _XLMR_LARGE,
    "xlm-roberta-base": _XLMR_LARGE | _SMALLER,
    "labse": _BERT_DEFAULTS | {"vocab_size": 501153},
    "bert-base-multilingual-cased": _BERT_DEFAULTS | {"vocab_size": 119547},
}


def chinese_clip_config(config: Mapping[str, Any]) -> BertHeadConfig:
    """Reads config.json of a ChineseCLIPModel: the class token, projected."""
    part = tower_config(config, "text")
    sizes = BertConfig.from_hf(_BERT_DEFAULTS | part | {"model_type": "bert"})
    return BertHeadConfig(sizes, projection_dim=part["projection_dim"])


def altclip_config(config: Mapping[str, Any]) -> BertHeadConfig:
    """Reads config.json of an AltCLIPModel or AltCLIPTextModel.

    Args:
      config: its content.

    Returns:
      The config: every token normalised and transformed, then the first one projected.
    """
    part = tower_config({"projection_dim": 768, **config}, "text")
    sizes = BertConfig.from_hf(_XLMR_LARGE | part | {"model_type": "xlm-roberta"})
    return BertHeadConfig(
        sizes,
        transform_dim=part.get("project_dim", 768),
        projection_dim=part["projection_dim"],
    )


def m_clip_config(config: Mapping[str, Any]) -> BertHeadConfig:
    """Reads config.json of an M-CLIP text tower.

    Args:
      config: its content.

    Returns:
      The config: the mean token, projected.

    Raises:
      MmjaxError: it was made from a model whose sizes are not known here.
    """
    base = str(config["modelBase"]).lower().rsplit("/", 1)[-1]
    if base not in M_CLIP_BASES:
        raise MmjaxError(
            f"config.json: modelBase {config['modelBase']!r} is not known; "
            f"known: {', '.join(M_CLIP_BASES)}"
        )
    return BertHeadConfig(
        BertConfig.from_hf(M_CLIP_BASES[base]),
        Pooling("mean"),
        projection_dim=config["numDims"],
        projection_bias=True,
        projection_name="LinearTransformation",
    )


def pooler_config(config: Mapping[str, Any], sizes: BertConfig, classify: bool) -> BertHeadConfig:
    """A BERT whose embedding is its tanh pooler's, or (Taiyi) its classifier's.

    Args:
      config: content of config.json.
      sizes: what `BertConfig.from_hf` made of it.
      classify: whether the classifier's output is meant.

    Returns:
      The config.
    """
    if not classify:
        return BertHeadConfig(sizes, tanh_pooler=True)
    labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
    return BertHeadConfig(
        sizes,
        tanh_pooler=True,
        projection_dim=labels,
        projection_bias=True,
        projection_name="classifier",
    )


def dense_config(sizes: BertConfig, pooling: Pooling, dense: PoolingDense) -> BertHeadConfig:
    """A BERT with sentence-transformers' pooling and dense layer, such as LaBSE."""
    return BertHeadConfig(
        sizes,
        pooling,
        projection_dim=dense.out_features,
        projection_bias=dense.bias,
        projection_act=dense.activation,
        projection_name=r"dense\.linear",
    )


_TEXT = r"(?:text_model\.)?"


def key_table(config: BertHeadConfig) -> tuple[KeyRule, ...]:
    """How tensors map onto the parameters of `BertWithHead`.

    Args:
      config: says what the projection is called.

    Returns:
      The rules: Hugging Face's names and cn_clip's.
    """
    head = config.projection_name
    return (
        *bert.rules(_TEXT + bert.PREFIX, "bert/"),
        *norm_rules(_TEXT + "pre_LN", "transform_norm"),
        *dense_rules(_TEXT + "transformation", "transform"),
        *(dense_rules(bert.PREFIX + r"pooler\.dense", "pooler") if config.tanh_pooler else ()),
        KeyRule(head + r"\.weight", "projection/kernel", TRANSPOSE),
        KeyRule(head + r"\.bias", "projection/bias", COPY),
        # cn_clip: used as x @ W, not transposed.
        KeyRule("text_projection", "projection/kernel", COPY),
    )


IGNORED = re.compile(
    rf"{bert.IGNORED.pattern}|logit_scale|vision_model\..*|visual_projection\..*|visual\..*"
)


BERT_WITH_HEAD = Family(
    "bert",
    "text",
    chinese_clip_config,
    BertWithHead,
    key_table,
    IGNORED,
    always(bert.SHARDING),
    pools=True,
)
M_CLIP = dataclasses.replace(BERT_WITH_HEAD, name="m-clip", config=m_clip_config)
