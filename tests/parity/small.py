"""Tiny random torch models, and how far an encoder is from them.

Weights are drawn as small as real embeddings are (std 0.02): only then does a wrong epsilon show.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax.encoders import Encoder, base

TOLERANCE = 1e-5
TEXT: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 50},
    **{"num_attention_heads": 4, "max_position_embeddings": 16},
}
VISION: dict[str, Any] = {
    **{"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "image_size": 20},
    **{"num_attention_heads": 4, "patch_size": 4},
}
# Compiled once for all encoders of a size.
_apply = jax.jit(base.apply, static_argnums=(0, 1))
PIXELS = np.random.default_rng(0).standard_normal((3, 20, 20, 3), np.float32)


def randomize(model: Any, seed: int = 0) -> Any:
    """Draws every tensor: tables at std 0.02, norms around 1, kernels so that they keep size."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        is_norm = any(part in name for part in ("norm", "LayerNorm", "pre_LN", "ln_"))
        if is_norm and name.endswith("weight"):
            tensor.data = 0.75 + 0.25 * noise
        elif tensor.ndim >= 2 and "embedding" not in name:
            tensor.data = noise * tensor[0].numel() ** -0.5
        elif tensor.ndim:
            tensor.data = noise * 0.02
    return model.eval()


def around_one(model: Any) -> Any:
    """A Gemma's norms, which multiply by 1 + weight, around 1; words as small as real ones."""
    for name, tensor in model.named_parameters():
        if "norm" in name and "vision" not in name:
            tensor.data -= 0.75
        elif "embed_tokens" in name or "lm_head" in name:
            tensor.data *= 0.02 / tensor.data.std()
    return model


def save(model: Any, folder: Path, write_tokenizer: Any, side: int = 20) -> Path:
    """A whole folder: weights, config, tokenizer, picture constants."""
    model.save_pretrained(folder)
    constants = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    constants |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(constants))
    write_tokenizer(folder / "tokenizer.json")
    return folder


def padded_ids(eos: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of unequal length that end in `eos`; the first holds it twice."""
    lengths = np.array([9, 4, 12, 2])
    mask = (np.arange(12)[None] < lengths[:, None]).astype(np.int64)
    ids = np.random.default_rng(1).integers(4, 48, (4, 12))
    ids[np.arange(4), lengths - 1] = eos
    ids[0, 6] = eos
    return np.where(mask == 1, ids, pad), mask


def torch_outputs(model: Any, features: str | None, **inputs: np.ndarray) -> tuple[Any, Any]:
    """(last hidden state, embedding) of a torch model."""
    import torch

    tensors = {k: torch.tensor(v) for k, v in inputs.items()}
    if "pixel_values" in tensors:
        tensors["pixel_values"] = tensors["pixel_values"].permute(0, 3, 1, 2)
    with torch.no_grad():
        output = (getattr(model, features) if features else model)(**tensors)
    pooled = output.get("text_embeds", output.get("image_embeds", output.get("pooler_output")))
    return output.last_hidden_state.numpy(), pooled.numpy()


def differences(
    encoder: Encoder, hidden: np.ndarray, pooled: np.ndarray, inputs: Mapping[str, Any]
) -> tuple[float, float]:
    """Largest differences at real tokens, and of embeddings."""
    output = _apply(encoder.module, encoder.pooling, encoder.params, inputs)
    real = np.asarray(output.mask).astype(bool)
    assert np.abs(hidden[real]).max() > 0.05
    assert np.abs(pooled).max() > 0.05
    tokens = np.abs(np.asarray(output.tokens) - hidden)[real].max()
    return float(tokens), float(np.abs(np.asarray(output.pooled) - pooled).max())


def word_tokenizer(folder: Path, count: int) -> None:
    """A tokenizer of the words w0, w1 and so on, one an id."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(count)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
