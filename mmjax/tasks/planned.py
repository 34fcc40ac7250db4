"""A run as shapes alone: what its programs are made for, with no data and no weights at hand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from mmjax import sharding
from mmjax.data.library import Library
from mmjax.encoders.base import Encoder
from mmjax.specs.spec import EncoderSpec, Stage
from mmjax.tasks import typed
from mmjax.tasks.base import Task
from mmjax.tasks.run import Run
from mmjax.trees import PyTree

_TEXT = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Asked:
    """A function that is asked while evaluating, and what it is asked.

    Attributes:
      function: (trainable, frozen, inputs) -> rows.
      inputs: shapes of one batch, on the mesh.
      rows: items in it.
    """

    function: Callable[[PyTree, PyTree, Any], Array]
    inputs: PyTree
    rows: int


@dataclass(frozen=True)
class Planned:
    """What a run's programs are made for; leaves are ShapeDtypeStructs in their shardings.

    Attributes:
      task: what is trained.
      frozen: its frozen tree.
      trainable: its trainable tree.
      batch: of one step; empty where nothing is trained.
      unit: what a batch counts.
      units: how many of them a batch holds.
      asked: name -> what is asked while evaluating.
      extracted: encoders whose features are computed beforehand, by role.
      decoder: a language model that writes answers, and the most columns it reads and writes.
      assumed: what the data would say and a plan cannot know, a sentence each.
    """

    task: Task
    frozen: dict[str, PyTree]
    trainable: PyTree
    batch: PyTree
    unit: str
    units: int
    asked: Mapping[str, Asked] = field(default_factory=dict[str, Asked])
    extracted: Mapping[str, tuple[Encoder, EncoderSpec]] = field(
        default_factory=dict[str, tuple[Encoder, EncoderSpec]]
    )
    decoder: "Decoder | None" = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decoder:
    """A language model that writes answers while evaluating.

    Attributes:
      model: with its hook.
      adapters: of the hook.
      rows: prompts that are answered together.
      prompt: columns of the longest ones.
      new: the most tokens of an answer.
    """

    model: Encoder
    adapters: PyTree
    rows: int
    prompt: int
    new: int


@runtime_checkable
class Plannable(Protocol):
    """A task's definition that can say what its programs are made for."""

    def planned(self, run: Run, base: Planned | None, library: Library) -> Planned:
        """The run as shapes.

        Args:
          run: a stage with a seed.
          base: what it stands on.
          library: its encoders have shapes for weights, on the mesh.

        Raises:
          MmjaxError: the encoders or the mesh do not go with the stage.
        """
        ...


def shaped(
    mesh: Mesh, shape: tuple[int, ...], dtype: Any = jnp.float32, split: bool = True
) -> jax.ShapeDtypeStruct:
    """One array of a batch, split over `data`; or one that is whole everywhere."""
    spec = PartitionSpec("data") if split else PartitionSpec()
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def whole(tree: PyTree, mesh: Mesh) -> PyTree:
    """Shapes, whole on every device."""
    return _as(tree, sharding.replicated(mesh))


def lying(tree: PyTree, where: PyTree) -> PyTree:
    """Shapes in given shardings."""
    return typed.map_tree(_as_leaf, tree, where)


def _as(tree: PyTree, where: NamedSharding) -> PyTree:
    def put(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return _as_leaf(leaf, where)

    return typed.map_tree(put, tree)


def _as_leaf(leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def initial(task: Task, frozen: PyTree, batch: PyTree, mesh: Mesh) -> PyTree:
    """What a task trains, whole on every device as `mmjax.training` places it."""
    return whole(typed.shapes(task.init, jax.random.key(0), frozen, batch), mesh)


def standing_on(base: Planned | None) -> dict[str, PyTree]:
    """{"base", perhaps "below"}: the frozen parameters of what a run stands on, if on anything."""
    if base is None:
        return {}
    under = {name: base.frozen[name] for name in ("base", "below") if name in base.frozen}
    return {"base": base.trainable, **({"below": under} if under else {})}


def length_of(spec: EncoderSpec, encoder: Encoder) -> int:
    """Columns of the longest texts."""
    return spec.max_length or encoder.config.max_length


def inputs_of(stage: Stage, role: str, library: Library, rows: int) -> PyTree:
    """A tower's inputs in a batch: cached features, or what its encoder reads in the step.

    Args:
      stage: says whether features are cached.
      role: of the tower.
      library: has the encoder and the mesh.
      rows: of the batch.
    """
    spec, mesh = stage.encoders[role], library.mesh
    encoder = library.encoder(spec)
    if not stage.caches(role):
        return raw_inputs(spec, encoder, mesh, rows)
    return features_of(stage, role, library, rows)


def features_of(stage: Stage, role: str, library: Library, rows: int) -> PyTree:
    """The same of an encoder whose features are computed beforehand."""
    spec, mesh = stage.encoders[role], library.mesh
    encoder = library.encoder(spec)
    width = encoder.width(spec.output)
    if not spec.output.startswith("tokens"):
        return {"features": shaped(mesh, (rows, width))}
    length = length_of(spec, encoder)
    features = shaped(mesh, (rows, length, width), encoder.dtype)
    return {"features": features, "mask": shaped(mesh, (rows, length), jnp.bool_)}


def raw_inputs(spec: EncoderSpec, encoder: Encoder, mesh: Mesh, rows: int) -> PyTree:
    """What an encoder reads."""
    if encoder.modality == "image":
        side = encoder.config.image_size
        return {"pixel_values": shaped(mesh, (rows, side, side, encoder.config.num_channels))}
    length = length_of(spec, encoder)
    return {name: shaped(mesh, (rows, length), jnp.int32) for name in _TEXT}


def rounded(rows: int, mesh: Mesh) -> int:
    """Rows of a batch that the data axis can share out."""
    parts = mesh.shape["data"]
    return -(-rows // parts) * parts


def extracted(stage: Stage, library: Library) -> dict[str, tuple[Encoder, EncoderSpec]]:
    """Encoders whose features a stage reads from the cache."""
    kept = {role: spec for role, spec in stage.encoders.items() if stage.caches(role)}
    return {role: (library.encoder(spec), spec) for role, spec in kept.items()}
