"""Which tensor of a LLaMA, or what is like one, becomes which parameter, and who holds what."""

import re
from collections.abc import Sequence

from jax.sharding import PartitionSpec as P

from mmjax.encoders.llama_config import LlamaConfig, VisionLanguageConfig
from mmjax.trees import Rules
from mmjax.weights.key_rules import COPY, TRANSPOSE, KeyRule, dense_rules

_PREFIX = r"(?:model\.)?"
_LAYER = _PREFIX + r"layers\.(?P<layer>\d+)\."
_NORMS = (("input", "attention"), ("post_attention", "mlp"))
# Where branches have norms behind them too, "post_attention" is what it says.
_BRANCH_NORMS = (
    *(("input", "attention"), ("post_attention", "post_attention")),
    *(("pre_feedforward", "mlp"), ("post_feedforward", "post_mlp")),
)


def key_table(config: LlamaConfig) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `Llama`.

    Args:
      config: says whether there is a head of its own, and which norms there are.

    Returns:
      The rules.
    """
    head = [] if config.tied else [KeyRule(r"lm_head\.weight", "lm_head/kernel", TRANSPOSE)]
    if config.qk_norm:
        parts = (("q", "query"), ("k", "key"))
        head += [
            KeyRule(
                _LAYER + rf"self_attn\.{a}_norm\.weight", f"layers/attention/{b}_norm/scale", COPY
            )
            for a, b in parts
        ]
    norms = _BRANCH_NORMS if config.branch_norms else _NORMS
    return (
        KeyRule(_PREFIX + r"embed_tokens\.weight", "embed_tokens/embedding", COPY),
        KeyRule(_PREFIX + r"norm\.weight", "norm/scale", COPY),
        *(
            KeyRule(_LAYER + rf"{theirs}_layernorm\.weight", f"layers/{ours}_norm/scale", COPY)
            for theirs, ours in norms
        ),
        *dense_rules(_LAYER + r"self_attn\.q_proj", "layers/attention/query"),
        *dense_rules(_LAYER + r"self_attn\.k_proj", "layers/attention/key"),
        *dense_rules(_LAYER + r"self_attn\.v_proj", "layers/attention/value"),
        *dense_rules(_LAYER + r"self_attn\.o_proj", "layers/attention/out"),
        *dense_rules(_LAYER + r"mlp\.(?P<part>gate|up|down)_proj", "layers/{part}"),
        *head,
    )


# A buffer; and a tied checkpoint may hold its head a second time.
IGNORED = re.compile(r".*rotary_emb\.inv_freq|lm_head\.weight")


def heads(config: LlamaConfig) -> Sequence[tuple[str, int]]:
    """Of how many heads the axes that are split consist; one that is cut could not be rotated.

    Queries are not among them: where their heads do not divide, to hold all of them on every device
    would cost more than to send the few that are computed.
    """
    return ((r"layers/attention/(key|value)/(kernel|bias)", config.num_kv_heads),)


def decoder_heads(config: VisionLanguageConfig) -> list[tuple[str, int]]:
    """The same of a model that has a decoder inside."""
    return [(f"language_model/{pattern}", count) for pattern, count in heads(config.text)]


def sharding(config: LlamaConfig) -> Rules:
    """Who holds what: heads, the feed-forward width and the vocabulary are split over `model`.

    Args:
      config: says whether there is a head of its own, and biases.

    Returns:
      (anchored pattern, PartitionSpec) pairs.
    """
    head = () if config.tied else ((r"lm_head/kernel", P(None, "model")),)
    if config.attention_bias or config.qkv_bias:
        head = (*head, (r"layers/attention/(query|key|value)/bias", P(None, "model")))
    return (
        (r"embed_tokens/embedding", P("model", None)),
        (r"layers/(attention/(query|key|value)|gate|up)/kernel", P(None, None, "model")),
        (r"layers/(attention/out|down)/kernel", P(None, "model", None)),
        *head,
        (r".*", P()),
    )
