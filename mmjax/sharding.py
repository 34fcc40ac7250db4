"""One mesh, rules as data: who holds what, on one CPU, eight emulated devices or a pod."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Int

from mmjax import trees
from mmjax.errors import MmjaxError, setting
from mmjax.trees import PyTree, Rules

_SMALL = 1 << 16  # numbers: a leaf with fewer is not worth a gather
REPLICATED: Rules = ((r".*", PartitionSpec()),)


def in_every_process(holds: Bool[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
    """What holds in every process of this run; all of them have to ask.

    Processes that compute together must agree on what is missing: each sees its own disk.
    """
    if jax.process_count() == 1:
        return holds
    return np.asarray(np.all(multihost_utils.process_allgather(holds), axis=0))


def wait_for_all(what: str) -> None:
    """Goes on once every process of this run has come here.

    Args:
      what: the same text in all of them.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def make_mesh(
    data: int = -1, model: int = 1, slices: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh ("data", "model") over all devices of all processes.

    Within a slice neighbours on an axis are neighbours on the network, where JAX knows it. Slices
    are parts of `data`: what is sent along `model` never leaves one.

    Args:
      data: size of the axis that splits the batch; -1 takes what `model` leaves.
      model: size of the axis that splits large weights.
      slices: TPU slices, or groups of processes with a fast network of their own.
      devices: JAX's, at hand or described (`jax.experimental.topologies`); None takes all.

    Returns:
      A mesh whose axes are both Auto (the compiler inserts the collectives).

    Raises:
      MmjaxError: the sizes do not multiply to the number of devices, or slices that there are not.
    """
    devices = list(jax.devices()) if devices is None else list(devices)
    count = len(devices)
    if data == -1:
        data = max(count // model, 1)
    if data * model != count:
        raise MmjaxError(
            f"mesh data={data} x model={model} does not cover the {count} devices at hand; "
            f"set --config.mesh.data=-1 or sizes whose product is {count}"
        )
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    by_process = num_slices == 1 and slices > 1
    if by_process:
        num_slices = len({device.process_index for device in devices})
    if slices != num_slices and (slices > 1 or num_slices > 1):
        raise MmjaxError(
            f"mesh slices={slices}, but the {count} devices lie in {num_slices} "
            f"{'processes' if by_process else 'slices'}; set --config.mesh.slices={num_slices}"
        )
    if data % slices:
        raise MmjaxError(
            f"mesh data={data} does not divide over {slices} slices; a model stays within a slice, "
            f"so set a --config.mesh.model that divides {count // slices}"
        )
    axes = {"axis_types": (AxisType.Auto, AxisType.Auto)}
    within = (data // slices, model)
    hybrid = functools.partial(
        mesh_utils.create_hybrid_device_mesh,
        within,
        (slices, 1),
        devices,
        process_is_granule=by_process,
    )
    try:
        if slices == 1:
            return jax.make_mesh(within, ("data", "model"), devices=devices, **axes)
        placed = hybrid()
    except NotImplementedError:  # no product of the torus's own axes, as 2 in 4 x 4 x 8
        split = {"allow_split_physical_axes": True}
        if slices == 1:
            placed = mesh_utils.create_device_mesh(within, devices, **split)
        else:
            placed = hybrid(**split)
    return Mesh(placed, ("data", "model"), **axes)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device, where every process can read it."""
    return NamedSharding(mesh, PartitionSpec())


def shardings(tree: PyTree, mesh: Mesh | AbstractMesh, rules: Rules = REPLICATED) -> PyTree:
    """A NamedSharding for every leaf, by the first rule that matches its whole path."""
    specs = trees.match_rules(tree, rules)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def lying(tree: PyTree) -> PyTree:
    """The sharding in which every leaf lies."""
    return jax.tree.map(lambda x: x.sharding, tree)


def spread(where: PyTree, shapes: PyTree, mesh: Mesh | AbstractMesh) -> PyTree:
    """Shardings that split large leaves over `data` too, as fully sharded data parallelism does.

    Stacks of layers are split within a layer, so that a loop over them gathers one layer at a time.

    Args:
      where: a NamedSharding for every leaf.
      shapes: the leaves, or their shapes.
      mesh: the mesh.

    Returns:
      The same; a leaf that is small, or of which no free axis divides, keeps its own.
    """
    parts = mesh.shape["data"]

    def further(leaf: jax.ShapeDtypeStruct, lies: NamedSharding) -> NamedSharding:
        spec = [*lies.spec, *(None,) * (len(leaf.shape) - len(lies.spec))]
        first = 1 if len(leaf.shape) > 2 else 0
        free = [i for i, axis in enumerate(spec) if axis is None and i >= first]
        free = [i for i in free if leaf.shape[i] % parts == 0]
        if parts == 1 or not free or np.prod(leaf.shape) < _SMALL:
            return lies
        spec[max(free, key=lambda i: leaf.shape[i])] = "data"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(further, shapes, where)


def fit(
    rules: Rules,
    tree: PyTree,
    mesh: Mesh | AbstractMesh,
    heads: Sequence[tuple[str, int]] = (),
) -> Rules:
    """Rules of a model's own for a tree and a mesh: what does not divide evenly stays whole.

    Args:
      rules: (anchored pattern, PartitionSpec) pairs.
      tree: parameters or their shapes.
      mesh: the mesh; axes that it lacks split nothing.
      heads: (pattern of whole paths, of how many parts a leaf consists along the axes that are
        split); no part is cut.

    Returns:
      One rule a leaf, its whole path escaped.
    """
    specs = dict(trees.named_leaves(trees.match_rules(tree, rules)))
    compiled = [(re.compile(pattern), count) for pattern, count in heads]

    def fitted(path: str, leaf: jax.ShapeDtypeStruct) -> PartitionSpec:
        parts = next((count for p, count in compiled if p.fullmatch(path)), None)
        return PartitionSpec(
            *(
                axis
                if axis in mesh.shape
                and (parts or size) % mesh.shape[axis] == 0 == size % mesh.shape[axis]
                else None
                for axis, size in zip(specs[path], leaf.shape, strict=False)
            )
        )

    return [(re.escape(path), fitted(path, leaf)) for path, leaf in trees.named_leaves(tree)]


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def shard_shapes(
    tree: PyTree, mesh: Mesh | AbstractMesh, rules: Rules = REPLICATED
) -> dict[str, tuple[int, ...]]:
    """What one device holds of every leaf.

    Args:
      tree: leaves with a shape; nothing is computed.
      mesh: a mesh, or an abstract one of devices that are not at hand.
      rules: (pattern, PartitionSpec) pairs.

    Returns:
      path -> shape of one shard.

    Raises:
      MmjaxError: a leaf that does not divide over the mesh.
    """
    specs = dict(trees.named_leaves(trees.match_rules(tree, rules)))
    shapes = {}
    for path, leaf in trees.named_leaves(tree):
        try:
            shapes[path] = NamedSharding(mesh, specs[path]).shard_shape(leaf.shape)
        except ValueError as error:
            raise MmjaxError(
                f"{path} of shape {tuple(leaf.shape)} cannot be split by {specs[path]} over the "
                f"mesh {dict(mesh.shape)}; give other sharding rules, or another mesh"
            ) from error
    return shapes


def place(tree: PyTree, mesh: Mesh, rules: Rules = REPLICATED) -> PyTree:
    """Puts host arrays into their shardings."""
    return jax.device_put(tree, shardings(tree, mesh, rules)) if jax.tree.leaves(tree) else tree


def settle(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts what does not lie on the mesh yet whole on every device of it; the rest stays."""
    whole = replicated(mesh)

    def put(x: jax.Array) -> jax.Array:
        lies = isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh
        return x if lies else jax.device_put(x, whole)

    return jax.tree.map(put, tree)


def own_rows(batch_size: int, mesh: Mesh, process: int | None = None) -> Int[np.ndarray, " own"]:
    """Which rows of a batch the devices of one process hold.

    They follow from where the devices stand along the mesh's axis `data`, not from the process's
    number: processes that share one copy of a model hold the same rows.

    Args:
      batch_size: rows of the batch over all processes, a multiple of the axis's size.
      mesh: any order of devices.
      process: its number; None is this one.

    Returns:
      Numbers of rows, ascending.
    """
    process = jax.process_index() if process is None else process
    owned = np.array([device.process_index == process for device in mesh.devices.flat])
    places = np.nonzero(owned.reshape(mesh.devices.shape))[mesh.axis_names.index("data")]
    share = batch_size // mesh.shape["data"]
    return (np.unique(places)[:, None] * share + np.arange(share)).ravel()


def place_batch(
    batch: Mapping[str, PyTree], mesh: Mesh, batch_size: int | None = None
) -> dict[str, PyTree]:
    """Makes global arrays, split over `data` on the first axis.

    Args:
      batch: the whole batch, the same in every process; with `batch_size` this process's own rows
        of it alone, as `own_rows` numbers them. Leaves whose rows several others share (pictures)
        may have fewer, in the same shares.
      mesh: where the arrays will lie.
      batch_size: rows of the whole batch where `batch` holds but a part of it.

    Returns:
      The same tree of arrays that are whole over all processes.

    Raises:
      MmjaxError: more rows than are this process's own.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    if batch_size is None:
        return jax.tree.map(
            lambda x: _from_rows(x, np.arange(len(x)), len(x), sharding), dict(batch)
        )
    own = len(own_rows(batch_size, mesh))

    def put(x: np.ndarray) -> jax.Array:
        if len(x) > own:
            raise MmjaxError(
                f"{len(x)} rows of a batch of {batch_size} were given to a process that holds "
                f"{own} of them; give its own rows alone, or the whole batch and no batch size"
            )
        size = len(x) * batch_size // own
        return _from_rows(x, own_rows(size, mesh), size, sharding)

    return jax.tree.map(put, dict(batch))


def _from_rows(
    x: np.ndarray, rows: Int[np.ndarray, " own"], size: int, sharding: NamedSharding
) -> jax.Array:
    """A global array of `size` rows, of which these are at hand, in ascending order."""

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # a batch is split, and has rows
        start, stop, _ = index[0].indices(size)
        first = int(np.searchsorted(rows, start))
        return x[first : first + stop - start]

    return jax.make_array_from_callback((size, *x.shape[1:]), sharding, shard)


def to_host(tree: PyTree) -> PyTree:
    """Copies of all leaves on the host, the same in every process.

    Every process has to ask: what is split over processes is gathered by all of them.
    """

    def copy(x: Any) -> np.ndarray:
        split = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True) if split else x)

    return jax.tree.map(copy, tree)


def check_batch(batch_size: int, mesh: Mesh, name: str = "train.batch_size") -> None:
    """Refuses a global batch that the data axis cannot share out evenly.

    Args:
      batch_size: rows of all processes together.
      mesh: what they are split over.
      name: of the setting that says so.

    Raises:
      MmjaxError: it does not divide.
    """
    parts = mesh.shape["data"]
    if batch_size % parts:
        raise MmjaxError(
            f"batch size {batch_size} does not divide over {parts} data shards; choose a multiple "
            f"of {parts} for --{setting(name)}"
        )
