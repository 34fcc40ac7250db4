"""LaVIN's own adapter checkpoints, both ways: names, shapes and order as they have them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError

from mmjax.adapters.rep_adapter import BLOCK
from mmjax.checks import foreign_arrays
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError
from mmjax.files import write_tensors
from mmjax.interop.checkpoints import open_checkpoint

_LAYER = {
    "language": "layers.{i}.",
    "vision": "backbone.visual.transformer.resblocks.{i}.",
}
_ATTENTION, _MLP = "adapter_attn.", "adapter_mlp."  # before attention, before the feed-forward part
_EXPERTS = ("conv_B", "conv_D")  # in the router's order


def read_lavin(path: Path | str) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, without executing its pickle.

    Args:
      path: the original's `.pth`, whose optimizer and arguments are passed over, or the same
        tensors as `.safetensors`.

    Returns:
      name -> array; of names in front of which all have `module.` without it.

    Raises:
      MmjaxError: there is none, or it is damaged, holds no tensor, or numbers that are not finite.
    """
    file = open_checkpoint(Path(path), "LaVIN", "its .pth or .safetensors")
    return {name: file.read(name) for name in file.keys()}  # noqa: SIM118  # a method of ours


def save(path: Path | str, trainable: PyTree) -> None:
    """Writes a trained `Multimodal` under the original's names.

    `torch.save({"model": safetensors.torch.load_file(path)}, "adapter.pth")` makes of it what the
    original's evaluation reads.

    Args:
      path: a `.safetensors` file.
      trainable: as `Multimodal.init` made it, with routed adapters in both towers.

    Raises:
      MmjaxError: it cannot be written.
    """
    path = Path(path)
    tensors = {name: np.array(x, order="C") for name, x in to_original(trainable).items()}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_tensors(temporary, tensors)
        temporary.rename(path)
    except (OSError, SafetensorError) as error:
        raise MmjaxError(f"cannot write {path}: {error}") from error


def to_original(trainable: PyTree) -> dict[str, Any]:
    """A trained `Multimodal` of routed adapters as the original's tensors; works on shapes too.

    Args:
      trainable: as `Multimodal.init` made it.

    Returns:
      name -> array, without the `module.` that data-parallel training puts in front.

    Raises:
      MmjaxError: it has no routed adapter in both towers, which is all that the original knows.
    """
    if not all("router" in trainable.get(tower, {}) for tower in _LAYER):
        raise MmjaxError(
            "LaVIN's files hold routed adapters in both towers; train with "
            "config.instruct.adapter='routed' and config.instruct.visual=True"
        )
    tensors: dict[str, Any] = {}
    for prefix, own in _places(trainable):
        down, up, router = own["down"], own["up"], own["router"]
        n, experts, groups, inner, outer = up["kernel"].shape
        convs = up["kernel"].transpose(0, 1, 2, 4, 3).reshape(n, experts, groups * outer, inner, 1)
        for i in range(n):
            at = prefix.format(i=i)
            tensors[at + "conv_A.weight"] = down["kernel"][i].T[..., None]
            tensors[at + "conv_A.bias"] = down["bias"][i]
            for e, name in enumerate(_EXPERTS):
                tensors[at + f"{name}.weight"] = convs[i, e]
                tensors[at + f"{name}.bias"] = up["bias"][i, e]
            tensors[at + "expert_weights.weight"] = router["kernel"][i].T
            tensors[at + "expert_weights.bias"] = router["bias"][i]
    for theirs, ours in (("conv_A", "down"), ("conv_B", "up")):
        part = trainable["projection"][ours]
        tensors[f"adapter_proj.{theirs}.weight"] = part["kernel"].T
        tensors[f"adapter_proj.{theirs}.bias"] = part["bias"]
    tensors["adapter_modality_embedding.weight"] = trainable["modality"]["embedding"]
    return tensors


def from_original(tensors: Mapping[str, np.ndarray], expected: PyTree) -> PyTree:
    """The original's tensors as a tree for `Multimodal`.

    Scale and temperature are not among the tensors: take them from how the adapter was trained
    (temperature 10 for the published 7B, 5 for the 13B), as another value silently changes outputs.

    Args:
      tensors: name -> array; a leading `module.` is taken off, other models' weights are refused.
      expected: what `Multimodal.init` makes for the frozen models (or its shapes).

    Returns:
      The trainable tree, float32 NumPy arrays.

    Raises:
      MmjaxError: tensors that are missing, left over, of other sizes (rank, width, layers), or no
        floating-point numbers.
    """
    arrays = {re.sub(r"^module\.", "", name): np.asarray(x) for name, x in tensors.items()}
    shapes = {name: tuple(x.shape) for name, x in _shapes(expected).items()}
    if missing := sorted(shapes.keys() - arrays.keys()):
        raise MmjaxError(
            f"the checkpoint lacks {len(missing)} of {len(shapes)} tensors, such as {missing[0]}; "
            "was it trained on models with fewer layers?"
        )
    if left := sorted(arrays.keys() - shapes.keys()):
        raise MmjaxError(
            f"the checkpoint has {len(left)} tensors that these models have no place for, such as "
            f"{left[0][:80]}; was it trained on models with more layers?"
        )
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise MmjaxError(
                f"{name} has shape {list(arrays[name].shape)}, these models with this rank need "
                f"{list(shape)}"
            )

    def take(name: str) -> np.ndarray:
        return foreign_arrays.floating(name, arrays[name]).astype(np.float32)

    def adapter(prefix: str, shapes: PyTree) -> PyTree:
        n, experts, groups, inner, outer = shapes["up"]["kernel"].shape
        at = [prefix.format(i=i) for i in range(n)]

        def stack(*names: str) -> np.ndarray:
            return np.stack([np.stack([take(a + name) for name in names]) for a in at])

        convs = stack(*(f"{name}.weight" for name in _EXPERTS))
        convs = convs.reshape(n, experts, groups, outer, inner)
        return {
            "down": {
                "kernel": stack("conv_A.weight")[:, 0, :, :, 0].transpose(0, 2, 1),
                "bias": stack("conv_A.bias")[:, 0],
            },
            "up": {
                "kernel": convs.transpose(0, 1, 2, 4, 3),
                "bias": stack(*(f"{name}.bias" for name in _EXPERTS)),
            },
            "router": {
                "kernel": stack("expert_weights.weight")[:, 0].transpose(0, 2, 1),
                "bias": stack("expert_weights.bias")[:, 0],
            },
        }

    trainable: dict[str, Any] = {
        "modality": {"embedding": take("adapter_modality_embedding.weight")}
    }
    for tower, prefix in _LAYER.items():
        trainable[tower] = adapter(prefix + _ATTENTION, expected[tower])
        if BLOCK in expected[tower]:
            trainable[tower][BLOCK] = adapter(prefix + _MLP, expected[tower][BLOCK])
    trainable["projection"] = {
        ours: {
            "kernel": take(f"adapter_proj.{theirs}.weight").T,
            "bias": take(f"adapter_proj.{theirs}.bias"),
        }
        for theirs, ours in (("conv_A", "down"), ("conv_B", "up"))
    }
    return trainable


def _places(trainable: PyTree) -> Iterator[tuple[str, PyTree]]:
    """(how names begin, parameters) of both towers' adapters; `{i}` in a name is the layer."""
    for tower, prefix in _LAYER.items():
        yield prefix + _ATTENTION, trainable[tower]
        if BLOCK in trainable[tower]:
            yield prefix + _MLP, trainable[tower][BLOCK]


def is_block(tensors: Mapping[str, Any], tower: str) -> bool:
    """Whether a tower has adapters before its feed-forward parts as well."""
    start = _LAYER[tower].partition("{i}")[0]
    names = (re.sub(r"^module\.", "", name) for name in tensors)
    return any(name.startswith(start) and f".{_MLP}" in name for name in names)


def _shapes(expected: PyTree) -> dict[str, Any]:
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), expected)
    return jax.eval_shape(to_original, abstract)
