"""The tiny torch models that PEFT's kinds of adapters are compared in, and what they are asked."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

S: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
S |= {"intermediate_size": 40}
IDS = np.random.default_rng(0).integers(4, 48, (3, 7))
IDS[:, -1] = 49  # CLIP's end
MASK = np.ones_like(IDS)
MASK[1, -2:] = MASK[2, -1:] = 0
PIXELS = np.random.default_rng(1).standard_normal((2, 20, 20, 3)).astype(np.float32)


def torch_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**S, vocab_size=50, num_key_value_heads=1))


def torch_bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**S, vocab_size=50), add_pooling_layer=False)


def torch_clip() -> Any:
    from transformers import CLIPConfig, CLIPModel

    text = dict(S, vocab_size=50, eos_token_id=49, bos_token_id=1, max_position_embeddings=16)
    vision = dict(S, image_size=20, patch_size=10)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))


def torch_vit() -> Any:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**S, image_size=20, patch_size=10), add_pooling_layer=False)


def of_texts(model: Any) -> Any:
    import torch

    found = model(torch.tensor(IDS), attention_mask=torch.tensor(MASK))
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def of_images(model: Any) -> Any:
    import torch

    return model(torch.tensor(PIXELS.transpose(0, 3, 1, 2))).last_hidden_state


def of_clip_texts(model: Any) -> Any:
    import torch

    found = model.get_text_features(torch.tensor(IDS))
    return getattr(found, "pooler_output", found)


def of_clip_images(model: Any) -> Any:
    import torch

    found = model.get_image_features(torch.tensor(PIXELS.transpose(0, 3, 1, 2)))
    return getattr(found, "pooler_output", found)


@dataclasses.dataclass(frozen=True)
class Base:
    """A frozen model, theirs and ours.

    Attributes:
      make: theirs.
      says: what theirs says, with gradients.
      tower: of ours.
      maps: targets by place, as PEFT names them; the last one ends the feed-forward part.
      norms: what PEFT calls the norms.
    """

    make: Callable[[], Any]
    says: Callable[[Any], Any]
    tower: str | None
    maps: dict[str, str]
    norms: list[str]


PROJ = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
BASES = {
    "llama": Base(
        torch_llama,
        of_texts,
        None,
        PROJ | {"down": "down_proj"},
        ["input_layernorm", "post_attention_layernorm", "norm"],
    ),
    "bert": Base(
        torch_bert,
        of_texts,
        None,
        {"query": "query", "key": "key", "value": "value", "output": r"layer.\d+.output.dense"},
        ["LayerNorm"],
    ),
    "clip's texts": Base(
        torch_clip,
        of_clip_texts,
        "text",
        PROJ | {"fc2": "fc2"},
        ["layer_norm1", "final_layer_norm"],
    ),
    "clip's images": Base(
        torch_clip, of_clip_images, "image", PROJ | {"fc2": "fc2"}, ["layer_norm2", "pre_layrnorm"]
    ),
    "vit": Base(
        torch_vit,
        of_images,
        None,
        PROJ | {"fc2": "fc2"},
        ["layernorm_before", "layernorm_after"],
    ),
}
