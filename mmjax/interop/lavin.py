"""LaVIN's own adapter checkpoints, both ways: names, shapes and order as they have them."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import BLOCK, RepAdapter
from mmjax.checks import foreign, foreign_arrays
from mmjax.data.wording import INSTRUCTION, Wording
from mmjax.encoders import Encoder, LanguageModel
from mmjax.encoders.layers import PyTree
from mmjax.encoders.llama import Llama
from mmjax.encoders.vision import VisionTransformer
from mmjax.errors import MmjaxError
from mmjax.tasks.instruct.answering import Answering
from mmjax.tasks.instruct.task import InstructTask
from mmjax.weights.safetensors import SafetensorsFile
from mmjax.weights.torch_file import TorchFile

_LAYER = {
    "language": "layers.{i}.",
    "vision": "backbone.visual.transformer.resblocks.{i}.",
}
_LARGEST = 1e6  # of scales, temperatures and their inverses
_ATTENTION, _MLP = "adapter_attn.", "adapter_mlp."  # before attention, before the feed-forward part
_EXPERTS = ("conv_B", "conv_D")  # in the router's order


def load(
    path: Path | str,
    language: LanguageModel,
    vision: Encoder,
    *,
    scale: float | None = None,
    temperature: float | None = None,
    rank: int = 8,
    taps: int = 6,
    hidden: int = 128,
    clip_routing: Literal["per_image", "first_in_batch"] = "per_image",
    router_weight_dtype: Literal["float32", "float16"] = "float32",
    question: str = INSTRUCTION,
) -> Answering:
    """A published adapter in its frozen models, ready to answer.

    Where it has adapters before feed-forward parts (`block`, `router_block`), its names say so.

    Pictures are prepared as the original does: squashed to a square, with ImageNet's mean and
    deviation instead of CLIP's.

    Args:
      path: a checkpoint; see `read`.
      language: the LLaMA or Vicuna that it was trained on.
      vision: the picture tower of CLIP ViT-L/14, on the same mesh.
      scale: of what the adapters add; 1 in all of the original's scripts. No tensor holds it.
      temperature: of the routers; 10 for the published 7B, 5 for the 13B. No tensor holds it, and
        another value silently changes the answers.
      rank: width of the bottlenecks.
      taps: class tokens that become words.
      hidden: width inside their projection.
      clip_routing: see `RepAdapter.routing`; the original runs `first_in_batch`.
      router_weight_dtype: the original rounds to `float16`.
      question: how a question was put while training; holds `{question}`.
        `mmjax.data.wording.PROBLEM` for the models of ScienceQA.

    Returns:
      What answers questions, with pictures or without.

    Raises:
      MmjaxError: scale or temperature is missing, a number out of its range, models of another
        kind, or a checkpoint that is damaged or was trained on models of other sizes.
    """
    if scale is None or temperature is None:
        name = "temperature" if scale is not None else "scale"
        raise MmjaxError(
            f"the {name} of {path} is missing: LaVIN's tensors do not hold it, and another value "
            "changes the answers; pass scale=1.0, and temperature=10.0 for the published 7B or "
            "5.0 for the 13B"
        )
    foreign.real("LaVIN's scale", scale, -_LARGEST, _LARGEST)
    foreign.real("LaVIN's temperature", temperature, 1 / _LARGEST, _LARGEST)
    for name, value in (("rank", rank), ("taps", taps), ("hidden", hidden)):
        foreign.integer(f"LaVIN's {name}", value, 1, foreign.WIDEST)
    if not isinstance(language.module, Llama) or not isinstance(vision.module, VisionTransformer):
        raise MmjaxError(
            f"a LaVIN adapter joins a LLaMA and a vision transformer, not {language.name!r} "
            f"({language.family}) and {vision.name!r} ({vision.family})"
        )
    tensors = read(path)
    routed = RepAdapter(
        rank=rank, scale=scale, temperature=temperature, router_weight_dtype=router_weight_dtype
    )
    towers = {
        tower: dataclasses.replace(routed, routing=routing, feed_forward=_is_block(tensors, tower))
        for tower, routing in (("language", "first_token"), ("vision", clip_routing))
    }
    parts = Multimodal(towers["language"], towers["vision"], taps, hidden)
    expected = jax.eval_shape(parts.init, jax.random.key(0), language.params, vision.params)
    preprocess = vision.preprocess.imagenet_square()
    return Answering(
        InstructTask.of(parts, language.module, vision.module),
        language,
        dataclasses.replace(vision, preprocess=preprocess),
        from_original(tensors, expected),
        {"recipe": "LaVIN", "source": str(path), "scale": scale, "temperature": temperature},
        Wording(question, talks=question == INSTRUCTION),
    )


def read(path: Path | str) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, without executing its pickle.

    Args:
      path: the original's `.pth`, whose optimizer and arguments are passed over, or the same
        tensors as `.safetensors`.

    Returns:
      name -> array; of names in front of which all have `module.` without it.

    Raises:
      MmjaxError: there is none, or it is damaged, holds no tensor, or numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise MmjaxError(f"no LaVIN checkpoint at {path}; expected its .pth or .safetensors")
    is_safe = path.suffix == ".safetensors"
    file = SafetensorsFile(path) if is_safe else TorchFile(path, others_inert=True)
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
        save_file(tensors, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # the library writes for its owner only; it is meant for others
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
            f"{left[0][:80]}; was it trained on models with more layers?"
        )
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise MmjaxError(
                f"{name} has shape {list(found[name].shape)}, these models with this rank need "
                f"{list(shape)}"
            )

    def take(name: str) -> np.ndarray:
        return foreign_arrays.floating(name, found[name]).astype(np.float32)

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


def _is_block(tensors: Mapping[str, Any], tower: str) -> bool:
    """Whether a tower has adapters before its feed-forward parts as well."""
    start = _LAYER[tower].partition("{i}")[0]
    names = (re.sub(r"^module\.", "", name) for name in tensors)
    return any(name.startswith(start) and f".{_MLP}" in name for name in names)


def _shapes(expected: PyTree) -> dict[str, Any]:
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), expected)
    return jax.eval_shape(to_original, abstract)
