"""Hugging Face's data sets as rows: Parquet files as the hub has them, folders of `save_to_disk`.

The package `datasets` is not needed: both are Arrow's own formats, and what a class is called
stands in the files' metadata.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.checks.foreign import reading
from mmjax.data import packed
from mmjax.data.rows import Rows
from mmjax.errors import DataError

PARQUET = ".parquet"
_WRITTEN = "data-*.arrow"  # by `Dataset.save_to_disk`
_BATCH = 64  # rows that are held at once
# What such data sets call a picture and its caption, beside our own names.
_NAMES = {"img": "image", "text": "caption"}


def arrow_files(folder: Path) -> list[Path]:
    """The files of a data set in a folder, at any depth; none where it is no such folder."""
    return sorted(folder.rglob(f"*{PARQUET}")) or sorted(folder.rglob(_WRITTEN))


def read_arrow(path: Path, into: Path, sides: Mapping[str, str]) -> Rows:
    """Yields the rows of a file, their pictures written to files.

    Args:
      path: a Parquet file, or one of `save_to_disk`.
      into: folder that gets the pictures.
      sides: what a file or a folder of a split may be called -> the split's name in a row.

    Raises:
      DataError: no such file, one that is damaged, or a picture that is not in it.
    """
    named = re.match(r"[A-Za-z]*", path.stem)
    side = sides.get(named[0].lower() if named else "") or sides.get(path.parent.name.lower(), "")
    classes: Mapping[str, list[str]] = {}
    number = 0
    for metadata, batch in _batches(path):
        classes = classes or _classes(metadata)
        for cells in batch:
            number += 1
            place = f"{path}, row {number}"
            row = _named(cells)
            if not isinstance(row.get("id"), str):
                row["id"] = f"{path.parent.name}/{path.stem}-{number:08d}"
            for column, names in classes.items():
                value = row.get(column)
                if isinstance(value, int) and 0 <= value < len(names):
                    row[column] = names[value]
            if row.get("image") is not None:
                row["image"] = _picture(place, path, row["image"], into / f"{number:08d}")
            if isinstance(row.get("label"), str) and not _worded(row):
                row["caption"] = row["label"].replace("_", " ")
            if side:
                row.setdefault("split", side)
            yield place, row


def _batches(path: Path) -> Iterator[tuple[Mapping[bytes, bytes], list[dict[str, Any]]]]:
    """Yields (the file's metadata, some of its rows)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == PARQUET:
        with reading(path, "a Parquet file", DataError), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                yield file.schema_arrow.metadata or {}, batch.to_pylist()
        return
    with reading(path, "a file of Arrow", DataError), pa.ipc.open_stream(path) as stream:
        for batch in stream:
            for start in range(0, batch.num_rows, _BATCH):
                yield stream.schema.metadata or {}, batch.slice(start, _BATCH).to_pylist()


def _named(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Cells under the names of ours; empty ones are left out."""
    there = {name: value for name, value in cells.items() if value is not None and value != ""}
    others = {name: ours for name, ours in _NAMES.items() if ours not in there}
    return {others.get(name, name): value for name, value in there.items()}


def _worded(row: Mapping[str, Any]) -> bool:
    """Whether a row has a text beside its class."""
    others = (value for name, value in row.items() if name not in ("id", "image", "label", "split"))
    return any(isinstance(value, str | list) for value in others)


def _classes(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> the names of its numbers, as `datasets` notes them."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            str(column): [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}  # other programs write such files too


def _picture(place: str, path: Path, image: object, target: Path) -> str:
    """The path of a row's picture: that of the file that is named, or one that is written."""
    content = image.get("bytes") if isinstance(image, dict) else image
    if isinstance(content, bytes) and content:
        return packed.keep_picture(place, content, target)
    name = image.get("path") if isinstance(image, dict) else image
    if not isinstance(name, str) or not name:
        raise DataError(f"{place}: 'image' holds no picture and no path of one")
    return str(path.parent / name)
