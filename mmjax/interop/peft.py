"""LoRA adapters of language models in Hugging Face PEFT's format, both ways."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mmjax.adapters.hooks import ATTENTION, meant, widths
from mmjax.adapters.lora import Lora
from mmjax.checks import foreign, foreign_arrays
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError, writing
from mmjax.files import read_json_object, write_atomic, write_tensors
from mmjax.weights.safetensors import SafetensorsFile

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_THEIRS = {
    **{"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"},
    **{"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
}
_OURS = {theirs: ours for ours, theirs in _THEIRS.items()}
# Settings that change what the numbers mean, and the values at which they do not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    **{name: (None, False) for name in ("use_dora", "use_rslora", "fan_in_fan_out", "lora_bias")},
    **{name: (None, {}) for name in ("rank_pattern", "alpha_pattern", "alora_invocation_tokens")},
    **{
        name: (None, []) for name in ("layers_to_transform", "modules_to_save", "target_parameters")
    },
    **{name: (None, []) for name in ("trainable_token_indices", "layer_replication")},
    **{name: (None, False) for name in ("use_bdlora", "use_qalora", "exclude_modules")},
    **{f"{name}_config": (None, {}) for name in ("arrow", "kasa", "monteclora", "velora")},
    "bias": (None, "none"),
}


def _tensor_name(layer: int, place: str, part: str) -> str:
    block = "self_attn" if place in ATTENTION else "mlp"
    return f"base_model.model.model.layers.{layer}.{block}.{_THEIRS[place]}.lora_{part}.weight"


def export_lora(folder: Path | str, lora: Lora, adapters: PyTree, base: str) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, which `PeftModel` loads.

    Args:
      folder: made if missing.
      lora: rank, alpha, dropout and targets.
      adapters: its parameters.
      base: name or path of the frozen model, for `base_model_name_or_path`.

    Raises:
      MmjaxError: the disk is full.
    """
    folder, tensors = Path(folder), {}
    places = list[str]()
    for target in lora.targets:  # a pattern means several
        matches = meant(target, adapters)
        if not matches:
            raise MmjaxError(
                f"the adapter's parameters lack {target!r}, one of its targets {lora.targets}"
            )
        places += matches
    for place in dict.fromkeys(places):
        for part, name in (("A", "down"), ("B", "up")):
            kernel = np.asarray(adapters[place][name]["kernel"])
            for i, layer in enumerate(kernel):
                tensors[_tensor_name(i, place, part)] = np.ascontiguousarray(layer.T)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted({_THEIRS[place] for place in places}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_folder(folder, config, tensors)


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: dict[str, Shaped[np.ndarray, "..."]]
) -> None:
    """Writes both files of an adapter.

    Args:
      folder: made if missing.
      config: its settings.
      tensors: by whole name.

    Raises:
      MmjaxError: the disk is full.
    """
    with writing(f"cannot write {folder}", "free some space or choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{WEIGHTS}"
        write_tensors(temporary, tensors)
        temporary.rename(folder / WEIGHTS)
    write_atomic(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def import_lora(folder: Path | str, layers: PyTree) -> tuple[Lora, PyTree]:
    """Reads what `PeftModel.save_pretrained` wrote for a LLaMA.

    Args:
      folder: holds adapter_config.json and adapter_model.safetensors.
      layers: the frozen model's layers (or their shapes), which the adapter must fit.

    Returns:
      (the hook, its parameters as NumPy arrays).

    Raises:
      MmjaxError: a file is missing or damaged, another method than plain LoRA, or tensors that are
        missing, left over, of another size than this model needs, or no finite floating-point
        numbers.
    """
    folder = Path(folder)
    lora = _read_config(folder / CONFIG)
    file = open_weights(folder)
    left, sizes = set(file.keys()), widths(layers)
    shapes = {
        (place, part, i): shape
        for place in lora.targets
        for part, shape in (
            ("A", (lora.rank, sizes[place][1])),
            ("B", (sizes[place][2], lora.rank)),
        )
        for i in range(sizes[place][0])
    }
    for (place, part, i), shape in shapes.items():  # before any memory is taken
        key = _tensor_name(i, place, part)
        if key not in left:
            raise MmjaxError(
                f"{folder / WEIGHTS} has no {key}; this model has {sizes[place][0]} layers, and "
                f"the config adapts {_THEIRS[place]} in each"
            )
        actual = file.header(key)[1]
        if actual != shape:
            raise MmjaxError(
                f"{folder / WEIGHTS}: {key} has shape {list(actual)}, this model with rank "
                f"{lora.rank} needs {list(shape)}"
            )
        left.remove(key)
    if left:
        raise MmjaxError(
            f"{folder / WEIGHTS} has {len(left)} tensors that belong to no target in a layer of "
            f"this model, such as {sorted(left)[0][:80]}"
        )

    def stacked(place: str, part: str) -> np.ndarray:
        keys = [_tensor_name(i, place, part) for i in range(sizes[place][0])]
        arrays = [foreign_arrays.floating(f"{folder / WEIGHTS}: {k}", file.read(k)) for k in keys]
        return np.stack([array.astype(np.float32).T for array in arrays])

    return lora, {
        place: {
            name: {"kernel": stacked(place, part)} for part, name in (("A", "down"), ("B", "up"))
        }
        for place in lora.targets
    }


def read_settings(path: Path) -> dict[str, Any]:
    """What adapter_config.json says, whatever that is.

    Raises:
      MmjaxError: it is missing, damaged, or no JSON object.
    """
    if not path.is_file():
        raise MmjaxError(f"no PEFT adapter at {path.parent}: {path.name} is missing")
    with foreign.reading(path, "a PEFT config", MmjaxError):
        return read_json_object(path)


def open_weights(folder: Path) -> SafetensorsFile:
    """The tensors of an adapter.

    Raises:
      MmjaxError: they are missing or damaged.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise MmjaxError(f"{path} is missing; save the adapter as safetensors")
    return SafetensorsFile(path)


def _read_config(path: Path) -> Lora:
    config = read_settings(path)
    with foreign.reading(path, "a PEFT config", MmjaxError):
        for name in ("peft_type", "target_modules", "lora_alpha", "lora_dropout", "r"):
            if name not in config:
                raise MmjaxError(f"{path} lacks {name!r}")
        if config["peft_type"] != "LORA":
            kind = foreign.shown(config["peft_type"])
            raise MmjaxError(f"{path}: peft_type {kind} is not supported; LORA")
        for name, plain in _PLAIN.items():
            if config.get(name) not in plain:
                raise MmjaxError(f"{path}: {name} {foreign.shown(config[name])} is not supported")
        targets = config["target_modules"]
        supported = (
            isinstance(targets, list) and bool(targets) and all(t in list(_OURS) for t in targets)
        )
        if not supported:
            raise MmjaxError(
                f"{path}: target_modules {foreign.shown(targets)}; supported are {sorted(_OURS)}"
            )
        ordered = tuple(ours for ours, theirs in _THEIRS.items() if theirs in targets)
        rank = foreign.integer(f"{path}: r", config["r"], 1, foreign.WIDEST)
        alpha = foreign.real(f"{path}: lora_alpha", config["lora_alpha"], 0, 1e6, above=0)
        rate = foreign.real(f"{path}: lora_dropout", config["lora_dropout"], 0, 0.999)
        return Lora(rank, alpha, rate, ordered)
