"""Each kind of adapter as PEFT's settings and tensors."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmjax.adapters.dora import DoRA
from mmjax.adapters.hooks import FIXED, widths
from mmjax.adapters.ia3 import IA3
from mmjax.adapters.layer_norm import LayerNormTuning
from mmjax.adapters.lora import Lora
from mmjax.adapters.pissa import PiSSA
from mmjax.adapters.prefix_tuning import PrefixTuning
from mmjax.adapters.prompt_tuning import PromptTuning
from mmjax.adapters.rslora import RsLora
from mmjax.adapters.vera import VeRA
from mmjax.encoders.base import Encoder
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError
from mmjax.interop.peft_kinds import MAGNITUDE, A, Adapter, B, column_lengths, path_of_layers
from mmjax.interop.peft_names import PeftNames


@dataclasses.dataclass(frozen=True)
class PeftFiles:
    """An adapter as PEFT keeps it.

    Attributes:
      config: settings, `peft_type` among them.
      tensors: by whole name.
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]


def write(
    adapter: Adapter, adapters: PyTree, encoder: Encoder, tower: str | None, names: PeftNames
) -> PeftFiles:
    """An adapter in PEFT's form.

    Raises:
      MmjaxError: PEFT has no such kind, or the parameters are not the adapter's.
    """
    layers = encoder.frozen_layers(tower)
    if isinstance(adapter, VeRA):
        return _vera(adapter, adapters, layers, names)
    if isinstance(adapter, Lora):
        return _lora(adapter, adapters, layers, names)
    if isinstance(adapter, IA3):
        inputs = [place for place in adapters if place in adapter.inputs]
        shape = {p: (1, -1) if p in inputs else (-1, 1) for p in adapters}
        tensors = {
            f"{module}.ia3_l": row.reshape(shape[place])
            for place, own in adapters.items()
            for module, row in _rows(names, place, own["scale"])
        }
        config = {"peft_type": "IA3", "target_modules": _targets(names, adapters)}
        config["feedforward_modules"] = _targets(names, inputs) if inputs else []
        return PeftFiles(config, tensors)
    if isinstance(adapter, LayerNormTuning):
        return _norms(adapter, adapters, encoder, tower, names)
    if isinstance(adapter, PrefixTuning):
        keys, values = (np.asarray(adapters[name]) for name in ("keys", "values"))
        n, p, d = keys.shape
        table = np.stack([keys, values], axis=2).swapaxes(0, 1).reshape(p, 2 * n * d)
        config = _tokens("PREFIX_TUNING", p, d, n) | {"encoder_hidden_size": d}
        return PeftFiles(config | {"prefix_projection": False}, {"prompt_embeddings": table})
    if type(adapter) is PromptTuning and not adapter.at:
        table = np.asarray(adapters["tokens"])
        config = _tokens("PROMPT_TUNING", *table.shape, widths(layers)["query"][0])
        return PeftFiles(config, {"prompt_embeddings": table})
    raise MmjaxError(f"PEFT has no kind of adapter that is {adapter}")


def _tokens(kind: str, tokens: int, width: int, layers: int) -> dict[str, Any]:
    return {
        "peft_type": kind,
        "num_virtual_tokens": tokens,
        "token_dim": width,
        "num_layers": layers,
        "num_attention_heads": 1,
        "num_transformer_submodules": 1,
    }


def _rows(names: PeftNames, place: str, leaf: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (module in PEFT's files, one layer's row) of a stacked leaf."""
    for i, row in enumerate(np.asarray(leaf)):
        yield f"base_model.model.{names.module(place, i)}", row


def _targets(names: PeftNames, places: Any) -> str | list[str]:
    """What `target_modules` says: a LLaMA's last names, of others whole names by a pattern."""
    if names.before == "model.layers.":
        return sorted(names.layer[place].rpartition(".")[2] for place in places)
    inner = "|".join(re.escape(names.layer[place]) for place in places)
    return rf"(.*\.)?{re.escape(names.before)}\d+\.({inner})"


def _lora(lora: Lora, adapters: PyTree, layers: PyTree, names: PeftNames) -> PeftFiles:
    tensors, rank, alpha = dict[str, np.ndarray](), lora.rank, lora.alpha
    for place, own in adapters.items():
        down, up = (np.asarray(own[name]["kernel"]) for name in ("down", "up"))
        if isinstance(lora, PiSSA):  # what there was is subtracted: by factors of twice the rank
            down = np.concatenate([down, own[FIXED]["down"]], axis=2)
            up = np.concatenate([up, -np.asarray(own[FIXED]["up"])], axis=1)
        for suffix, leaf in ((A, down), (B, up)):
            for module, row in _rows(names, place, leaf):
                tensors[f"{module}.{suffix}"] = np.ascontiguousarray(row.T)
        if isinstance(lora, DoRA):
            whole = np.asarray(own["magnitude"]) + column_lengths(layers, place)
            for module, row in _rows(names, place, whole):
                tensors[f"{module}.{MAGNITUDE}"] = row
    if isinstance(lora, PiSSA):
        rank, alpha = 2 * rank, 2 * alpha
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "target_modules": _targets(names, adapters),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_dora": isinstance(lora, DoRA),
        "use_rslora": isinstance(lora, RsLora),
    }
    return PeftFiles(config, tensors)


def _vera(vera: VeRA, adapters: PyTree, layers: PyTree, names: PeftNames) -> PeftFiles:
    sizes, tensors = widths(layers), dict[str, np.ndarray]()
    shapes = {place: sizes[place][1:] for place in adapters}
    widest = [max(shapes.values(), key=lambda s, i=i: s[i])[i] for i in (0, 1)]
    a = b = None
    for place, own in adapters.items():
        width_in, width_out = shapes[place]
        down, up = (np.asarray(x)[..., :, :] for x in vera.projections(own, width_in, width_out))
        down, up = (x[0] if x.ndim == 3 else x for x in (down, up))
        a = down if width_in == widest[0] else a
        b = up if width_out == widest[1] else b
        # Drawn ones are longer the fewer channels a map reads; PEFT's are cut out of the widest.
        ratio = 1.0 if FIXED in own else (widest[0] / width_in) ** 0.5
        for module, row in _rows(names, place, own["rank_scale"]):
            tensors[f"{module}.vera_lambda_d"] = row * np.float32(ratio)
        for module, row in _rows(names, place, own["scale"]):
            tensors[f"{module}.vera_lambda_b"] = row
    assert a is not None
    assert b is not None
    shared = {"base_model.vera_A": a.T, "base_model.vera_B": b.T}
    config = {
        "peft_type": "VERA",
        "r": vera.rank,
        "vera_dropout": vera.dropout,
        "d_initial": vera.start,
        "save_projection": True,
        "bias": "none",
        "target_modules": _targets(names, adapters),
    }
    return PeftFiles(config, tensors | {k: np.ascontiguousarray(x) for k, x in shared.items()})


def _norms(
    adapter: LayerNormTuning,
    adapters: PyTree,
    encoder: Encoder,
    tower: str | None,
    names: PeftNames,
) -> PeftFiles:
    from mmjax import trees

    whole = adapter.tuned(encoder.params, adapters)
    base, tensors, modules = path_of_layers(encoder, tower), dict[str, np.ndarray](), set[str]()
    leaves = dict(trees.named_leaves(whole))
    learned = {path for path, _ in trees.named_leaves(adapters)}
    norms = {path.rpartition("/")[0] for path in learned}
    for norm in norms:  # PEFT trains scale and bias of a norm together
        for ours, theirs in (("scale", "weight"), ("bias", "bias")):
            leaf = leaves.get(f"{norm}/{ours}")
            if leaf is None:
                continue
            if norm.startswith(base):
                rows = [(names.module(norm[len(base) :], i), x) for i, x in enumerate(leaf)]
            elif norm in names.top:
                rows = [(names.module(norm), leaf)]
            else:
                raise MmjaxError(f"{norm} has no name in PEFT's files")
            for module, row in rows:
                modules.add(module)
                key = f"base_model.model.{module}.ln_tuning_layers.{theirs}"
                tensors[key] = np.asarray(row, np.float32)
    pattern = "|".join(map(re.escape, sorted(modules)))
    config = {"peft_type": "LN_TUNING", "target_modules": rf"(.*\.)?({pattern})"}
    return PeftFiles(config, tensors)
