"""A user's own data, whatever its form, as rows: lists, tables, tar shards, folders of classes.

  FILE.jsonl       an object a line
  FILE.csv, .tsv   a header, then a row a line; an empty cell is as good as none
  FILE.tar         webdataset's shards, KEY.jpg beside KEY.txt or KEY.json; data/{000..041}.tar
  FILE.parquet     a data set of Hugging Face's hub, `image`, `text` or `caption`, `label`
  hf:ORG/NAME      the same by its name on the hub; hf:ORG/NAME/CONFIG, hf:ORG/NAME@REVISION
  tfds:NAME        tensorflow-datasets, its features `image` and `caption`; tfds:NAME:SPLIT
  folder:DIR       pictures in folders of classes, DIR/CLASS/*.jpg or DIR/SIDE/CLASS/*.jpg; or
                   Hugging Face's image folder, with metadata.csv or metadata.jsonl in DIR; or
                   its data sets, with FILE.parquet or what `save_to_disk` wrote in DIR

A row's parts are called alike in all of them: `image` (or `file_name`), a text under a language's
code (or `caption`), `label`, `family`, `id`, `split`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.assets.cache import cache_dir
from mmjax.checks.foreign import shown_path
from mmjax.data import arrow, hub_sets, packed
from mmjax.data.files import read_jsonl, stamp_of
from mmjax.data.rows import Columns, Rows, Skip, read_csv
from mmjax.errors import DataError, shown
from mmjax.runs.hub import PREFIX

TABLES = {".csv": ",", ".tsv": "\t"}
LISTS = (".jsonl", *TABLES)  # files with a row a line
TARS = (".tar", ".tar.gz", ".tgz")
FOLDER = "folder:"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
TFDS = "tfds:"
FORMS = (
    "FILE.jsonl, FILE.csv, FILE.tsv, FILE.tar, FILE.parquet, hf:ORG/NAME, tfds:NAME or folder:DIR"
)
# What data sets call their sides.
SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_METADATA = ("metadata.jsonl", "metadata.csv")
_LISTS = "keywords_"  # in a table such a cell holds several, with bars between
_TAR = Columns("image", "caption", "id")


def is_own(source: str) -> bool:
    """Whether a source's name is one of these forms."""
    suffix = Path(source).suffix
    ends = suffix in (*LISTS, arrow.PARQUET) or is_tar(source)
    return ends or source.startswith((FOLDER, TFDS, PREFIX))


def is_tar(source: str) -> bool:
    """Whether a source is tar shards."""
    return source.endswith(TARS)


def own_rows(source: str, skip: Skip | None = None) -> Rows:
    """Yields rows, the path of each one's picture as seen from here under `image`.

    Args:
      source: as above.
      skip: is given every fault that concerns one row of a list or table, and the row is passed
        over; None raises the first.

    Raises:
      DataError: a source that is none or cannot be read; by file and row what is no row.
    """
    path = Path(source)
    if source.startswith(FOLDER):
        yield from _of_folder(Path(source.removeprefix(FOLDER)), skip)
    elif source.startswith(TFDS):
        yield from packed.read_tfds(source, _TAR, _unpacked(source, []))
    elif source.startswith(PREFIX):
        yield from _of_arrow(_of_hub(source))
    elif is_tar(source):
        yield from packed.read_tar(source, _TAR, _unpacked(source, packed.shards(source)))
    elif path.suffix == arrow.PARQUET:
        yield from _of_arrow([path])
    elif path.suffix in LISTS:
        yield from _of_file(path, skip)
    else:
        raise DataError(f"{shown(source)} is no source of pictures or texts; expected {FORMS}")


def side_of(place: str, row: Mapping[str, Any]) -> str:
    """The side of a split that a row says it is on; "" where it says none.

    Raises:
      DataError: another word.
    """
    value = row.get("split")
    if value is None or value == "":
        return ""
    side = SIDES.get(value.strip().lower()) if isinstance(value, str) else None
    if side is None:
        raise DataError(f"{place}: 'split' is {shown(value)}; expected 'train', 'val' or 'test'")
    return side


def _of_file(path: Path, skip: Skip | None) -> Rows:
    """Rows of a list or table; pictures' paths start from its folder."""
    if path.suffix == ".jsonl":
        rows = read_jsonl(path, skip)
    else:
        rows = ((p, _cells(r)) for p, r in read_csv(path, (), TABLES[path.suffix], skip))
    for place, row in rows:
        if "image" not in row and "file_name" in row:
            row["image"] = row.pop("file_name")
        if isinstance(row.get("image"), str) and row["image"]:
            row.setdefault("id", row["image"])
            row["image"] = str(path.parent / row["image"])
        yield place, row


def _cells(row: Mapping[str, str]) -> dict[str, Any]:
    """A table's row without its empty cells."""
    return {
        key: [part.strip() for part in cell.split("|")] if key.startswith(_LISTS) else cell
        for key, cell in row.items()
        if cell.strip()
    }


def _of_folder(folder: Path, skip: Skip | None) -> Rows:
    if not folder.is_dir():
        raise DataError(f"{FOLDER}{folder}: there is no such folder")
    listed = next((folder / name for name in _METADATA if (folder / name).is_file()), None)
    if listed is not None:
        yield from _of_file(listed, skip)
        return
    if files := arrow.arrow_files(folder):
        yield from _of_arrow(files)
        return
    sides = {path: SIDES[path.name.lower()] for path in _folders(folder) if _is_side(path)}
    has_pictures = False
    for place, side in sides.items() or [(folder, "")]:
        for kind in (place, *_folders(place)):
            name = "" if kind == place else kind.name.replace("_", " ").strip()
            label = {"label": name, "caption": name} if name else {}
            for picture in sorted(p for p in kind.iterdir() if p.suffix.lower() in SUFFIXES):
                has_pictures = True
                row = {"image": str(picture), "id": picture.relative_to(folder).as_posix()}
                yield shown_path(picture), row | label | ({"split": side} if side else {})
    if not has_pictures:
        raise DataError(
            f"{FOLDER}{folder}: has no pictures ({', '.join(sorted(SUFFIXES))}); expected them in "
            "one folder a class, or beside a metadata.csv"
        )


def _of_arrow(files: Iterable[Path]) -> Rows:
    for file in files:
        yield from arrow.read_arrow(file, _unpacked(str(file), [file]), SIDES)


def _of_hub(source: str) -> tuple[Path, ...]:
    return hub_sets.data_files(source, frozenset(SIDES))


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_side(path: Path) -> bool:
    """Whether a folder is a side of a split: its name says so, and it holds folders of classes."""
    return path.name.lower() in SIDES and bool(_folders(path))


def _unpacked(source: str, files: Iterable[Path]) -> Path:
    """The folder that a source's pictures are written to; another file is another folder."""
    digest = hashlib.sha256(str(Path(source).absolute()).encode())
    for path in files:
        if path.is_file():
            digest.update(stamp_of(path))
    return cache_dir() / "datasets" / f"unpacked-{digest.hexdigest()[:12]}"


def files_of(source: str) -> Iterator[Path]:
    """The files that hold a source's rows, for its fingerprint; none for folders of classes."""
    if source.startswith(FOLDER):
        folder = Path(source.removeprefix(FOLDER))
        listed = [folder / name for name in _METADATA if (folder / name).is_file()]
        yield from listed or arrow.arrow_files(folder)
    elif source.startswith(TFDS):
        return
    elif source.startswith(PREFIX):
        yield from _of_hub(source)
    elif is_tar(source):
        yield from packed.shards(source)
    else:
        yield Path(source)
