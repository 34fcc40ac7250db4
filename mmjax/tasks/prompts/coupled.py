"""Hooks in the towers of a few-shot stage: its adapters, or MaPLe's tokens."""

import dataclasses
import functools

from mmjax.adapters.catalog import Adapter
from mmjax.adapters.maple import CoupledTokens, MaPLe, ReplacedTokens
from mmjax.adapters.prompts import InTowerPrompts
from mmjax.data.library import Library, encode_in_step
from mmjax.encoders.base import Encoder
from mmjax.encoders.output import Tower
from mmjax.encoders.prompted import front_of
from mmjax.errors import MmjaxError, setting
from mmjax.specs.spec import Stage
from mmjax.tasks.adapting import adapter_in, tower_of


def hook_in(stage: Stage, role: str, library: Library) -> Adapter | ReplacedTokens | None:
    """What stands in a tower's layers; None for nothing.

    Raises:
      MmjaxError: an adapter that there is none of, or a tower without layers for MaPLe's tokens.
    """
    if not stage.prompts.couples:
        return adapter_in(stage, role)
    encoder, tokens = transformer_in(stage, role, library), stage.prompts.general
    return CoupledTokens(tokens) if role == "image" else ReplacedTokens(tokens, at(encoder))


def at(encoder: Encoder) -> int:
    """How many tokens of a text tower stand before a prompt's first one.

    Of an encoder without a tokenizer, as a plan has it: one, the special one.
    """
    return 1 if encoder.preprocess is None else len(front_of(encoder))


def transformer_in(stage: Stage, role: str, library: Library) -> Encoder:
    """A tower whose layers take learnt tokens.

    Raises:
      MmjaxError: it has no such layers.
    """
    encoder = library.encoder(stage.encoders[role])
    if not hasattr(encoder.module, "hook"):
        raise MmjaxError(
            f"{setting('prompts.method')} is {stage.prompts.method!r}, whose tokens stand in the "
            f"layers of two transformers, but {setting(f'encoders.{role}')} {encoder.name!r} "
            f"({encoder.family}) has none; take a CLIP with a vision transformer, or another method"
        )
    return encoder


def couple(stage: Stage, library: Library, prompts: InTowerPrompts) -> MaPLe:
    """MaPLe of a stage's towers.

    Args:
      stage: says how deep; no deeper than its towers.
      library: has their sizes.
      prompts: the text's side.

    Raises:
      MmjaxError: a tower without layers for its tokens.
    """
    role = stage.text_role
    text, image = (transformer_in(stage, name, library).config for name in (role, "image"))
    layers = text.num_layers, image.num_layers
    epsilon = image.layer_norm_eps if getattr(image, "pre_norm", False) else None
    depth = min(stage.prompts.depth, *layers)
    return MaPLe(prompts, role, layers, depth, image.hidden_size, epsilon)


def image_tower(stage: Stage, library: Library) -> Tower:
    """The image tower that runs in a step, with what learns in it.

    Raises:
      MmjaxError: an adapter that does not fit, or a tower without layers for MaPLe's tokens.
    """
    tower = tower_of(stage, "image", library, None, patches=stage.prompts.reads_patches)
    hook = hook_in(stage, "image", library)
    if not isinstance(hook, ReplacedTokens):
        return tower
    spec = stage.encoders["image"]
    encoder = library.encoder(spec).with_hook(hook)
    return dataclasses.replace(
        tower, adapted=functools.partial(encode_in_step, encoder, spec.output)
    )
