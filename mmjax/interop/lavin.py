"""LaVIN's own adapter tensors, both ways: names, shapes and order as its checkpoints have them."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError

_LAYER = {
    "language": "layers.{i}.adapter_attn.",
    "vision": "backbone.visual.transformer.resblocks.{i}.adapter_attn.",
}
_EXPERTS = ("conv_B", "conv_D")  # in the router's order


def to_original(trainable: PyTree) -> dict[str, Any]:
    """A trained `Multimodal` of routed adapters as the original's tensors; works on shapes too.

    Args:
      trainable: as `Multimodal.init` made it.

    Returns:
      name -> array, without the `module.` that data-parallel training puts in front.
    """
    tensors: dict[str, Any] = {}
    for tower, prefix in _LAYER.items():
        own = trainable[tower]
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
      MmjaxError: tensors that are missing, left over, or of other sizes (rank, width, layers).
    """
    found = {re.sub(r"^module\.", "", name): np.asarray(x) for name, x in tensors.items()}
    shapes = {name: tuple(x.shape) for name, x in _shapes(expected).items()}
    if missing := sorted(shapes.keys() - found.keys()):
        raise MmjaxError(
            f"the checkpoint lacks {len(missing)} of {len(shapes)} tensors, such as {missing[0]}; "
            "was it trained on models with fewer layers?"
        )
    if left := sorted(found.keys() - shapes.keys()):
        raise MmjaxError(
            f"the checkpoint has {len(left)} tensors that these models have no place for, such as "
            f"{left[0]}; was it trained on models with more layers?"
        )
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise MmjaxError(
                f"{name} has shape {list(found[name].shape)}, these models with this rank need "
                f"{list(shape)}"
            )

    def take(name: str) -> np.ndarray:
        return found[name].astype(np.float32)

    def stack(tower: str, *names: str) -> np.ndarray:
        n = expected[tower]["down"]["bias"].shape[0]
        at = [_LAYER[tower].format(i=i) for i in range(n)]
        return np.stack([np.stack([take(a + name) for name in names]) for a in at])

    trainable: dict[str, Any] = {
        "modality": {"embedding": take("adapter_modality_embedding.weight")}
    }
    for tower in _LAYER:
        n, experts, groups, inner, outer = expected[tower]["up"]["kernel"].shape
        convs = stack(tower, *(f"{name}.weight" for name in _EXPERTS))
        convs = convs.reshape(n, experts, groups, outer, inner)
        router = stack(tower, "expert_weights.weight")[:, 0]
        trainable[tower] = {
            "down": {
                "kernel": stack(tower, "conv_A.weight")[:, 0, :, :, 0].transpose(0, 2, 1),
                "bias": stack(tower, "conv_A.bias")[:, 0],
            },
            "up": {
                "kernel": convs.transpose(0, 1, 2, 4, 3),
                "bias": stack(tower, *(f"{name}.bias" for name in _EXPERTS)),
            },
            "router": {
                "kernel": router.transpose(0, 2, 1),
                "bias": stack(tower, "expert_weights.bias")[:, 0],
            },
        }
    trainable["projection"] = {
        ours: {
            "kernel": take(f"adapter_proj.{theirs}.weight").T,
            "bias": take(f"adapter_proj.{theirs}.bias"),
        }
        for theirs, ours in (("conv_A", "down"), ("conv_B", "up"))
    }
    return trainable


def _shapes(expected: PyTree) -> dict[str, Any]:
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), expected)
    return jax.eval_shape(to_original, abstract)
