"""Work in batches that is shared by processes, can be killed at any moment, and ends the same.

Batches are planned over all items, whoever works on them, so that every item is computed beside the
same others: neither the number of shards nor a kill changes a bit of what comes out.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from mmjax.data.turn_records import Record, as_line
from mmjax.errors import MmjaxError
from mmjax.progress import track
from mmjax.runs import lock
from mmjax.synthesis.lines import append_lines, drop_torn, read_placed, write_lines

_LINES, _CARRIED = "lines.jsonl", "carried-of-earlier"


@dataclass(frozen=True)
class Failure:
    """An item that could not be done.

    Attributes:
      error: one sentence.
      tries: how often it was tried.
    """

    error: str
    tries: int = 1


Outcome: TypeAlias = "Mapping[str, Any] | Failure"


def plan_batches(sizes: Int[np.ndarray, " n"], batch_size: int) -> list[list[int]]:
    """Batches of items of about one size, the largest first.

    Args:
      sizes: of the items, such as the lengths of their prompts.
      batch_size: items a batch; the last one may have fewer.

    Returns:
      Numbers of items; each stands in one batch.
    """
    order = np.argsort(-sizes, kind="stable").tolist()
    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]


class Parts:
    """What is known of the items of a step, in one file for each shard that worked on it."""

    def __init__(self, folder: Path, total: int, shard: int = 0, shards: int = 1) -> None:
        """Nothing is read or written yet.

        Args:
          folder: of the step; shards write into folders of their own within it.
          total: items.
          shard: which share is this process's own, from 0.
          shards: of how many.

        Raises:
          MmjaxError: a share that is none.
        """
        if not 0 <= shard < shards:
            raise MmjaxError(f"shard {shard} of {shards}; expected one from 0 to {shards - 1}")
        self._folder, self._total, self._shard, self._shards = folder, total, shard, shards

    def work(
        self,
        batches: Sequence[Sequence[int]],
        do: Callable[[Sequence[int]], Sequence[Outcome]],
        description: str,
        retry_failed: bool = False,
    ) -> None:
        """Does this shard's batches, but for those that are done.

        A batch of which something is missing is computed whole, and what was missing is written.

        Args:
          batches: of all shards; every item in one of them.
          do: numbers of items -> an outcome for each.
          description: for the progress bar.
          retry_failed: whether items that failed before count as not done.

        Raises:
          MmjaxError: another process works on this shard; what was written cannot be read.
        """
        own = self._folder / f"{self._shard}-of-{self._shards}"
        with lock.hold(own):
            path = own / _LINES
            drop_torn(path)
            done, failed = self._known()
            missing = ~(done | (failed & (not retry_failed)))
            mine = [b for b in batches[self._shard :: self._shards] if missing[list(b)].any()]
            for batch in track(mine, description, len(mine)):
                outcomes = zip(batch, do(batch), strict=True)
                append_lines(
                    path, [_line(row, outcome) for row, outcome in outcomes if missing[row]]
                )

    def carry(self, known: Callable[[], Iterable[tuple[int, Outcome]]]) -> None:
        """Takes over what an earlier run found of the same items, before any shard has begun.

        Args:
          known: (item, outcome) pairs; called where nothing is written or carried yet.
        """
        place = self._folder / _CARRIED
        if not self._files():
            place.mkdir(parents=True, exist_ok=True)
            write_lines(place / _LINES, (_line(row, outcome) for row, outcome in known()))

    def left(self) -> int:
        """Items that no shard has done yet; those that failed count as done."""
        done, failed = self._known()
        return int((~(done | failed)).sum())

    def failed(self) -> int:
        """Items that failed in every try so far."""
        return int(self._known()[1].sum())

    def merged(self) -> Iterator[tuple[int, Outcome]]:
        """Yields (item, outcome) in the order of the items, of all shards.

        Raises:
          MmjaxError: an item is missing; what was written cannot be read.
        """
        files = self._files()
        which, where = np.full(self._total, -1), np.zeros(self._total, np.int64)
        done = np.zeros(self._total, bool)
        for number, path in enumerate(files):
            for offset, row, content in _lines(path):
                # The latest line of an item counts, but for a failure behind a success.
                if row < self._total and not (done[row] and "failed" in content):
                    which[row], where[row] = number, offset
                    done[row] = "failed" not in content
        if (which < 0).any():
            raise MmjaxError(
                f"{self._folder} lacks {int((which < 0).sum())} of {self._total} items; the same "
                "command goes on with them"
            )
        opened = [path.open("rb") for path in files]
        try:
            for row in range(self._total):
                file = opened[which[row]]
                file.seek(int(where[row]))
                content = json.loads(file.readline())
                if "failed" in content:
                    yield row, Failure(content["failed"], content["tries"])
                else:
                    yield row, content["found"]
        finally:
            for file in opened:
                file.close()

    def _known(self) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """(items that are done, items that failed), of all shards."""
        done, failed = np.zeros(self._total, bool), np.zeros(self._total, bool)
        for path in self._files():
            for _, row, content in _lines(path):
                if row < self._total:
                    (failed if "failed" in content else done)[row] = True
        return done, failed & ~done

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"*-of-*/{_LINES}"))


def _line(row: int, outcome: Outcome) -> str:
    if isinstance(outcome, Failure):
        return as_line({"row": row, "failed": outcome.error, "tries": outcome.tries})
    return as_line({"row": row, "found": dict(outcome)})


def _lines(path: Path) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Yields (offset, item, content) of whole lines; another process may be writing the last."""
    with path.open("rb") as file:
        offset = 0
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                content = json.loads(line)
                row = int(content["row"])
            except (ValueError, KeyError, TypeError) as error:
                raise MmjaxError(
                    f"{path} is damaged at byte {offset}; remove it, and the same command makes it "
                    "again"
                ) from error
            yield offset, row, content
            offset += len(line)


def outcomes_in(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yields what `Parts` found in a folder, in any order; items that failed are left out."""
    for path in sorted(folder.glob(f"*-of-*/{_LINES}")):
        for _, _, content in _lines(path):
            if "found" in content:
                yield content["found"]


class Rows:
    """The rows of a JSON-lines file by number, of which only the places are in memory."""

    def __init__(self, path: Path) -> None:
        """Reads the file through once.

        Args:
          path: JSON lines; every line is checked while it is read.

        Raises:
          DataError: a row that is no JSON object.
        """
        self._path = path
        places = [place for place, _, _ in read_placed(path)]
        self._places = np.asarray(places, np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> dict[str, Any]:
        with self._path.open("rb") as file:
            file.seek(int(self._places[row]))
            return json.loads(file.readline().removeprefix(b"\xef\xbb\xbf"))

    def record(self, row: int) -> Record:
        """A row that is a record.

        Raises:
          DataError: by file and row, if it is none.
        """
        return Record.of_object(f"{self._path}, row {row + 1}", self[row])
