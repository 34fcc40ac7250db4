"""Fold an adapter into a frozen encoder, which then is as fast as without it."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

from mmjax import trees
from mmjax.adapters.hooks import ATTENTION, LayerAdapter, unmerged
from mmjax.checks.arguments import check_adapters
from mmjax.encoders.base import Encoder
from mmjax.encoders.layers import PyTree, WeightHook
from mmjax.encoders.llama import Llama
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.errors import MmjaxError, shown

EncoderT = TypeVar("EncoderT", bound=Encoder)


def merge(model: EncoderT, adapters: PyTree, tower: str | None = None) -> EncoderT:
    """A plain encoder that says what the encoder says with its adapter.

    Args:
      model: with an adapter; float kernels, unless the adapter is of other weights.
      adapters: the adapter's parameters; of a routed one those of a modality, see
        `mmjax.adapters.rep_adapter.bind`.
      tower: as in `Encoder.with_hook`.

    Returns:
      An encoder without an adapter in that tower; the given one keeps its parameters. Attention and
      the feed-forward part of a LLaMA have biases where their adapters have some.

    Raises:
      MmjaxError: there is no adapter, one that no weights can hold, rounded kernels, a router that
        still decides, or biases where the model has no place for any.
    """
    if not isinstance(model, Encoder):
        raise MmjaxError(f"merge takes an encoder with an adapter, got {shown(model)[:80]}")
    field = "vision_hook" if tower == "image" and "text" in model.towers else "hook"
    hook = model.tuning or getattr(model.module, field, None)
    if hook is None:
        raise MmjaxError(f"{model.name!r} has no adapter to merge; give it one with `with_hook`")
    check_adapters(model.name, hook, adapters)
    digest = hashlib.sha256(f"{model.fingerprint} {hook} {trees.fingerprint(adapters)}".encode())
    fingerprint = digest.hexdigest()
    if isinstance(hook, WeightHook):
        params = jax.jit(hook.tuned)(model.params, adapters)
        return dataclasses.replace(model, params=params, fingerprint=fingerprint, tuning=None)
    if model.quantize is not None:
        raise MmjaxError(
            f"{model.name!r} is loaded with quantize={model.quantize!r}: an adapter cannot be "
            "merged into rounded kernels; load the model without it"
        )
    frozen, config = model.frozen_layers(tower), model.config
    layers = jax.jit(cast(LayerAdapter, hook).merge)(frozen, adapters)
    module: Any = model.module
    if isinstance(module, Llama):
        config, layers = _with_biases(config, frozen, layers)
        module = dataclasses.replace(module, config=config, parent=None)
    elif jax.tree.structure(layers) != jax.tree.structure(frozen):
        raise unmerged(type(hook).__name__, f"{model.name!r} has maps without the biases it needs")
    return dataclasses.replace(
        model,
        module=module.clone(**{field: None}, parent=None),
        params=_in_place(model.params, frozen, layers),
        config=config,
        fingerprint=fingerprint,
    )


def _in_place(params: PyTree, old: PyTree, new: PyTree) -> PyTree:
    """A tree of parameters with another one in the place of the layers."""
    if params is old:
        return new
    if not isinstance(params, Mapping):
        return params
    return {name: _in_place(part, old, new) for name, part in params.items()}


def _with_biases(config: LlamaConfig, frozen: PyTree, layers: PyTree) -> tuple[LlamaConfig, PyTree]:
    """A LLaMA's layers and config, with biases in a whole part where some of it got one."""
    biased = {name for name in ATTENTION if "bias" in layers["attention"][name]}
    of_base = {name for name in ATTENTION if "bias" in frozen["attention"][name]}
    if biased - of_base:
        config = dataclasses.replace(config, attention_bias=True)
        attention = {name: _with_bias(layers["attention"][name]) for name in ATTENTION}
        layers = {**layers, "attention": {**layers["attention"], **attention}}
    mlp = ("gate", "up", "down")
    if any("bias" in layers[name] for name in mlp) and not config.mlp_bias:
        config = dataclasses.replace(config, mlp_bias=True)
        layers = {**layers, **{name: _with_bias(layers[name]) for name in mlp}}
    return config, layers


def _with_bias(part: PyTree) -> PyTree:
    """A stacked dense map with a bias, of zeros where it had none."""
    n, _, width = part["kernel"].shape
    return {"bias": jnp.zeros((n, width), part["kernel"].dtype), **part}
