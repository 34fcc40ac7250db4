"""Food-101's own layout: pictures of 101 dishes in folders, lists of them beside.

FOLDER/images/CLASS/ID.jpg
FOLDER/meta/classes.txt   one CLASS a line
FOLDER/meta/labels.txt    its name as people write it, on the same line
FOLDER/meta/train.txt     one CLASS/ID a line
FOLDER/meta/test.txt      the same
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mmjax.data.files import check_image, read_rows
from mmjax.data.records import Corpus, Item
from mmjax.errors import MmjaxError, shown
from mmjax.specs.data import PairsSpec

LANGUAGE = "en"
CAPTION = "a photo of {}, a type of food."  # CLIP's own template for this data set


def load_food101(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads a folder in this layout.

    Args:
      place: the folder that holds `images` and `meta`.
      spec: as of every corpus; nothing of it is read here.
      languages: the same.

    Returns:
      The corpus; every item's caption names its class.

    Raises:
      MmjaxError: names the file and the row that is not as it should be.
    """
    folder = Path(place)
    meta = folder / "meta"
    classes, names = (read_rows(meta / f"{name}.txt") for name in ("classes", "labels"))
    if len(classes) != len(names):
        raise MmjaxError(
            f"{meta / 'labels.txt'} has {len(names)} rows, {meta / 'classes.txt'} has "
            f"{len(classes)}; expected one name for each class, on the same row"
        )
    captions = {
        label: CAPTION.format(name.lower()) for label, name in zip(classes, names, strict=True)
    }
    items: list[Item] = []
    seen: dict[str, str] = {}
    digest = hashlib.sha256(repr(captions).encode())
    for side in ("train", "test"):
        path = meta / f"{side}.txt"
        for row, line in enumerate(read_rows(path), 1):
            where = f"{path}, row {row}"
            label, slash, name = line.partition("/")
            if not slash or not name:
                raise MmjaxError(f"{where}: found {shown(line)}; expected CLASS/ID")
            if label not in captions:
                raise MmjaxError(f"{where}: {meta / 'classes.txt'} has no class {shown(label)}")
            if line in seen:
                raise MmjaxError(f"{where}: {shown(line)} stands twice, first in {seen[line]}")
            seen[line] = where
            image = check_image(where, folder / "images" / label / f"{name}.jpg")
            digest.update(f"{side}/{line}:{image.stat().st_size};".encode())
            items.append(
                Item(line, line, label, {LANGUAGE: (captions[label],)}, {"photo": image}, side)
            )
    return Corpus(
        folder.name,
        tuple(items),
        {label: {LANGUAGE: caption} for label, caption in captions.items()},
        digest.hexdigest(),
    )
