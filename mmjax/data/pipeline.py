"""From tables to batches: grain, seekable, the same order on any number of processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grain
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from mmjax.data.tables import InputTable
from mmjax.errors import MmjaxError, setting
from mmjax.sharding import own_rows

Batches: TypeAlias = grain.DatasetIterator[dict[str, Any]]


@dataclass(frozen=True)
class Choices:
    """For every example the table rows that may stand for it; one is drawn at each visit.

    Attributes:
      table: the rows' table.
      rows: candidates end to end.
      offsets: example i owns rows[offsets[i] : offsets[i + 1]]. A row that stands there twice is
        drawn twice as often.
    """

    table: InputTable
    rows: Int[np.ndarray, " total"]
    offsets: Int[np.ndarray, " n_plus_1"]

    @classmethod
    def of(cls, table: InputTable, candidates: list[list[int]]) -> "Choices":
        """Builds it from one list of rows an example."""
        lengths = [len(c) for c in candidates]
        flat = np.asarray([row for c in candidates for row in c], np.int64)
        return cls(table, flat, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def draw(self, examples: Int[np.ndarray, " b"], rng: np.random.Generator) -> np.ndarray:
        """One row for each example, uniformly among its candidates."""
        starts, ends = self.offsets[examples], self.offsets[examples + 1]
        return self.rows[starts + (rng.random(len(examples)) * (ends - starts)).astype(np.int64)]


@dataclass(frozen=True)
class SharedRows:
    """Rows of which any may stand for every example: what belongs to no example of its own.

    Attributes:
      table: the rows' table.
      rows: candidates.
    """

    table: InputTable
    rows: Int[np.ndarray, " total"]

    def draw(self, examples: Int[np.ndarray, " b"], rng: np.random.Generator) -> np.ndarray:
        """One row for each example, uniformly."""
        return rng.choice(self.rows, len(examples))


@dataclass(frozen=True)
class Gather(grain.transforms.RandomMap):
    """Numbers of a global batch's examples -> role -> inputs and rows.

    Attributes:
      roles: what is gathered.
      own: the rows of a batch that are wanted; None is all of them.
    """

    roles: Mapping[str, Choices | SharedRows]
    own: Int[np.ndarray, " own"] | None = None

    # grain's own method has no annotations; its empty body reads as "returns None".
    def random_map(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, element: Any, rng: np.random.Generator
    ) -> dict[str, Any]:
        """Draws candidates role by role, in the order of their names.

        Every process draws for the whole batch, so that their number changes nothing.
        """
        batch = {}
        for name in sorted(self.roles):
            drawn = self.roles[name].draw(element, rng)
            rows = drawn if self.own is None else drawn[self.own]
            batch[name] = {**self.roles[name].table.gather(rows), "row": rows.astype(np.int32)}
        return batch


@dataclass(frozen=True)
class Phase:
    """What is trained on from a step on.

    Attributes:
      start: first step of the phase.
      roles: role -> choices, all of the same number of examples; the first says which.
    """

    start: int
    roles: Mapping[str, Choices | SharedRows]

    def __len__(self) -> int:
        """Number of examples."""
        first = next(iter(self.roles.values()))
        assert isinstance(first, Choices)
        return len(first)


def train_batches(
    phases: Sequence[Phase], steps: int, batch_size: int, seed: int, mesh: Mesh | None = None
) -> Batches:
    """A checkpointable iterator of batches.

    Every epoch is shuffled anew; an example stands at most once in a batch (no pair is another
    pair's false negative), and the last, incomplete batch of an epoch is dropped.

    Args:
      phases: what is trained on, in turn.
      steps: batches in all.
      batch_size: global batch size.
      seed: draws order and candidates.
      mesh: gives this process's own rows on it alone; None is whole batches.

    Returns:
      A grain iterator over {role: inputs}; its state is the number of batches drawn.

    Raises:
      MmjaxError: fewer examples than one batch.
    """
    ends = [phase.start for phase in phases[1:]] + [steps]
    own = None if mesh is None else own_rows(batch_size, mesh)
    parts = []
    for number, (phase, end) in enumerate(zip(phases, ends, strict=True)):
        count = len(phase)
        check_enough(batch_size, count)
        dataset = (
            grain.MapDataset.range(count)
            .seed(seed + number)
            .shuffle()
            .batch(batch_size, drop_remainder=True)
            .repeat()
            .random_map(Gather(phase.roles, own))
        )
        parts.append(dataset[: end - phase.start])
    dataset = grain.MapDataset.concatenate(parts)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(dataset.to_iter_dataset(options))


def check_enough(batch_size: int, count: int) -> None:
    """Refuses a batch that the training examples do not fill.

    Raises:
      MmjaxError: fewer examples than one batch.
    """
    if batch_size > count:
        raise MmjaxError(
            f"the batch size {batch_size} is larger than the {count} training examples; "
            f"set --{setting('train.batch_size')} to at most {count}"
        )


def examples(
    phase: Phase, batch_size: int, seed: int, mesh: Mesh | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """A batch for data-dependent initial values.

    Args:
      phase: what is trained on.
      batch_size: global batch size.
      seed: draws the examples.
      mesh: gives this process's own rows on it alone; None is the whole batch.

    Returns:
      role -> inputs.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(phase))[:batch_size]
    own = None if mesh is None else own_rows(batch_size, mesh)
    return Gather(phase.roles, own).random_map(drawn, rng)
