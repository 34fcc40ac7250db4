"""Folders of Hugging Face PEFT, in and out, for every kind and every encoder that both have."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mmjax.checks import foreign, foreign_arrays
from mmjax.encoders.base import Encoder
from mmjax.encoders.language_model import LanguageModel
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError
from mmjax.interop.peft import CONFIG, WEIGHTS, open_weights, read_settings, write_folder
from mmjax.interop.peft_kinds import READERS, SUFFIXES, Adapter, Placed, Read
from mmjax.interop.peft_names import names_of
from mmjax.interop.peft_write import write

# Settings that each kind must have, and those that it may have beside those that change nothing.
_NEEDED = {
    "LORA": ("r", "lora_alpha", "lora_dropout"),
    "IA3": (),
    "VERA": ("r", "vera_dropout"),
    "LN_TUNING": (),
    "PREFIX_TUNING": ("num_virtual_tokens",),
    "PROMPT_TUNING": ("num_virtual_tokens",),
}
_READ = {
    "LORA": ("use_dora", "use_rslora"),
    "IA3": ("feedforward_modules",),
    "VERA": (),
    "LN_TUNING": (),
    "PREFIX_TUNING": ("prefix_projection",),
    "PROMPT_TUNING": (),
}
# Where an adapter came from, how it was begun, and what is known otherwise: of any value.
_ANY = (
    *("peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision"),
    *("task_type", "inference_mode", "target_modules", "modules_to_save", "exclude_modules"),
    *("megatron_config", "megatron_core", "qalora_group_size", "loftq_config", "runtime_config"),
    *("eva_config", "corda_config", "init_ia3_weights", "init_weights", "d_initial"),
    *("projection_prng_key", "save_projection", "num_layers", "num_attention_heads", "token_dim"),
    *("num_transformer_submodules", "encoder_hidden_size", "prompt_tuning_init"),
    *("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs", "init_std"),
)
_NOTHING = (None, False, "none", (), [], {})
_PLAIN_STARTS = (None, True, False, "gaussian")  # others change the frozen weights as well


@dataclass(frozen=True)
class PeftAdapter:
    """What a folder holds.

    Attributes:
      adapter: goes into the encoder by `with_hook`.
      adapters: its parameters, NumPy arrays.
      saved: modules that were trained whole (`modules_to_save`): name of a tensor -> tensor.
    """

    adapter: Adapter
    adapters: PyTree
    saved: Mapping[str, Float[np.ndarray, "..."]] = field(
        default_factory=dict[str, Float[np.ndarray, "..."]]
    )


def import_adapter(folder: Path | str, encoder: Encoder, tower: str | None = None) -> PeftAdapter:
    """Reads what `PeftModel.save_pretrained` wrote.

    Args:
      folder: holds adapter_config.json and adapter_model.safetensors.
      encoder: the frozen model, which the adapter must fit. Of a file for a model of two towers the
        tensors of this one's are read.
      tower: as in `Encoder.with_hook`.

    Returns:
      The adapter, its parameters, and what else was trained.

    Raises:
      MmjaxError: a file is missing or damaged, a kind or a setting that is not known, or tensors
        that are missing, left over, of another size, or no finite floating-point numbers.
    """
    folder = Path(folder)
    config, file_path = _config(folder / CONFIG), folder / WEIGHTS
    file, names = open_weights(folder), names_of(encoder, tower)
    placed: Placed = {}
    top, saved = dict[str, Any](), dict[str, Any]()
    kept = tuple(config.get("modules_to_save") or ())
    skipped = 0
    for key in sorted(file.keys()):
        tensor = foreign_arrays.floating(f"{file_path}: {key}", file.read(key))
        suffix = next((s for s in SUFFIXES if key.endswith(f".{s}")), None)
        name = key.removeprefix("base_model.model.")
        if suffix is None:
            whole = any(part in kept for part in name.split("."))
            (saved if whole else top)[name if whole else key] = tensor
            continue
        try:
            place = names.find(name[: -len(suffix) - 1])
        except MmjaxError as error:
            raise MmjaxError(f"{file_path}: {error}") from error
        if place is None:
            skipped += 1
        else:
            placed.setdefault(place, {})[suffix] = tensor
    unknown = sorted(set(top) - {"base_model.vera_A", "base_model.vera_B", "prompt_embeddings"})
    if unknown:
        raise MmjaxError(
            f"{file_path} has {len(unknown)} tensors that belong to no adapter of this model, such "
            f"as {unknown[0][:80]}"
        )
    kind = config["peft_type"]
    if not placed and kind not in ("PREFIX_TUNING", "PROMPT_TUNING"):
        raise MmjaxError(
            f"{file_path} adapts nothing of {encoder.name!r} ({encoder.family})"
            + (f"; {skipped} tensors are of the other tower" if skipped else "")
        )
    read = Read(config, str(file_path), placed, top, encoder, tower)
    return PeftAdapter(*READERS[kind](read), saved)


def _config(path: Path) -> dict[str, Any]:
    config = read_settings(path)
    with foreign.reading(path, "a PEFT config", MmjaxError):
        kind = config.get("peft_type")
        if not isinstance(kind, str) or kind not in READERS:
            raise MmjaxError(
                f"{path}: peft_type {foreign.shown(kind)} is not supported; {', '.join(READERS)}"
            )
        for name in _NEEDED[kind]:
            if name not in config:
                raise MmjaxError(f"{path} lacks {name!r}")
        supported = (*_ANY, *_NEEDED[kind], *_READ[kind])
        for name, value in config.items():
            if name == "init_lora_weights" and kind == "LORA":
                if value not in _PLAIN_STARTS:
                    raise MmjaxError(
                        f"{path}: init_lora_weights {foreign.shown(value)} has changed the frozen "
                        "weights too; save it with path_initial_model_for_weight_conversion"
                    )
            elif name not in supported and value not in _NOTHING:
                raise MmjaxError(f"{path}: {name} {foreign.shown(value)} is not supported")
        kept = config.get("modules_to_save")
        if kept is not None and not (
            isinstance(kept, list) and all(isinstance(name, str) for name in kept)
        ):
            raise MmjaxError(f"{path}: modules_to_save {foreign.shown(kept)} is no list of names")
        return config


def export_adapter(
    folder: Path | str,
    adapter: Adapter,
    adapters: PyTree,
    encoder: Encoder,
    tower: str | None = None,
    *,
    base: str = "",
    saved: Mapping[str, Float[np.ndarray, "..."]] | None = None,
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, which `PeftModel` loads.

    Args:
      folder: made if missing.
      adapter: LoRA, rsLoRA, DoRA, PiSSA and OLoRA (as a LoRA of twice the rank), IA3, VeRA,
        LayerNorm tuning, prefix tuning, or prompt tuning in front of the text.
      adapters: its parameters.
      encoder: the frozen model, as it was loaded.
      tower: as in `Encoder.with_hook`.
      base: name or path of the frozen model, for `base_model_name_or_path`.
      saved: further tensors that were trained whole, by name; see `PeftAdapter`.

    Raises:
      MmjaxError: a kind that PEFT does not have, or the disk is full.
    """
    folder = Path(folder)
    written = write(adapter, adapters, encoder, tower, names_of(encoder, tower))
    tensors = {name: np.ascontiguousarray(x, np.float32) for name, x in written.tensors.items()}
    for name, tensor in (saved or {}).items():
        tensors[f"base_model.model.{name}"] = np.ascontiguousarray(tensor)
    # PEFT's class for features reads token ids; images go through its plain one.
    task = None if encoder.modality == "image" else "FEATURE_EXTRACTION"
    if isinstance(encoder, LanguageModel) and encoder.check_tower(tower) == "text":
        task = "CAUSAL_LM"
    config = {
        **written.config,
        "task_type": task,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "modules_to_save": sorted({name.split(".")[-2] for name in saved or ()}) or None,
    }
    write_folder(folder, config, tensors)
