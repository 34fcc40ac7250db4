"""Pictures in one folder a class, names of the classes beside: ImageNet's and ELEVATER's layouts.

  FOLDER/label_cn.txt            one name a line (the added language)
  FOLDER/label.txt               the same in the base's language, if there is one
  FOLDER/{test,val}/CLASS/*.jpg  or the class folders in FOLDER itself

CLASS is the number of the name's line, counted from 0 and padded with zeros (ELEVATER, as
Chinese-CLIP hands it out), or anything else (ImageNet: n01440764): then the folders in the order of
their names belong to the lines.

Source: Chinese-CLIP's zeroshot_dataset_en.md.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmjax.checks.foreign import shown_path
from mmjax.data.files import read_rows, stamp_of
from mmjax.data.own import SUFFIXES
from mmjax.data.records import Corpus, Item
from mmjax.errors import MmjaxError


@dataclass(frozen=True)
class ClassFolder:
    """A classification set on disk.

    Attributes:
      folder: where it is.
      images: its items; an item's label is the number of its class.
      classes: how many there are.
    """

    folder: Path
    images: Corpus
    classes: int

    def prompts(self, names: str, templates: Sequence[str]) -> list[list[str]] | None:
        """Texts about every class.

        Args:
          names: the file of the classes' names.
          templates: texts with `{}` for the name, or .txt files of them.

        Returns:
          One list of texts a class; None where the folder has no such file.

        Raises:
          MmjaxError: names the file and the row that is not as it should be.
        """
        path = self.folder / names
        if not path.is_file():
            return None
        class_names = read_rows(path)
        if len(class_names) != self.classes:
            raise MmjaxError(
                f"{path} has {len(class_names)} names, {self.folder} has {self.classes} classes; "
                "expected one name a line"
            )
        forms = [form for entry in templates for form in self._templates(entry)]
        return [[form.replace("{}", name) for form in forms] for name in class_names]

    def _templates(self, entry: str) -> list[str]:
        if not entry.endswith(".txt"):
            return [entry]
        path = self.folder / entry
        path = path if path.is_file() else Path(entry)
        rows = read_rows(path)
        for number, row in enumerate(rows, 1):
            if row.count("{}") != 1:
                raise MmjaxError(f"{path}, row {number}: {row!r} has not one '{{}}' for the name")
        return rows


def load_class_folder(folder: Path, names: Sequence[str], limit: int = 0) -> ClassFolder:
    """Reads a folder in one of these layouts.

    Args:
      folder: holds the names and the pictures.
      names: files of names, the first one that is there says how many classes there are.
      limit: at most so many pictures, evenly spread over the classes' order (0: all).

    Returns:
      What was found; no picture is opened.

    Raises:
      MmjaxError: no such folder, no names, no pictures, or a class folder without a name.
    """
    place = next((folder / s for s in ("test", "val") if (folder / s).is_dir()), folder)
    if not place.is_dir():
        raise MmjaxError(f"config.benchmarks.classification names {folder}, which is no folder")
    names_file = next((folder / name for name in names if (folder / name).is_file()), None)
    if names_file is None:
        raise MmjaxError(
            f"{folder} has none of the files {sorted(set(names))}; expected the classes' names, "
            "one a line (--config.benchmarks.names)"
        )
    count = len(read_rows(names_file))
    folders = sorted(path for path in place.iterdir() if path.is_dir())
    numbers = _numbers(folders, count, names_file)
    items, digest = [], hashlib.sha256()
    for path, number in zip(folders, numbers, strict=True):
        for picture in sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES):
            name = picture.relative_to(folder).as_posix()
            try:
                digest.update(stamp_of(picture, name))
            except OSError as error:  # a link to nothing
                raise MmjaxError(
                    f"{shown_path(picture)} cannot be read: {error.strerror}"
                ) from error
            items.append(Item(name, name, str(number), {}, {"photo": picture}, "test"))
    if not items:
        raise MmjaxError(f"{place} has no pictures in folders of classes ({sorted(SUFFIXES)})")
    if limit and limit < len(items):
        items = [items[i * len(items) // limit] for i in range(limit)]
    corpus = Corpus(folder.name, tuple(items), {}, digest.hexdigest())
    return ClassFolder(folder, corpus, count)


def _numbers(folders: Sequence[Path], count: int, names: Path) -> list[int]:
    """The class of every folder."""
    # A name has 255 letters at most, so its number can be read.
    if folders and all(path.name.isascii() and path.name.isdigit() for path in folders):
        numbers = [int(path.name) for path in folders]
        if max(numbers) >= count or len(set(numbers)) < len(numbers):
            raise MmjaxError(
                f"{folders[-1]}: {names} has {count} names; expected folders 0 to {count - 1}, "
                "padded to one width"
            )
        return numbers
    if len(folders) != count:
        raise MmjaxError(
            f"{names} has {count} names for {len(folders)} folders of classes in "
            f"{folders[0].parent if folders else names.parent}; expected one name each, in order"
        )
    return list(range(count))
