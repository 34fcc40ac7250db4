"""Files that a synthesis reads and writes: captions, seed tasks, conversations, records."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmjax.data.files import read_jsonl
from mmjax.data.markers import Cues
from mmjax.data.rows import COLUMNS, Columns
from mmjax.data.turn_records import Record, as_line
from mmjax.errors import DataError, writing
from mmjax.files import open_atomic
from mmjax.progress import track
from mmjax.synthesis.dialogues import llava_row, read_dialogues, sharegpt_row
from mmjax.synthesis.pairs import CUES, read_pairs
from mmjax.synthesis.rows import checked
from mmjax.synthesis.seeds import join_seeds, read_seeds

# What a file that is written may be called before its colon.
WRITTEN: Mapping[str, Callable[[Record, str], dict[str, Any]]] = {
    "records": lambda record, root: record.as_object(),
    "llava": llava_row,
    "sharegpt": sharegpt_row,
}


@dataclass(frozen=True)
class Converted:
    """What `convert` did.

    Attributes:
      records: that were written.
      incomplete: seed tasks that were left out, by why.
    """

    records: int
    incomplete: Mapping[str, int] = field(default_factory=dict[str, int])


def iter_records(
    source: str,
    images: str = "",
    cues: Cues = CUES,
    columns: Columns = COLUMNS,
    into: Path | None = None,
    check_images: bool = False,
    incomplete: Counter[str] | None = None,
) -> Iterator[Record]:
    """Yields the records of any source.

    Args:
      source: `records:FILE`, `llava:FILE`, `sharegpt:FILE`, `seeds:FILE` or
        `seeds:TASKS,CAPTIONS,ANSWERS`, or what `read_pairs` reads.
      images: folder that paths start from.
      cues: ask for captions.
      columns: as of `read_pairs`.
      into: folder for images of sources that hold them.
      check_images: whether every path must lead to a file.
      incomplete: gets the number of seed tasks that are left out, by why.

    Raises:
      DataError: what cannot be read, by file and row.
    """
    kind, _, place = source.partition(":")
    lost = Counter[str]() if incomplete is None else incomplete
    if kind == "records":
        rows = ((where, Record.of_object(where, row)) for where, row in read_jsonl(Path(place)))
        return checked(place, rows, images, check_images)
    if kind in ("llava", "sharegpt"):
        return read_dialogues(Path(place), images, check_images)
    if kind == "seeds":
        match [Path(file) for file in place.split(",")]:
            case [path]:
                seeds, place = read_seeds(path, lost, cues), str(path)
            case [path, captions, answers]:
                seeds = join_seeds(path, captions, answers, lost, cues)
                place = f"{path} joined with the others"
            case _:
                raise DataError(f"{source!r} is no one file, nor three with commas between them")
        return checked(place, seeds, images or str(path.parent), check_images)
    return read_pairs(source, images, cues, columns, into, check_images)


def write(target: str, records: Iterable[Record], root: str = "") -> int:
    """Writes records, one at a time, to a file that is whole or not there.

    Ids, turns and their loss, images and `meta` come back by `iter_records` from every form.

    Args:
      target: `records:FILE.jsonl`, `llava:FILE` or `sharegpt:FILE`; of these, .jsonl files have a
        row a line, others are a list.
      records: at least one.
      root: folder that LLaVA's and ShareGPT's paths of images are written relative to; name it as
        `images` when they are read.

    Returns:
      The number of records.

    Raises:
      DataError: an unknown form, no records, one without turns.
      MmjaxError: the file cannot be written.
    """
    kind, _, place = target.partition(":")
    path = Path(place)
    if kind not in WRITTEN or not place or (kind == "records" and path.suffix != ".jsonl"):
        raise DataError(
            f"{target!r} cannot be written; expected records:FILE.jsonl, llava:FILE or "
            "sharegpt:FILE"
        )
    first, between, last = ("", "", "\n") if path.suffix == ".jsonl" else ("[\n", ",", "\n]\n")
    count = 0
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path) as put:
        for record in records:
            line = as_line(WRITTEN[kind](record, root)).rstrip("\n")
            put(f"{between}\n{line}" if count else f"{first}{line}")
            count += 1
        if not count:
            raise DataError(f"{target}: there are no records to write")
        put(last)
    return count


def convert(
    source: str,
    target: str,
    images: str = "",
    root: str = "",
    cues: Cues = CUES,
    columns: Columns = COLUMNS,
    into: Path | None = None,
    check_images: bool = False,
) -> Converted:
    """Writes any source in any form that is written.

    Args:
      source: as of `iter_records`.
      target: as of `write`.
      images: folder that the source's paths start from.
      root: folder that the target's paths are relative to.
      cues: ask for captions.
      columns: as of `read_pairs`.
      into: folder for images of sources that hold them.
      check_images: whether every path must lead to a file.

    Returns:
      What was written.

    Raises:
      DataError: as of `iter_records` and `write`; nothing is written then.
    """
    incomplete = Counter[str]()
    records = iter_records(source, images, cues, columns, into, check_images, incomplete)
    count = write(target, track(records, f"converting {source}"), root)
    return Converted(count, +incomplete)
