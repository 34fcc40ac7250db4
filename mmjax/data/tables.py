"""Tables of a tower's inputs, one row an item: cached features, or raw texts and pictures.

A pipeline only ever calls `gather(rows)`; whether the rows come from the feature cache or are
tokenised and decoded on the spot is the table's own business.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from mmjax.encoders.batching import Chosen, Items

Rows = Int[np.ndarray, " b"]


@runtime_checkable
class InputTable(Protocol):
    """Rows of a tower's inputs."""

    def __len__(self) -> int: ...

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """The inputs of the asked rows, first axis b, always of the same shape for one b."""
        ...


@dataclass(frozen=True)
class FeatureTable:
    """Cached features in memory, pooled or ragged.

    Attributes:
      values: rows end to end, [total, d].
      offsets: row i is values[offsets[i] : offsets[i + 1]]; one vector a row when `pooled`.
      pooled: whether a row is one vector.
      length: tokens that a ragged row is padded to.
    """

    values: Float[np.ndarray, "total d"]
    offsets: Int[np.ndarray, " n_plus_1"]
    pooled: bool
    length: int = field(init=False)

    def __post_init__(self) -> None:
        """Fixes one padded length for the whole table: one shape, one compilation."""
        longest = 1 if self.pooled else int(np.diff(self.offsets).max(initial=1))
        object.__setattr__(self, "length", -(-longest // 4) * 4)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def width(self) -> int:
        """Size of the feature axis."""
        return self.values.shape[-1]

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """{"features": f32 [b d]}, or {"features": f32 [b l d], "mask": bool [b l]}."""
        if self.pooled:
            return {"features": self.values[rows].astype(np.float32, copy=False)}
        starts, ends = self.offsets[rows], self.offsets[rows + 1]
        positions = starts[:, None] + np.arange(self.length)
        mask = positions < ends[:, None]
        features = self.values[np.where(mask, positions, 0)].astype(np.float32, copy=False)
        features[~mask] = 0
        return {"features": features, "mask": mask}


@dataclass(frozen=True)
class PartialTable:
    """A modality of which some rows are lacking.

    Attributes:
      features: one vector a row, or what an encoder reads in the step; of a row that lacks, any.
      present: which rows are there.
    """

    features: InputTable
    present: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.features)

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """The modality's own, such as "features" f32 [b d], and "present": bool [b]."""
        return {**self.features.gather(rows), "present": self.present[rows]}


@dataclass(frozen=True)
class JoinedTable:
    """Modalities of the same rows, where one of them is encoded in the step.

    Attributes:
      views: modality -> one row an item.
    """

    views: Mapping[str, "View"]

    def __len__(self) -> int:
        return min(map(len, self.views.values()))

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """{"MODALITY/NAME": [b ...]} of all that the modalities' tables give."""
        return {
            f"{modality}/{name}": values
            for modality, view in self.views.items()
            for name, values in view.table.gather(view.rows[rows]).items()
        }


@dataclass(frozen=True)
class RawTable:
    """Items that are preprocessed on every visit: what a step without a feature cache reads.

    Attributes:
      items: texts or pictures.
      preprocess: items -> arrays, first axis the items, always of the same shape for one count.
    """

    items: Items
    preprocess: Callable[[Sequence[Any]], dict[str, np.ndarray]]

    def __len__(self) -> int:
        return len(self.items)

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """Preprocesses the asked rows."""
        return self.preprocess(Chosen(self.items, rows.tolist()))


@dataclass(frozen=True)
class ViewsTable:
    """Pictures in several views each, which are embedded in the step.

    Attributes:
      pictures: of all views.
      views: which rows of `pictures` show an item.
    """

    pictures: InputTable
    views: Int[np.ndarray, "n v"]

    def __len__(self) -> int:
        return len(self.views)

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """What `pictures` gives, with an axis of views: {"pixel_values": f32 [b v h w 3]}."""
        chosen = self.views[rows]
        values = self.pictures.gather(chosen.reshape(-1))
        return {name: x.reshape(*chosen.shape, *x.shape[1:]) for name, x in values.items()}


@dataclass(frozen=True)
class LabelTable:
    """A class a row.

    Attributes:
      labels: of the rows.
    """

    labels: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """{"label": int32 [b]}."""
        return {"label": self.labels[rows].astype(np.int32)}


@dataclass(frozen=True)
class PatchTable:
    """Embeddings beside the patches of the same pictures.

    Attributes:
      embeddings: one vector a row.
      tokens: of pictures.
      picture: which row of `tokens` belongs to a row.
      class_token: whether a picture's first token is its class token.
    """

    embeddings: FeatureTable
    tokens: FeatureTable
    picture: Int[np.ndarray, " n"]
    class_token: bool = True

    def __len__(self) -> int:
        return len(self.embeddings)

    def gather(self, rows: Rows) -> dict[str, np.ndarray]:
        """{"features": f32 [b d], "patches": f32 [b l p], "patch_mask": bool [b l]}."""
        tokens = self.tokens.gather(self.picture[rows])
        mask = tokens["mask"].copy()
        if self.class_token:  # which is no patch
            mask[:, 0] = False
        patches = {"patches": tokens["features"], "patch_mask": mask}
        return {**self.embeddings.gather(rows), **patches}


def concatenate(tables: Sequence[FeatureTable]) -> FeatureTable:
    """Puts the rows of several tables of one width end to end."""
    if len(tables) == 1:
        return tables[0]
    shifts = np.cumsum([0, *(len(t.values) for t in tables)])
    offsets = [t.offsets[:-1] + shift for t, shift in zip(tables, shifts[:-1], strict=True)]
    return FeatureTable(
        np.concatenate([t.values for t in tables]),
        np.concatenate([*offsets, shifts[-1:]]),
        tables[0].pooled,
    )


def table_of(rows: Sequence[Float[np.ndarray, "..."]]) -> FeatureTable:
    """Puts one array an item ([d], or ragged [l_i, d]) into a table."""
    pooled = rows[0].ndim == 1
    stacked = np.stack(rows) if pooled else np.concatenate(rows)
    lengths = np.ones(len(rows), np.int64) if pooled else np.asarray([len(r) for r in rows])
    return FeatureTable(stacked, np.concatenate([[0], np.cumsum(lengths)]), pooled)


@dataclass(frozen=True)
class View:
    """Some rows of a table, in order.

    Attributes:
      table: the rows' table.
      rows: one row an item, or several whose embeddings are averaged.
    """

    table: InputTable
    rows: Int[np.ndarray, " n"] | Int[np.ndarray, "n v"]

    def __len__(self) -> int:
        return len(self.rows)


def empty_view(table: InputTable) -> View:
    """No rows of a table."""
    return View(table, np.zeros(0, np.int64))
