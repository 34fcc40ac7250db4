"""Fold an adapter into a frozen language model, which then is as fast as without it."""

import dataclasses
import hashlib
from typing import cast

import jax
import jax.numpy as jnp

from mmjax import trees
from mmjax.adapters.hooks import ATTENTION, LayerAdapter
from mmjax.checks.arguments import check_adapters
from mmjax.encoders.language_model import LanguageModel
from mmjax.encoders.layers import PyTree
from mmjax.encoders.llama import Llama
from mmjax.errors import MmjaxError, shown


def merge(model: LanguageModel, adapters: PyTree) -> LanguageModel:
    """A plain model that says what the model says with its adapter.

    Args:
      model: with an adapter as its hook, float kernels.
      adapters: the adapter's parameters; of a routed one those of a modality, see
        `mmjax.adapters.rep_adapter.bind`.

    Returns:
      A model without a hook; the given one keeps its parameters. Attention and the feed-forward
      part have biases where their adapters have some.

    Raises:
      MmjaxError: there is no adapter, the kernels are int8, or the router still decides.
    """
    if not isinstance(model, LanguageModel) or not isinstance(model.module, Llama):
        raise MmjaxError(f"merge takes a plain language model, got {shown(model)[:80]}")
    module = model.module
    if module.hook is None:
        raise MmjaxError(f"{model.name!r} has no adapter to merge; give it one with `with_hook`")
    check_adapters(model.name, module.hook, adapters)
    if model.quantize is not None:
        raise MmjaxError(
            f"{model.name!r} is loaded with quantize={model.quantize!r}: an adapter cannot be "
            "merged into rounded kernels; load the model without it"
        )
    hook = cast(LayerAdapter, module.hook)
    layers = jax.jit(hook.merge)(model.params["layers"], adapters)
    config = model.config
    if "bias" in layers["attention"]["query"] and not config.attention_bias:
        config = dataclasses.replace(config, attention_bias=True)
        layers["attention"] = {name: _with_bias(layers["attention"][name]) for name in ATTENTION}
    if "bias" in layers["gate"] and not config.mlp_bias:
        config = dataclasses.replace(config, mlp_bias=True)
        layers |= {name: _with_bias(layers[name]) for name in ("gate", "up", "down")}
    digest = hashlib.sha256(f"{model.fingerprint} {hook} {trees.fingerprint(adapters)}".encode())
    return dataclasses.replace(
        model,
        module=dataclasses.replace(module, config=config, hook=None, parent=None),
        params={**model.params, "layers": layers},
        config=config,
        fingerprint=digest.hexdigest(),
    )


def _with_bias(part: PyTree) -> PyTree:
    """A stacked dense map with a bias, of zeros where it had none."""
    n, _, width = part["kernel"].shape
    return {"bias": jnp.zeros((n, width), part["kernel"].dtype), **part}
