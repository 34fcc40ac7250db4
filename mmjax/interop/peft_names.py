"""What Hugging Face's models call the modules that adapters sit in, both ways."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mmjax.encoders.base import Encoder
from mmjax.errors import MmjaxError

# By place, behind the number of the layer. Norms are the paths of their parameters here.
_LLAMA = {
    **{"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj"},
    "out": "self_attn.o_proj",
    **{place: f"mlp.{place}_proj" for place in ("gate", "up", "down")},
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
_GEMMA = _LLAMA | {
    "post_attention_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}
_CLIP = {
    **{place: _LLAMA[place] for place in ("query", "key", "value")},
    "out": "self_attn.out_proj",
    **{place: f"mlp.{place}" for place in ("fc1", "fc2")},
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
}
_BERT = {
    **{place: f"attention.self.{place}" for place in ("query", "key", "value")},
    "out": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "output_norm": "output.LayerNorm",
}
_ATTENTION = {
    place: f"attention.{theirs}_proj"
    for place, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))
}
_MLP = {place: f"mlp.{place}" for place in ("fc1", "fc2")}
_VIT = {**_ATTENTION, **_MLP, "norm1": "layernorm_before", "norm2": "layernorm_after"}
_DINOV2 = {**_ATTENTION, **_MLP, "norm1": "norm1", "norm2": "norm2"}
# What transformers 4 said where 5 says something else.
_OLDER = {
    **{f"attention.attention.{place}": place for place in ("query", "key", "value")},
    "attention.output.dense": "out",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
}
_NUMBERED = re.compile(
    r"(?P<before>(?:\w+\.)*?)(?:encoder\.)?layers?\.(?P<layer>\d+)\.(?P<name>[\w.]+)"
)


@dataclass(frozen=True)
class PeftNames:
    """One tower's.

    Attributes:
      before: what stands before the number of a layer.
      layer: place or norm -> what stands behind it.
      top: path of a norm outside the layers -> its whole name.
      other: in a name's beginning, what says that it is of the other tower.
    """

    before: str
    layer: Mapping[str, str]
    top: Mapping[str, str]
    other: str = "(?!)"  # nothing

    def module(self, place: str, layer: int | None = None) -> str:
        """The name of a place in a layer, or of a norm outside."""
        return self.top[place] if layer is None else f"{self.before}{layer}.{self.layer[place]}"

    def find(self, module: str) -> tuple[str, int | None] | None:
        """(place, layer) of a module; None of the other tower's.

        Raises:
          MmjaxError: it is none of this model's.
        """
        for path, name in self.top.items():
            if module == name or module.endswith(f".{name}") or name.endswith(f".{module}"):
                return path, None
        match = _NUMBERED.fullmatch(module)
        if re.search(self.other, module if match is None else match["before"]):
            return None
        if match is not None:
            places = {name: place for place, name in self.layer.items()}
            older = {} if "intermediate" in self.layer or "gate" in self.layer else _OLDER
            place = places.get(match["name"]) or older.get(match["name"])
            if place is not None:
                return place, int(match["layer"])
        raise MmjaxError(
            f"there is no {module[:120]!r} in this model; its layers have "
            f"{sorted(self.layer.values())}"
        )


def names_of(encoder: Encoder, tower: str | None = None) -> PeftNames:
    """The names of an encoder's modules in its Hugging Face class.

    Args:
      encoder: from `load_encoder`.
      tower: as in `Encoder.with_hook`.

    Raises:
      MmjaxError: a family whose names are not known here.
    """
    chosen, layers = encoder.check_tower(tower), encoder.frozen_layers(tower)
    vision, text = "vision|visual", "text|language"
    clip_text = {"norm": "text_model.final_layer_norm"}
    clip_image = {"pre_norm": "vision_model.pre_layrnorm", "norm": "vision_model.post_layernorm"}
    decoder = _GEMMA if "post_mlp_norm" in layers else _LLAMA
    if encoder.family in ("llava", "gemma3"):
        if chosen == "text":
            norm = {"language_model/norm": "model.language_model.norm"}
            return PeftNames("model.language_model.layers.", decoder, norm, vision)
        return PeftNames("model.vision_tower.encoder.layers.", _CLIP, {}, text)
    if "gate" in layers:
        return PeftNames("model.layers.", decoder, {"norm": "model.norm"})
    if "intermediate" in layers:
        inner = "bert/" if "bert" in encoder.params else ""
        joined = encoder.family == "clip" or "clip" in encoder.family
        before = "text_model." if joined else ""
        norm = {f"{inner}embeddings_norm": f"{before}embeddings.LayerNorm"}
        return PeftNames(f"{before}encoder.layer.", _BERT, norm, vision)
    if encoder.family == "vit":
        return PeftNames("layers.", _VIT, {"norm": "layernorm"})
    if encoder.family == "dinov2":
        return PeftNames("encoder.layer.", _DINOV2, {"norm": "layernorm"})
    if "clip" in encoder.family:
        if chosen == "text":
            return PeftNames("text_model.encoder.layers.", _CLIP, clip_text, vision)
        return PeftNames("vision_model.encoder.layers.", _CLIP, clip_image, text)
    raise MmjaxError(
        f"the modules of {encoder.name!r} ({encoder.family}) have no known names in PEFT's files; "
        "known are BERT, CLIP, ViT, DINOv2, LLaMA, LLaVA and Gemma 3"
    )
