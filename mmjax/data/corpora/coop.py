"""The few-shot data sets as CoOp and its successors lay them out on disk.

FOLDER/split_zhou_NAME.json       {"train": [[path, label, class name], ...], "val": .., "test": ..}
FOLDER/images_variant_train.txt   FGVC-Aircraft: one "ID variant" a line; also ..test.txt
FOLDER/classnames.txt             ImageNet: one "WNID name" a line; pictures in images/train/WNID
                                  and images/val/WNID

Nine of the eleven standard data sets have the first kind of file. Paths in it are relative to a
subfolder that every data set has of its own.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from mmjax.checks.foreign import is_file
from mmjax.data.files import check_image, check_name, read_data_json, read_rows, whole_text
from mmjax.data.records import Corpus, Item
from mmjax.errors import MmjaxError, shown
from mmjax.specs.data import PairsSpec

LANGUAGE = "en"
# Where pictures lie below the folder; the first one that holds a picture counts.
PICTURES = (
    "images",
    "101_ObjectCategories",
    "jpg",
    "2750",
    "SUN397",
    "UCF-101-midframes",
    "",
)
SIDES = ("train", "test")  # CoOp draws its shots from "train" alone; "val" is left alone
Row = tuple[str, str, Path, str]  # side, class name, picture, where it stands


def load_coop(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads a data set in this layout.

    Args:
      place: the folder that holds a list of pictures and the pictures.
      spec: as of every corpus; nothing of it is read here.
      languages: the same.

    Returns:
      The corpus; labels are class names as the lists write them, with spaces for underscores.

    Raises:
      MmjaxError: names the file and the row that is not as it should be.
    """
    folder = Path(place)
    lists = sorted(folder.glob("split_zhou_*.json"))
    if len(lists) == 1:
        rows = _split_file(folder, lists[0])
    elif lists:
        raise MmjaxError(f"{folder} has {[p.name for p in lists]}; expected one split_zhou_*.json")
    elif (folder / "images_variant_train.txt").is_file():
        rows = _aircraft(folder)
    elif (folder / "classnames.txt").is_file():
        rows = _imagenet(folder)
    else:
        raise MmjaxError(
            f"{folder} holds no split_zhou_*.json, images_variant_train.txt or classnames.txt; "
            "expected a data set in CoOp's layout"
        )
    items, digest = [], hashlib.sha256()
    seen: dict[str, str] = {}
    for side, name, picture, row in rows:
        key = os.path.relpath(picture, folder)
        if key in seen:
            raise MmjaxError(f"{row}: {key} stands twice, first in {seen[key]}")
        seen[key] = row
        check_image(row, picture)
        digest.update(f"{side}/{key}/{name}:{picture.stat().st_size};".encode())
        items.append(Item(key, key, name, {LANGUAGE: (name,)}, {"photo": picture}, side))
    if not items:
        raise MmjaxError(f"{folder} has no rows")
    labels = {name: {LANGUAGE: name} for name in sorted({item.label for item in items})}
    return Corpus(folder.name, tuple(items), labels, digest.hexdigest())


def _split_file(folder: Path, path: Path) -> Iterator[Row]:
    content = read_data_json(path)
    if not isinstance(content, Mapping) or not {"train", "test"} <= set(content):
        raise MmjaxError(f"{path} must hold an object with the lists 'train' and 'test'")
    root: Path | None = None
    for side in SIDES:
        if not isinstance(content[side], list):
            raise MmjaxError(f"{path}: {side!r} is {shown(content[side])}; expected a list of rows")
        for number, row in enumerate(content[side], 1):
            place = f"{path}, {side!r} row {number}"
            if (
                not isinstance(row, list)
                or len(row) != 3
                or not isinstance(row[0], str)
                or not isinstance(row[2], str)
                or not _name(row[2])
            ):
                raise MmjaxError(f"{place}: found {shown(row)}; expected [path, label, class name]")
            picture, name = PurePath(whole_text(place, row[0])), _name(whole_text(place, row[2]))
            if picture.is_absolute() or ".." in picture.parts:
                raise MmjaxError(f"{place}: {shown(row[0])} leads out of {folder}")
            if root is None:
                roots = (folder / p for p in PICTURES if is_file(folder / p / picture))
                root = next(roots, folder / PICTURES[0])
            yield side, name, root / picture, place


def _aircraft(folder: Path) -> Iterator[Row]:
    for side in SIDES:
        for place, picture, label in _pairs(folder / f"images_variant_{side}.txt"):
            yield side, label, folder / "images" / f"{picture}.jpg", place


def _imagenet(folder: Path) -> Iterator[Row]:
    for place, wnid, label in _pairs(folder / "classnames.txt"):
        for side, name in (("train", "train"), ("test", "val")):
            pictures = sorted((folder / "images" / name / wnid).glob("*.JPEG"))
            if not pictures:
                raise MmjaxError(f"{place}: no *.JPEG in {folder / 'images' / name / wnid}")
            for picture in pictures:
                yield side, label, picture, place


def _pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, first word, the rest) of every row."""
    for number, line in enumerate(read_rows(path), 1):
        first, _, rest = line.partition(" ")
        if not _name(rest):
            raise MmjaxError(f"{path}, row {number}: found {shown(line)}; expected two columns")
        check_name(f"{path}, row {number}", first)
        yield f"{path}, row {number}", first, _name(rest)


def _name(text: str) -> str:
    return " ".join(text.replace("_", " ").split())
