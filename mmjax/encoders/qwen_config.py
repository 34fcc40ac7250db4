"""How config.json says the sizes of Qwen2, Qwen2.5, dense Qwen3 and Mistral."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.checks.foreign import integer
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.errors import MmjaxError

# What Hugging Face leaves out of config.json is at its default.
_QWEN3_HEAD = 128
_WINDOW, _FIRST_LOCAL = 4096, 28
_LOCAL, _FULL = "sliding_attention", "full_attention"


def qwen2_config(config: Mapping[str, Any]) -> LlamaConfig:
    """Reads Hugging Face's config.json of a Qwen2ForCausalLM, which Qwen2.5 is too.

    Args:
      config: its content.

    Returns:
      The config: queries, keys and values have biases, the output has none.

    Raises:
      MmjaxError: as `LlamaConfig.from_hf`, or kinds of layers that do not fit.
    """
    plain = LlamaConfig.from_hf({**config, "attention_bias": False})
    return dataclasses.replace(plain, qkv_bias=True, **_windows(config))


def qwen3_config(config: Mapping[str, Any]) -> LlamaConfig:
    """Reads Hugging Face's config.json of a Qwen3ForCausalLM.

    Args:
      config: its content.

    Returns:
      The config: every head's queries and keys are normalised.

    Raises:
      MmjaxError: as `qwen2_config`.
    """
    plain = LlamaConfig.from_hf({"head_dim": _QWEN3_HEAD, **config})
    return dataclasses.replace(plain, qk_norm=True, **_windows(config))


def _windows(config: Mapping[str, Any]) -> dict[str, int | tuple[bool, ...]]:
    """As `local_layers`, by the switch that a Qwen's file has for its windows."""
    window = config.get("sliding_window", _WINDOW) if config.get("use_sliding_window") else None
    return local_layers(config, window, config.get("max_window_layers", _FIRST_LOCAL))


def mistral_config(config: Mapping[str, Any]) -> LlamaConfig:
    """Reads Hugging Face's config.json of a MistralForCausalLM.

    Args:
      config: its content.

    Returns:
      The config; with a `sliding_window` all layers are local.

    Raises:
      MmjaxError: as `LlamaConfig.from_hf`.
    """
    plain = LlamaConfig.from_hf({"num_key_value_heads": 8, **config})
    return dataclasses.replace(plain, **local_layers(config, config.get("sliding_window", _WINDOW)))


def local_layers(
    config: Mapping[str, Any], window: int | None, first: int = 0
) -> dict[str, int | tuple[bool, ...]]:
    """Which layers look at the last tokens only.

    Args:
      config: content of config.json, whose `layer_types` win.
      window: tokens that a local layer looks at; None: no layer is local.
      first: the first local layer, where `layer_types` is not said.

    Returns:
      The fields `window` and `local_layers` of a `LlamaConfig`.

    Raises:
      MmjaxError: as many kinds as there are layers were expected, or an unknown one.
    """
    count, kinds = config["num_hidden_layers"], config.get("layer_types")
    if kinds is None:
        kinds = [_LOCAL if window and i >= first else _FULL for i in range(count)]
    if len(kinds) != count or not set(kinds) <= {_LOCAL, _FULL}:
        raise MmjaxError(
            f"config.json: layer_types has {len(kinds)} entries of {', '.join(sorted(set(kinds)))};"
            f" expected {count} of {_LOCAL} and {_FULL}"
        )
    local = tuple(kind == _LOCAL for kind in kinds)
    if not any(local):
        return {}
    if window is None:
        raise MmjaxError(f"config.json: layer_types says {_LOCAL}, but there is no sliding_window")
    return {
        "window": integer("config.json: sliding_window", window, 1, 1 << 22),
        "local_layers": local,
    }
