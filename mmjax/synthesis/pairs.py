"""Images with captions as records: tables, JSON lines, tensorflow-datasets and tar shards."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.data import packed
from mmjax.data.files import name_of, read_jsonl, text_of
from mmjax.data.markers import Cues
from mmjax.data.own import FORMS, TFDS, is_own, is_tar, own_rows
from mmjax.data.rows import COLUMNS, Columns, read_csv
from mmjax.data.turn_records import Message, Record, images_of
from mmjax.errors import DataError
from mmjax.synthesis.rows import checked, meta_of

CUES = Cues()


def read_pairs(
    source: str,
    images: str = "",
    cues: Cues = CUES,
    columns: Columns = COLUMNS,
    into: Path | None = None,
    check_images: bool = False,
) -> Iterator[Record]:
    """Yields caption records, none of which is kept.

    Args:
      source: `FILE.csv` with a header, `FILE.jsonl` with an object a line,
        `tfds:NAME[/CONFIG][:SPLIT]` (or a data set's folder in place of the name; the split is
        `train`), or `FILE.tar`, also as a pattern of shards such as `data/{000..041}.tar` or
        `data/*.tar`, which hold KEY.jpg, .png or .webp beside KEY.txt or KEY.json; or another form
        of `mmjax.data.own`: `FILE.tsv`, `FILE.parquet`, `hf:ORG/NAME`, `folder:DIR`.
      images: folder that paths in a .csv or .jsonl file start from; "" for the file's own.
      cues: ask for the caption.
      columns: how the source calls images, captions and ids; other columns go to `meta`.
      into: folder that images of tfds and tar are written to.
      check_images: whether every path must lead to a file.

    Returns:
      Records; without an id of its own a row is called by its image's name, one of tfds by its
      number, a sample of a tar by its key. Captions stay as they are.

    Raises:
      DataError: a source that is none; by file and row: what cannot be read, no image, an empty
        caption, an id that stands twice.
    """
    if source.startswith(TFDS):
        rows, folder = packed.read_tfds(source, columns, _needed(source, into)), ""
    elif is_tar(source):
        rows, folder = packed.read_tar(source, columns, _needed(source, into)), ""
    elif source.endswith((".csv", ".jsonl")):
        path = Path(source)
        rows = (
            read_jsonl(path)
            if path.suffix == ".jsonl"
            else read_csv(path, (columns.image, columns.caption))
        )
        folder = images or str(path.parent)
    elif is_own(source):
        rows, folder = own_rows(source), ""
    else:
        raise DataError(f"{source!r} is no source of images with captions; expected {FORMS}")
    records = ((place, _record(place, row, columns, cues)) for place, row in rows)
    return checked(source, records, folder, check_images)


def caption_record(
    name: str, images: tuple[str, ...], caption: str, cues: Cues, meta: Mapping[str, Any]
) -> Record:
    """A record whose only answer is the caption; who trains on it as it is learns that."""
    turns = Message("user", cues.caption), Message("assistant", caption, loss=True)
    return Record(name, images, turns, meta)


def _needed(source: str, into: Path | None) -> Path:
    if into is None:
        raise DataError(f"{source} holds its images itself; name a folder for them")
    return into


def _record(place: str, row: Mapping[str, Any], columns: Columns, cues: Cues) -> Record:
    images = images_of(place, row.get(columns.image))
    if not images:
        raise DataError(f"{place}: names no image under {columns.image!r}")
    text_of(place, row, columns.caption)
    name = name_of(place, row, columns.id, images[0])
    meta = meta_of(row, columns.image, columns.caption, columns.id)
    return caption_record(name, images, row[columns.caption], cues, meta)
