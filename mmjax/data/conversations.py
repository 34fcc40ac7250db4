"""Conversations about pictures as token arrays, in buckets of length, batch by batch."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grain
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from mmjax.data.epochs import LENGTHS, divide, walk
from mmjax.data.layout import Encoded
from mmjax.data.picture_table import PictureTable
from mmjax.data.pipeline import Batches
from mmjax.data.tables import InputTable
from mmjax.encoders.language_model import WORD
from mmjax.encoders.padding import bucket
from mmjax.sharding import own_rows

_ANSWERS = tuple(1 << i for i in range(14))


def collate(
    rows: Sequence[Encoded | None],
    length: int,
    answers: int,
    first: bool,
    positions: bool = False,
) -> dict[str, np.ndarray]:
    """Pads rows to one shape; a None becomes a row that counts for nothing.

    Args:
      rows: b rows.
      length: columns.
      answers: answer tokens a row.
      first: whether column 0 holds a modality token, which no other column may see.
      positions: whether the rows have positions of their own.

    Returns:
      `input_ids`, `image_slot`, `attention_mask` int32 [b, length]; `columns` (before each answer
      token) and `labels` int32 [b, answers], `weights` float32 [b, answers]; `modality` int32 [b];
      with `positions`, that: int32 [b, length, 3].
    """
    b = len(rows)
    out = {
        "input_ids": np.zeros((b, length), np.int32),
        "image_slot": np.full((b, length), WORD, np.int32),
        "attention_mask": np.zeros((b, length), np.int32),
        "columns": np.zeros((b, answers), np.int32),
        "labels": np.zeros((b, answers), np.int32),
        "weights": np.zeros((b, answers), np.float32),
        "modality": np.zeros(b, np.int32),
    }
    if positions:
        out["positions"] = np.zeros((b, length, 3), np.int32)
    for i, row in enumerate(rows):
        if row is None:
            continue
        n, a = len(row.ids), len(row.answers)
        out["input_ids"][i, :n], out["image_slot"][i, :n] = row.ids, row.slots
        out["attention_mask"][i, int(first) : n] = 1
        out["columns"][i, :a] = row.answers - 1
        out["labels"][i, :a] = row.ids[row.answers]
        out["weights"][i, :a] = 1
        out["modality"][i] = row.modality
        if positions:
            assert row.positions is not None
            out["positions"][i, :n] = row.positions
    return out


@dataclass(frozen=True)
class Conversations:
    """Encoded conversations that batches are drawn from.

    A batch is of one modality, so that text alone never pays for a picture, and of rows of about
    one length; `per_picture` rows in a row share a picture, which is encoded once for all of them.

    Attributes:
      rows: encoded conversations.
      images: each one's row of `table`; -1 for text alone.
      table: inputs of the vision transformer, or what it said of them.
      per_picture: rows that share a picture; a picture with fewer questions is filled up with rows
        that count for nothing.
      first: whether column 0 holds a modality token.
    """

    rows: Sequence[Encoded]
    images: Int[np.ndarray, " n"]
    table: InputTable
    per_picture: int
    first: bool

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def buckets(self) -> Mapping[tuple[int, int, int], Int[np.ndarray, " k"]]:
        """(columns, answer tokens, picture's size or 0) -> conversations, neighbours together."""
        by_shape: dict[tuple[int, int, int], list[int]] = {}
        for i, size in enumerate(self._sizes):
            by_shape.setdefault(size, []).append(i)
        return {shape: np.asarray(by_shape[shape]) for shape in sorted(by_shape, key=walk)}

    def plan(self, batch_size: int, rng: np.random.Generator | None) -> list[list[list[int]]]:
        """One epoch, in which every conversation stands once.

        Conversations are walked through bucket by bucket, so a batch is of one bucket but where
        the walk goes on to the next: there the larger shape holds the rows of both. No epoch has
        more shapes than it has batches, and all of them together no more than there are pairs of a
        number of columns and one of answer tokens, for each size of a picture's inputs.

        Args:
          batch_size: rows a batch, a multiple of `per_picture`.
          rng: shuffles; None keeps the order.

        Returns:
          Batches of groups, a group at most `per_picture` conversations about one picture. For
          pictures and for text alone all batches but one have `batch_size / per_picture` groups;
          which one has fewer, the epoch draws, so that no row weighs more in the end.
        """
        each, batches = self.per_picture, []
        for picture in (False, True):
            heaps: dict[int, list[int]] = {}
            for shape, members in self.buckets.items():
                if bool(shape[2]) == picture:
                    for i in members if rng is None else rng.permutation(members):
                        heaps.setdefault(int(self.images[i]), []).append(int(i))
            groups = [
                heap[at : at + each] for heap in heaps.values() for at in range(0, len(heap), each)
            ]
            if rng is not None:
                groups = [groups[i] for i in rng.permutation(len(groups))]
            # Whole groups first: batches are full but for a few at a bucket's end.
            groups.sort(key=lambda g: (walk(self._shape(g)), -len(g)))
            batches += divide(groups, batch_size // each, rng)
        return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]

    def batch(
        self, groups: Sequence[Sequence[int]], batch_size: int, mesh: Mesh | None = None
    ) -> dict[str, Any]:
        """A batch, or this process's own rows of it: {"text": see `collate`, ["image"]}.

        Args:
          groups: of `plan`.
          batch_size: rows of the whole batch.
          mesh: gives this process's own rows on it alone; None is the whole batch.

        Returns:
          The conversations' columns and, unless they are text alone, their pictures' inputs.
        """
        each, size = self.per_picture, batch_size // self.per_picture
        padded = [*groups, *([[]] * (size - len(groups)))]
        mine = padded if mesh is None else [padded[i] for i in own_rows(size, mesh)]
        first = groups[0][0]
        columns, answers, most = self._shape([i for group in groups for i in group])
        flat = [
            self.rows[group[i]] if i < len(group) else None for group in mine for i in range(each)
        ]
        turned = self.rows[first].positions is not None
        batch: dict[str, Any] = {"text": collate(flat, columns, answers, self.first, turned)}
        # Rows that fill a batch up are of its modality too, whatever they weigh.
        batch["text"]["modality"][:] = self.rows[first].modality
        if self.images[first] >= 0:
            which = [self.images[group[0] if group else first] for group in mine]
            table = self.table
            if isinstance(table, PictureTable):  # as many as other processes' rows have
                table = replace(table, count=most)
            batch["image"] = table.gather(np.asarray(which, np.int64))
        return batch

    @functools.cached_property
    def _sizes(self) -> list[tuple[int, int, int]]:
        """Of each conversation, columns and answer tokens of its bucket, and its picture's size."""
        return [
            (
                bucket(len(row.ids), LENGTHS),
                bucket(len(row.answers), _ANSWERS),
                row.size if picture >= 0 else 0,
            )
            for row, picture in zip(self.rows, self.images.tolist(), strict=True)
        ]

    def _shape(self, rows: Sequence[int]) -> tuple[int, int, int]:
        """Columns, answer tokens and size of a picture that hold some conversations."""
        columns, answers, sizes = zip(*(self._sizes[i] for i in rows), strict=True)
        return max(columns), max(answers), max(sizes)

    def visits(self, steps: int, batch_size: int, seed: int) -> Int[np.ndarray, " n"]:
        """How often each conversation is learned in so many steps of `batches`.

        Args:
          steps: batches that are drawn.
          batch_size: rows a batch.
          seed: as for `batches`.

        Returns:
          int64 [n].
        """
        epochs, rest = divmod(steps, self.steps_per_epoch(batch_size))
        visits = np.full(len(self), epochs)
        for groups in self._epoch(batch_size, seed, epochs)[:rest]:
            visits[[i for group in groups for i in group]] += 1
        return visits

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches of `batch_size` rows in which every conversation stands once."""
        each, size = self.per_picture, batch_size // self.per_picture
        numbers, rows = np.unique(self.images, return_counts=True)
        groups = -(-rows // each)
        shown = numbers >= 0
        return sum(-(-int(groups[of].sum()) // size) for of in (shown, ~shown))

    def _epoch(self, batch_size: int, seed: int, epoch: int) -> list[list[list[int]]]:
        return self.plan(batch_size, np.random.default_rng((seed, epoch)))

    def batches(self, steps: int, batch_size: int, seed: int, mesh: Mesh | None = None) -> Batches:
        """A checkpointable iterator of batches for training, every epoch in another order.

        With a mesh they hold this process's own rows on it alone.
        """
        plan = functools.lru_cache(maxsize=2)(functools.partial(self._epoch, batch_size, seed))
        per_epoch = self.steps_per_epoch(batch_size)

        def make(step: int) -> dict[str, Any]:
            return self.batch(plan(step // per_epoch)[step % per_epoch], batch_size, mesh)

        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        return iter(grain.MapDataset.range(steps).map(make).to_iter_dataset(options))
