"""BERT and XLM-R: post-norm text encoders."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from mmjax.checks.ranges import check_id
from mmjax.encoders import inserted
from mmjax.encoders.family import Family, always
from mmjax.encoders.layers import (
    At,
    Attention,
    Dense,
    LayerNorm,
    PyTree,
    activation,
    check_sizes,
    stack,
)
from mmjax.encoders.modules import AttendingModule, TextInputs, TextTower
from mmjax.errors import MmjaxError
from mmjax.weights.key_rules import COPY, KeyRule, dense_rules, norm_rules


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT, and how it counts positions."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str = "gelu"
    pad_token_id: int = 0
    # "arange": 0 .. l-1.  "cumsum": XLM-R's cumsum(mask) * mask + pad_token_id.
    positions: Literal["arange", "cumsum"] = "arange"

    @property
    def max_length(self) -> int:
        """The longest text in tokens that the position table holds."""
        offset = self.pad_token_id + 1 if self.positions == "cumsum" else 0
        return self.max_positions - offset

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "BertConfig":
        """Reads Hugging Face's config.json.

        Args:
          config: its content; `model_type` decides how positions are counted.

        Returns:
          The config.

        Raises:
          MmjaxError: a size that attention cannot have, or relative positions.
        """
        kind = config.get("position_embedding_type", "absolute")
        if kind != "absolute":
            raise MmjaxError(
                f"config.json: position_embedding_type {kind!r} is not supported; only 'absolute'"
            )
        if config.get("is_decoder"):
            raise MmjaxError("config.json: is_decoder is set, but only bidirectional BERTs load")
        roberta = config["model_type"] in ("xlm-roberta", "roberta")
        check_sizes(
            config["hidden_size"], config["num_attention_heads"], config.get("hidden_act", "gelu")
        )
        pad = config.get("pad_token_id")
        pad = (1 if roberta else 0) if pad is None else pad
        check_id("pad_token_id", pad, config["vocab_size"])
        if roberta and config["max_position_embeddings"] <= pad + 1:
            raise MmjaxError(
                f"config.json: max_position_embeddings {config['max_position_embeddings']} leaves "
                f"no position behind pad_token_id {pad}"
            )
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            intermediate_size=config["intermediate_size"],
            max_positions=config["max_position_embeddings"],
            type_vocab_size=config["type_vocab_size"],
            layer_norm_eps=config.get("layer_norm_eps", 1e-12),
            hidden_act=config.get("hidden_act", "gelu"),
            pad_token_id=pad,
            positions="cumsum" if roberta else "arange",
        )


class BertLayer(AttendingModule):
    """One post-norm transformer layer: each part reads what it is then added to."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], mask: Bool[Array, "b l"], adapter: PyTree = None
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b l d"]]:
        """Attention, then the feed-forward part, each added and then normalised.

        Args:
          x: float [b, l, d].
          mask: bool [b, l], true at real tokens.
          adapter: this layer's slice of the adapter's parameters.

        Returns:
          Float [b, l, d] twice: what the next layer reads, and what the scan keeps.
        """
        config, dtypes = self.config, self.dtypes
        at = At(self.hook, adapter)
        attention = Attention(
            config.num_heads, **dtypes, attend_by=self.attend_by, name="attention"
        )
        x = at.read("layer_input", x)
        read = at.read("attention_input", x)
        attended = at.add("attention_output", read, attention(read, mask, at))
        x = LayerNorm(config.layer_norm_eps, **dtypes, name="attention_norm")(x + attended)
        read = at.read("feed_forward_input", x)
        wide = Dense(config.intermediate_size, **dtypes, name="intermediate")
        hidden = activation(config.hidden_act)(at.map("intermediate", wide, read))
        hidden = at.map("output", Dense(config.hidden_size, **dtypes, name="output"), hidden)
        hidden = at.add("feed_forward_output", read, hidden)
        x = LayerNorm(config.layer_norm_eps, **dtypes, name="output_norm")(x + hidden)
        return x, x


class Bert(TextTower, AttendingModule):
    """A BERT without its pooler: token ids to the last layer's hidden states."""

    config: BertConfig

    @nn.compact
    def encode(self, texts: TextInputs, adapters: PyTree) -> Float[Array, "b l d"]:
        """Hidden states after the last layer, float [b, l, d].

        Source:
          Devlin et al. 2018 (BERT); Conneau et al. 2019 (XLM-R), for the positions.
        """
        config, dtypes = self.config, self.dtypes

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(rows, config.hidden_size, **dtypes, name=name)

        input_ids, attention_mask, input_embeddings = texts
        if input_embeddings is None:
            words = table(config.vocab_size, "word_embeddings")(input_ids)
        else:
            words = input_embeddings.astype(self.dtype)
        words, mask, adapters = inserted.insert(
            self.hook, adapters, words, attention_mask, 0, config.max_length
        )
        assert mask is not None  # as it was given
        if config.positions == "cumsum":
            ids = jnp.cumsum(mask, axis=1) * mask + config.pad_token_id
        else:
            ids = jnp.arange(words.shape[1])[None]
        positions = table(config.max_positions, "position_embeddings")(ids)
        # Every token is of type 0: sentence pairs are not a task of this library.
        types = table(config.type_vocab_size, "token_type_embeddings")(jnp.zeros((1, 1), jnp.int32))
        x = words + types + positions
        x = LayerNorm(config.layer_norm_eps, **dtypes, name="embeddings_norm")(x)
        scanned = stack(BertLayer, config.num_layers, in_axes=(nn.broadcast, 0))
        x, hidden_states = scanned(config, **self.hooked, name="layers")(
            x, mask.astype(bool), adapters
        )
        x, hidden_states = (inserted.remove(self.hook, y, 0) for y in (x, hidden_states))
        self.sow("intermediates", "hidden_states", hidden_states)  # compiled away where not read
        return x


PREFIX = r"(?:bert\.|roberta\.|xlm_roberta\.|transformer\.)?"


def rules(source: str, target: str) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `Bert`.

    Args:
      source: pattern of what stands before their names.
      target: what stands before the parameters' paths.

    Returns:
      The rules.
    """
    embeddings, layer = source + r"embeddings\.", source + r"encoder\.layers?\.(?P<layer>\d+)\."
    layers = f"{target}layers/"
    return (
        KeyRule(
            embeddings + r"(?P<table>word|position|token_type)_embeddings\.weight",
            target + "{table}_embeddings/embedding",
            COPY,
        ),
        *norm_rules(embeddings + "LayerNorm", f"{target}embeddings_norm"),
        *dense_rules(
            layer + r"attention\.self\.(?P<part>query|key|value)", layers + "attention/{part}"
        ),
        *dense_rules(layer + r"attention\.output\.dense", f"{layers}attention/out"),
        *norm_rules(layer + r"attention\.output\.LayerNorm", f"{layers}attention_norm"),
        *dense_rules(layer + r"intermediate\.dense", f"{layers}intermediate"),
        *dense_rules(layer + r"output\.dense", f"{layers}output"),
        *norm_rules(layer + r"output\.LayerNorm", f"{layers}output_norm"),
    )


def key_table(config: BertConfig) -> tuple[KeyRule, ...]:
    """The rules for a BERT by itself; its config is not needed."""
    del config
    return rules(PREFIX, "")


# Heads of pre-training and classification, the tanh pooler, and buffers that are no weights.
IGNORED = re.compile(
    r"cls\..*|lm_head\..*|classifier\..*|(.*\.)?pooler\..*|(.*\.)?embeddings\.(position|token_type)_ids"
)

SHARDING = (
    (r"(bert/)?word_embeddings/embedding", P(None, "model")),
    (r"(bert/)?layers/(intermediate|attention/(query|key|value))/kernel", P(None, None, "model")),
    (r"(bert/)?layers/(intermediate|attention/(query|key|value))/bias", P(None, "model")),
    (r"(bert/)?layers/(output|attention/out)/kernel", P(None, "model", None)),
    (r".*", P()),
)


BERT = Family("bert", "text", BertConfig.from_hf, Bert, key_table, IGNORED, always(SHARDING))
