"""Each kind of adapter from PEFT's settings and tensors; `peft_write.py` is the way back."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import numpy as np
from jaxtyping import Float

from mmjax.adapters.dora import DoRA
from mmjax.adapters.hooks import FIXED, LayerAdapter, WeightAdapter, maps, widths
from mmjax.adapters.ia3 import IA3
from mmjax.adapters.layer_norm import LayerNormTuning
from mmjax.adapters.lora import Lora
from mmjax.adapters.prefix_tuning import PrefixTuning
from mmjax.adapters.prompt_tuning import PromptTuning
from mmjax.adapters.rslora import RsLora
from mmjax.adapters.vera import VeRA
from mmjax.checks import foreign
from mmjax.encoders.base import Encoder
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError
from mmjax.weights.quantize import dequantized

Tensors = Mapping[str, Float[np.ndarray, "..."]]
Placed = dict[tuple[str, int | None], dict[str, Any]]  # (place, layer) -> {suffix: tensor}
Adapter = LayerAdapter | WeightAdapter
A, B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
SUFFIXES = (
    *(A, B, MAGNITUDE, f"{MAGNITUDE}.weight", "ia3_l", "vera_lambda_b", "vera_lambda_d"),
    *("ln_tuning_layers.weight", "ln_tuning_layers.bias"),
)
_FACTORS = (("down", A), ("up", B))


@dataclasses.dataclass(frozen=True)
class Read:
    """A folder of PEFT, read.

    Attributes:
      config: its settings.
      place: of the file, for messages.
      placed: tensors of modules of the layers.
      top: the other tensors of adapters.
      encoder: the frozen model.
      tower: of it.
    """

    config: Mapping[str, Any]
    where: str
    placed: Placed
    top: dict[str, Any]
    encoder: Encoder
    tower: str | None

    @property
    def layers(self) -> PyTree:
        """The frozen layers."""
        return self.encoder.frozen_layers(self.tower)

    def places(self) -> tuple[str, ...]:
        """The places that have tensors, in the order of the layers' own."""
        used = {place for place, _ in self.placed}
        return tuple(place for place in widths(self.layers) if place in used)

    def stacked(self, place: str, suffix: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """One tensor of every layer, float32 [n, *shape].

        Raises:
          MmjaxError: a layer lacks it, or has one of another size.
        """
        n, tensors = widths(self.layers)[place][0], list[Any]()
        for layer in range(n):
            own = self.placed.get((place, layer), {})
            tensor = own.get(suffix, own.get(f"{suffix}.weight"))
            if tensor is None:
                raise MmjaxError(
                    f"{self.where} has no {suffix} of {place} in layer {layer}; this model has {n} "
                    "layers, and the file adapts this place in another one"
                )
            if tensor.shape != shape:
                raise MmjaxError(
                    f"{self.where}: {suffix} of {place} in layer {layer} has shape "
                    f"{list(tensor.shape)}, this model with these settings needs {list(shape)}"
                )
            tensors.append(np.asarray(tensor, np.float32))
        extra = {layer or 0 for name, layer in self.placed if name == place} - set(range(n))
        if extra:
            raise MmjaxError(f"{self.where} adapts layer {max(extra)}; this model has {n} layers")
        return np.stack(tensors)

    def number(self, name: str, least: float, most: float, above: float | None = None) -> float:
        """A setting that is a real number."""
        limits = {} if above is None else {"above": above}
        return foreign.real(f"{self.where}: {name}", self.config[name], least, most, **limits)

    def whole(self, name: str) -> int:
        """A setting that counts something."""
        return foreign.integer(f"{self.where}: {name}", self.config[name], 1, foreign.WIDEST)


def read_lora(read: Read) -> tuple[Adapter, PyTree]:
    """LoRA, rsLoRA, DoRA."""
    rank, alpha = read.whole("r"), read.number("lora_alpha", 0, 1e6, above=0)
    rate, places = read.number("lora_dropout", 0, 0.999), read.places()
    root, turned = read.config.get("use_rslora"), read.config.get("use_dora")
    if root and turned:  # the scale is all that rsLoRA is
        alpha *= rank**0.5
    kind = DoRA if turned else RsLora if root else Lora
    sizes, own = widths(read.layers), {}
    for place in places:
        _, width_in, width_out = sizes[place]
        shapes = {A: (rank, width_in), B: (width_out, rank)}
        own[place] = {
            name: {"kernel": read.stacked(place, suffix, shapes[suffix]).swapaxes(1, 2)}
            for name, suffix in _FACTORS
        }
        if turned:
            lengths = column_lengths(read.layers, place)
            own[place]["magnitude"] = read.stacked(place, MAGNITUDE, (width_out,)) - lengths
    return kind(rank, alpha, rate, places), own


def column_lengths(layers: PyTree, place: str) -> Float[np.ndarray, "n o"]:
    """The Euclidean lengths of a frozen map's columns, layer by layer."""
    kernel = np.asarray(dequantized(dict(maps(layers))[place]))
    return np.linalg.norm(kernel, axis=1)


def read_ia3(read: Read) -> tuple[Adapter, PyTree]:
    """IA3: a vector of a row scales what goes in, one of a column what comes out."""
    sizes, own, inputs = widths(read.layers), {}, list[str]()
    for place in read.places():
        _, width_in, width_out = sizes[place]
        first = read.placed.get((place, 0), {}).get("ia3_l")
        goes_in = first is not None and first.shape == (1, width_in) and width_in != 1
        shape = (1, width_in) if goes_in else (width_out, 1)
        inputs += [place] * goes_in
        own[place] = {"scale": read.stacked(place, "ia3_l", shape).reshape(sizes[place][0], -1)}
    targets = tuple(place for place in own if place not in inputs)
    return IA3(targets, tuple(inputs)), own


def read_vera(read: Read) -> tuple[Adapter, PyTree]:
    """VeRA, with the random maps of its file."""
    rank, sizes, own = read.whole("r"), widths(read.layers), {}
    shared = [read.top.get(f"base_model.vera_{side}") for side in "AB"]
    if shared[0] is None or shared[1] is None:
        raise MmjaxError(
            f"{read.where} has no random maps (base_model.vera_A, vera_B), which torch alone can "
            "draw again; save the adapter with save_projection=True"
        )
    a, b = (np.asarray(x, np.float32) for x in shared)
    for place in read.places():
        n, width_in, width_out = sizes[place]
        if a.shape[0] != rank or a.shape[1] < width_in or b.shape[0] < width_out:
            raise MmjaxError(
                f"{read.where}: vera_A {list(a.shape)} and vera_B {list(b.shape)} are too small "
                f"for {place}, {width_in} to {width_out}, with r {rank}"
            )
        down, up = a[:, :width_in].T, b[:width_out].T
        own[place] = {
            "rank_scale": read.stacked(place, "vera_lambda_d", (rank,)),
            "scale": read.stacked(place, "vera_lambda_b", (width_out,)),
            FIXED: {k: np.repeat(x[None], n, axis=0) for k, x in (("down", down), ("up", up))},
        }
    rate = read.number("vera_dropout", 0, 0.999)
    return VeRA(rank, dropout=rate, targets=tuple(own)), own


def read_norms(read: Read) -> tuple[Adapter, PyTree]:
    """LayerNorm tuning: differences to the frozen norms."""
    params = read.encoder.params
    base = path_of_layers(read.encoder, read.tower)
    deltas: dict[str, Any] = {}
    rows: dict[str, dict[int, Any]] = {}
    for (place, layer), tensors in read.placed.items():
        for suffix, tensor in tensors.items():
            name = {"weight": "scale", "bias": "bias"}[suffix.rpartition(".")[2]]
            path = f"{place if layer is None else base + place}/{name}"
            rows.setdefault(path, {})[-1 if layer is None else layer] = tensor
    targets = list[str]()
    for path, by_layer in rows.items():
        at: Any = params
        for part in path.split("/"):
            at = at.get(part) if isinstance(at, Mapping) else None
        old = np.asarray(at, np.float32) if at is not None else None
        order = sorted(by_layer)
        values = np.stack([by_layer[i] for i in order])
        if old is None or values.shape[1:] != old.shape[-1:] or order[-1] >= len(old):
            raise MmjaxError(f"{read.where} tunes {path}, which does not fit this model")
        single = order == [-1]
        delta = values[0] - old if single else values - old[order]
        deltas[path] = np.asarray(delta, np.float32)
        if single:
            targets.append(re.escape(path))
        else:
            before, _, rest = path.partition("layers/")
            numbers = "|".join(map(str, order))
            targets.append(f"{re.escape(before)}layers/({numbers})/{re.escape(rest)}")
    return LayerNormTuning(tuple(targets)), flax.traverse_util.unflatten_dict(deltas, sep="/")


def path_of_layers(encoder: Encoder, tower: str | None) -> str:
    """Where a tower's layers lie in the parameters."""
    layers = encoder.frozen_layers(tower)

    def search(tree: Any, path: str) -> str | None:
        if tree is layers:
            return path
        if isinstance(tree, Mapping):
            for name, part in tree.items():
                match = search(part, f"{path}{name}/")
                if match is not None:
                    return match
        return None

    layers_path = search(encoder.params, "")
    assert layers_path is not None
    return layers_path


def read_prefix(read: Read) -> tuple[Adapter, PyTree]:
    """Prefix tuning: keys and values of all layers, side by side."""
    n, _, d = widths(read.layers)["key"]
    if read.config.get("prefix_projection"):
        raise MmjaxError(f"{read.where}: prefix_projection is not supported; save what it makes")
    table = _embeddings(read, 2 * n * d)
    both = table.reshape(len(table), n, 2, d).swapaxes(0, 1)
    return PrefixTuning(len(table)), {"keys": both[:, :, 0], "values": both[:, :, 1]}


def read_prompt(read: Read) -> tuple[Adapter, PyTree]:
    """Prompt tuning: tokens in front."""
    _, d, _ = widths(read.layers)["query"]
    table = _embeddings(read, d)
    return PromptTuning(len(table)), {"tokens": table}


def _embeddings(read: Read, width: int) -> Float[np.ndarray, "p w"]:
    table, shape = read.top.get("prompt_embeddings"), (read.whole("num_virtual_tokens"), width)
    if table is None or table.shape != shape:
        has = "no" if table is None else f"{list(table.shape)}"
        raise MmjaxError(f"{read.where} has {has} prompt_embeddings; this needs {list(shape)}")
    return np.asarray(table, np.float32)


READERS: Mapping[str, Callable[[Read], tuple[Adapter, PyTree]]] = {
    "LORA": read_lora,
    "IA3": read_ia3,
    "VERA": read_vera,
    "LN_TUNING": read_norms,
    "PREFIX_TUNING": read_prefix,
    "PROMPT_TUNING": read_prompt,
}
