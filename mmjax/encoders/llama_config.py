"""The sizes and constants of a LLaMA, and how its config.json says them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.checks.ranges import check_id
from mmjax.encoders.layers import check_sizes
from mmjax.encoders.rope import RopeConfig
from mmjax.errors import MmjaxError


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes and constants of a LLaMA."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    rms_norm_eps: float
    rope: RopeConfig
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False  # the table of words is the head too
    pad_token_id: int = 0
    qkv_bias: bool = False  # Qwen2: biases of queries, keys and values, but not of the output
    qk_norm: bool = False  # Qwen3: every head's queries and keys are normalised
    window: int = 0  # how many tokens local layers look at, themselves included
    local_layers: tuple[bool, ...] = ()  # which layers are local; () means none
    unsaid_words: int = 0  # Mllama: so many more words are read, but never said
    # Gemma 3:
    local_rope: RopeConfig | None = None  # of local layers, where they turn otherwise
    norm_offset: bool = False  # norms multiply by 1 + their scale
    branch_norms: bool = False  # what a branch adds is normalised too
    scaled_words: bool = False  # words' embeddings are multiplied by the root of their width
    score_width: float = 0.0  # whose root scores are divided by; 0: channels of a head

    @property
    def words(self) -> int:
        """Tokens that have an embedding."""
        return self.vocab_size + self.unsaid_words

    @property
    def max_length(self) -> int:
        """The longest text in tokens that the model was trained for."""
        return self.max_positions

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "LlamaConfig":
        """Reads Hugging Face's config.json.

        Args:
          config: its content.

        Returns:
          The config.

        Raises:
          MmjaxError: sizes that attention cannot have, or a rope scaling that is not supported.
        """
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        act = config.get("hidden_act", "silu")
        check_sizes(config["hidden_size"], heads, act)
        if heads % kv_heads:
            raise MmjaxError(
                f"config.json: num_attention_heads {heads} is not a multiple of "
                f"num_key_value_heads {kv_heads}"
            )
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        if head_dim % 2:
            raise MmjaxError(
                f"config.json: head_dim {head_dim} is odd, but rotary positions turn pairs of "
                "channels"
            )
        rotary = RopeConfig.from_hf(config)
        if rotary.factors and len(rotary.factors) != head_dim // 2:
            raise MmjaxError(
                f"config.json: {len(rotary.factors)} rope factors for the {head_dim // 2} pairs of "
                "channels of a head"
            )
        pad = max(config.get("pad_token_id") or 0, 0)  # older files say -1 where there is none
        check_id("pad_token_id", pad, config["vocab_size"])
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate_size=config["intermediate_size"],
            max_positions=config.get("max_position_embeddings", 2048),
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            rope=rotary,
            hidden_act=act,
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            tied=bool(config.get("tie_word_embeddings", False)),
            pad_token_id=pad,
        )


@dataclasses.dataclass(frozen=True)
class VisionLanguageConfig:
    """Sizes of a LLaMA beside an image tower; a family adds the tower's own."""

    text: LlamaConfig

    @property
    def hidden_size(self) -> int:
        """Width of the decoder."""
        return self.text.hidden_size

    @property
    def max_length(self) -> int:
        """The longest prompt, pictures included, in tokens."""
        return self.text.max_length
