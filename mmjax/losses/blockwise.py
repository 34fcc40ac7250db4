"""Sums over the rows and columns of a matrix of logits that is never whole in memory.

Both towers are walked tile by tile. A tile updates the statistics of its rows and of its columns
from one matrix product; the backward pass makes the tile again. On a mesh every device keeps its
rows while the columns travel round a ring, together with their statistics (forward) and their
gradients (backward), so that after one round everything is home and no tower is ever gathered.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from mmjax.losses.ring import AXIS, send

LOWEST = -1e30  # stands for log 0 wherever -inf would make NaN

State = Any  # arrays over the rows, or columns, that one statistic accumulates
Pairs = Literal["all", "positives", "negatives"]


class Marks(NamedTuple):
    """What decides which tiles' entries count; of every row, and of every column.

    Attributes:
      valid: False takes part in nothing.
      ids: equal ids are positives.
      self: equal ones are one and the same example, which is never its own partner; None where
        rows and columns are different things.
    """

    valid: Bool[Array, " b"]
    ids: Int[Array, " b"]
    self: Int[Array, " b"] | None = None


def _chosen(over: Pairs, rows: Marks, columns: Marks) -> Bool[Array, "n m"]:
    chosen = rows.valid[:, None] & columns.valid[None, :]
    if over != "all":
        same = rows.ids[:, None] == columns.ids[None, :]
        chosen &= same if over == "positives" else ~same
    if rows.self is not None and columns.self is not None:
        chosen &= rows.self[:, None] != columns.self[None, :]
    return chosen


@dataclass(frozen=True)
class LogSumExp:
    """log sum exp(power * logit) over some pairs; LOWEST where there is none."""

    over: Pairs
    power: float = 1.0

    def start(self, like: Float[Array, "*n"]) -> State:
        """The state before the first tile: running maximum, and sum relative to it."""
        return jnp.full_like(like, LOWEST), jnp.zeros_like(like)

    def add(
        self, state: State, logits: Float[Array, "n m"], chosen: Bool[Array, "n m"], axis: int
    ) -> State:
        """The state after one more tile, of which `axis` is summed."""
        highest, total = state
        values = jnp.where(chosen, self.power * logits, -jnp.inf)
        new = jnp.maximum(highest, jnp.max(values, axis))
        tile = jnp.sum(jnp.exp(values - jnp.expand_dims(new, axis)), axis)
        return new, total * jnp.exp(highest - new) + tile

    def merge(self, one: State, other: State) -> State:
        """The state after the tiles of both."""
        highest = jnp.maximum(one[0], other[0])
        total, more = (total * jnp.exp(of - highest) for of, total in (one, other))
        return highest, total + more

    def finish(self, state: State) -> Float[Array, "*n"]:
        """The statistic."""
        highest, total = state
        return jnp.where(total > 0, highest + jnp.log(jnp.where(total > 0, total, 1.0)), LOWEST)

    def slope(
        self, logits: Float[Array, "n m"], statistic: Float[Array, "#n #m"]
    ) -> Float[Array, "n m"]:
        """The statistic's derivative by every chosen logit."""
        return self.power * jnp.exp(self.power * logits - statistic)


@dataclass(frozen=True)
class Sum:
    """The sum of a function of each logit over some pairs; `of` works elementwise."""

    over: Pairs
    of: Callable[[Array], Array]

    def start(self, like: Float[Array, "*n"]) -> State:
        """The state before the first tile."""
        return jnp.zeros_like(like)

    def add(
        self, state: State, logits: Float[Array, "n m"], chosen: Bool[Array, "n m"], axis: int
    ) -> State:
        """The state after one more tile, of which `axis` is summed."""
        return state + jnp.sum(jnp.where(chosen, self.of(logits), 0.0), axis)

    def merge(self, one: State, other: State) -> State:
        """The state after the tiles of both."""
        return one + other

    def finish(self, state: State) -> Float[Array, "*n"]:
        """The statistic."""
        return state

    def slope(
        self, logits: Float[Array, "n m"], statistic: Float[Array, "#n #m"]
    ) -> Float[Array, "n m"]:
        """The statistic's derivative by every chosen logit."""
        return jax.jvp(self.of, (logits,), (jnp.ones_like(logits),))[1]


Statistic = LogSumExp | Sum
Scalars = tuple[Float[Array, ""], Float[Array, ""]]  # scale and bias of the logits
Totals = tuple[Float[Array, " b"], ...]  # one vector a statistic


@dataclass(frozen=True)
class Walk:
    """What is computed, and how the matrix is walked.

    Attributes:
      statistics: of every row and of every column.
      block: rows of a tile; its columns are all that a device holds.
      mesh: the ring goes over its data axis; None for one device.
    """

    statistics: tuple[Statistic, ...]
    block: int
    mesh: Mesh | None = None

    @property
    def hops(self) -> int:
        """Devices on the ring."""
        return 1 if self.mesh is None else self.mesh.shape[AXIS]

    def shard(self, function: Callable[..., Any], out_specs: Any) -> Callable[..., Any]:
        """Runs (scalars, *arrays) -> outputs on every device's rows and columns."""
        if self.hops == 1:
            return function

        def on_mesh(scalars: Any, *sharded: Any) -> Any:
            return jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=(PartitionSpec(), *(PartitionSpec(AXIS) for _ in sharded)),
                out_specs=out_specs,
                check_vma=False,  # both directions are written out: nothing is derived through it
            )(scalars, *sharded)

        return on_mesh

    def round(
        self,
        step: Callable[[Any, Any], tuple[Any, Any]],
        merge: Callable[[Any, Any], Any],
        home: Any,
        columns: Any,
        start: Any,
    ) -> tuple[Any, Any]:
        """Takes all columns past these rows, wherever they are.

        What devices find of columns follows those a hop behind, so that nothing that is sent waits
        for a tile, or a tile for it: a TPU sends both beside its matrix products.

        Args:
          step: (home, columns) -> (home, what this device finds of these columns).
          merge: what two devices found of the same columns -> one of it.
          home: what is kept of the rows.
          columns: this device's own.
          start: nothing found yet.

        Returns:
          (home, what all devices found of this device's columns).
        """
        if self.mesh is None or self.hops == 1:
            return step(home, columns)
        onward = functools.partial(send, mesh=self.mesh)

        def hop(carry: Any, _: None) -> tuple[Any, None]:
            home, columns, found = carry
            following, before = onward((columns, found))
            home, own = step(home, columns)
            return (home, following, merge(before, own)), None

        (home, _, found), _ = lax.scan(hop, (home, columns, start), length=self.hops)
        return home, onward(found)

    def split(self, tree: Any) -> Any:
        """Splits the first axis into blocks of rows, the last one filled with zeros (not valid)."""

        def one(x: Array) -> Array:
            block = min(self.block, len(x))
            count = -(-len(x) // block)
            fill = [(0, count * block - len(x))] + [(0, 0)] * (x.ndim - 1)
            return jnp.pad(x, fill).reshape(count, block, *x.shape[1:])

        return jax.tree.map(one, tree)

    def join(self, blocks: Any, rows: int) -> Any:
        """Undoes `split`."""
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rows], blocks)


def _dot(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    # f32 factors stay f32 on accelerators too, which would round them by default.
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


class MarkedVectors(NamedTuple):
    """Vectors of the rows or of the columns, and their marks."""

    vectors: Float[Array, "b d"]
    marks: Marks


def _start(walk: Walk, shape: tuple[int, ...]) -> tuple[State, ...]:
    zeros = jnp.zeros(shape, jnp.float32)
    return tuple(statistic.start(zeros) for statistic in walk.statistics)


def _finish(walk: Walk, states: tuple[State, ...]) -> Totals:
    return tuple(s.finish(state) for s, state in zip(walk.statistics, states, strict=True))


def _forward(
    walk: Walk, scalars: Scalars, towers: tuple[MarkedVectors, MarkedVectors]
) -> tuple[Totals, Totals]:
    """Statistics of this device's rows and columns."""
    scale, bias = scalars
    rows, columns = towers
    blocks = walk.split(rows)

    def tile(columns: MarkedVectors, column_states: Any, block: Any) -> tuple[Any, Any]:
        rows, row_states = block
        logits = scale * _dot(rows.vectors, columns.vectors.T) + bias
        new_rows, new_columns = [], []
        for s, by_row, by_column in zip(walk.statistics, row_states, column_states, strict=True):
            chosen = _chosen(s.over, rows.marks, columns.marks)
            new_rows.append(s.add(by_row, logits, chosen, axis=1))
            new_columns.append(s.add(by_column, logits, chosen, axis=0))
        return tuple(new_columns), tuple(new_rows)

    def step(row_states: Any, columns: MarkedVectors) -> tuple[Any, Any]:
        states, row_states = lax.scan(functools.partial(tile, columns), start, (blocks, row_states))
        return row_states, states

    def merge(one: Any, other: Any) -> tuple[State, ...]:
        three = zip(walk.statistics, one, other, strict=True)
        return tuple(statistic.merge(*states) for statistic, *states in three)

    home = _start(walk, blocks.vectors.shape[:2])
    start = _start(walk, columns.vectors.shape[:1])
    row_states, column_states = walk.round(step, merge, home, columns, start)
    row_states = walk.join(row_states, len(rows.vectors))
    return _finish(walk, row_states), _finish(walk, column_states)


def _backward(
    walk: Walk,
    scalars: Scalars,
    towers: tuple[MarkedVectors, MarkedVectors],
    totals: tuple[Totals, Totals],
    cotangents: tuple[Totals, Totals],
) -> tuple[Scalars, Float[Array, "n d"], Float[Array, "m d"]]:
    """Gradients by the scalars, and by this device's rows and columns."""
    scale, bias = scalars
    rows, columns = towers
    blocks, row_totals, row_cotangents = walk.split((rows, totals[0], cotangents[0]))

    def tile(columns: Any, by_columns: Array, block: Any) -> tuple[Array, Any]:
        (rows, row_totals, row_cotangents), (by_rows, by_bias) = block
        columns, column_totals, column_cotangents = columns
        logits = scale * _dot(rows.vectors, columns.vectors.T) + bias
        by_logits = jnp.zeros_like(logits)
        for k, s in enumerate(walk.statistics):
            by_row = s.slope(logits, row_totals[k][:, None]) * row_cotangents[k][:, None]
            by_column = s.slope(logits, column_totals[k][None]) * column_cotangents[k][None]
            chosen = _chosen(s.over, rows.marks, columns.marks)
            by_logits += jnp.where(chosen, by_row + by_column, 0.0)
        factor = by_logits.astype(rows.vectors.dtype)
        by_rows += _dot(factor, columns.vectors)
        by_columns += _dot(factor.T, rows.vectors)
        return by_columns, (by_rows, by_bias + jnp.sum(by_logits, axis=1))

    def step(by_rows: Any, columns: Any) -> tuple[Any, Array]:
        by_columns, by_rows = lax.scan(
            functools.partial(tile, columns),
            start,
            ((blocks, row_totals, row_cotangents), by_rows),
        )
        return by_rows, by_columns

    zeros = jnp.zeros(blocks.vectors.shape, jnp.float32)
    start = jnp.zeros(columns.vectors.shape, jnp.float32)
    away = columns, totals[1], cotangents[1]
    home = zeros, zeros[..., 0]
    by_rows, by_columns = walk.round(step, jnp.add, home, away, start)
    by_rows, by_bias = walk.join(by_rows, len(rows.vectors))
    by_scalars = jnp.sum(by_rows * rows.vectors), jnp.sum(by_bias)
    if walk.hops > 1:
        by_scalars = lax.psum(by_scalars, AXIS)
    return by_scalars, scale * by_rows, scale * by_columns


def _both(
    walk: Walk, scalars: Scalars, rows: MarkedVectors, columns: MarkedVectors
) -> tuple[Totals, Totals]:
    forward = walk.shard(functools.partial(_forward, walk), PartitionSpec(AXIS))
    return forward(scalars, (rows, columns))


_statistics = jax.custom_vjp(_both, nondiff_argnums=(0,))


def statistics(
    walk: Walk, scalars: Scalars, rows: MarkedVectors, columns: MarkedVectors
) -> tuple[Totals, Totals]:
    """Statistics of the rows and of the columns of `scale * rows @ columns.T + bias`.

    Args:
      walk: which statistics; tile and mesh. Its data axis must divide the number of vectors.
      scalars: scale and bias, f32.
      rows: vectors [b d] in f32 or bf16 (summed in f32), and their marks.
      columns: the same for the columns.

    Returns:
      (one f32 [b] a statistic for the rows, the same for the columns). Gradients go to the scalars
      and the vectors. Between the passes only the inputs and the results are kept.

    Source: Inf-CL (Cheng et al., 2024) for the tiles and the ring; here both directions share one
      product of matrices, and gradients come from any function of the statistics.
    """
    return _statistics(walk, scalars, rows, columns)


def _statistics_fwd(
    walk: Walk, scalars: Scalars, rows: MarkedVectors, columns: MarkedVectors
) -> tuple[tuple[Totals, Totals], Any]:
    totals = _both(walk, scalars, rows, columns)
    return totals, (scalars, rows, columns, totals)


def _statistics_bwd(walk: Walk, kept: Any, cotangents: tuple[Totals, Totals]) -> Any:
    scalars, rows, columns, totals = kept
    out_specs = (PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(AXIS))
    backward = walk.shard(functools.partial(_backward, walk), out_specs)
    by_scalars, by_rows, by_columns = backward(scalars, (rows, columns), totals, cotangents)
    return (
        by_scalars,
        MarkedVectors(by_rows.astype(rows.vectors.dtype), _no_gradient(rows.marks)),
        MarkedVectors(by_columns.astype(columns.vectors.dtype), _no_gradient(columns.marks)),
    )


def _no_gradient(marks: Marks) -> Any:
    return jax.tree.map(lambda x: np.zeros(x.shape, jax.dtypes.float0), marks)


_statistics.defvjp(_statistics_fwd, _statistics_bwd)
