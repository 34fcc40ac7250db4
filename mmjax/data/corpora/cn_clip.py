"""Chinese-CLIP's data layout (COCO-CN, Flickr30k-CN, MUGE): pictures in TSV, queries in JSON lines.

  FOLDER/{train,valid,test}_imgs.tsv      picture's id, tab, the encoded picture in base64
  FOLDER/{train,valid,test}_texts.jsonl   {"text_id": 8428, "text": "...", "image_ids": [107, 517]}
  FOLDER/{...}_texts_en.jsonl             not of that layout: the same in English, if you have it

Where the test set's right answers are not public (MUGE: its `image_ids` are empty), or there is
none, `valid` is the test set, as in published figures.

Source: Chinese-CLIP's README, "Data Preprocessing".
"""

import base64
import binascii
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.checks.foreign import is_file
from mmjax.data.files import read_jsonl, read_placed_lines, text_of
from mmjax.data.records import Corpus, Item, Query
from mmjax.errors import MmjaxError, shown
from mmjax.progress import track
from mmjax.specs.data import PairsSpec

LANGUAGE = "zh"
LANGUAGES = {LANGUAGE: "", "en": "_en"}  # language -> end of its files' names
# A picture's row: base64 of 48 MiB, many times what a camera writes, and an id of 18 digits.
_LONGEST_ROW = 1 << 26
_LONGEST_ID = 18
log = logging.getLogger("mmjax")


@dataclass(frozen=True)
class TsvImage:
    """A picture in a row of a TSV file, read when it is wanted: MUGE's do not fit into memory.

    Attributes:
      path: of the file.
      row: counted from 1.
      start: where its base64 begins in the file, in bytes.
      length: of its base64.
    """

    path: Path
    row: int
    start: int
    length: int

    def read(self) -> bytes:
        """The encoded picture."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return _decode(file.read(self.length), f"{self.path}, row {self.row}")


def _decode(content: bytes, place: str) -> bytes:
    try:
        # Both alphabets of base64 are in use.
        picture = base64.b64decode(content.translate(bytes.maketrans(b"-_", b"+/")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MmjaxError(
            f"{place}: the picture is not base64 ({error}); expected ID, tab, base64"
        ) from error
    if not picture:
        raise MmjaxError(f"{place}: the picture is empty; expected ID, tab, base64")
    return picture


def load_cn_clip(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads a folder in this layout.

    Args:
      place: the folder that holds the files.
      spec: its `sides` are read; the files of the others may lack.
      languages: of its captions, whatever they are.

    Returns:
      The corpus, with its queries. An item's captions are the queries that name it; those with the
      same first query are a family. Pictures that no query names stay in the test's gallery and are
      left out elsewhere.

    Raises:
      MmjaxError: names the file and the row that is not as it should be.
    """
    folder = Path(place)
    digest = hashlib.sha256()
    items: list[Item] = []
    queries: list[Query] = []
    for split, side in _splits(folder).items():
        if side not in spec.sides:
            continue
        pictures = _pictures(folder / f"{split}_imgs.tsv", digest)
        captions: dict[str, dict[int, list[str]]] = {}
        for language, suffix in LANGUAGES.items():
            path = folder / f"{split}_texts{suffix}.jsonl"
            if suffix and not path.is_file():
                continue
            captions[language] = {}
            for text, names in _queries(path, pictures, digest):
                queries.append(Query(language, text, tuple(f"{split}/{name}" for name in names)))
                for name in names:
                    captions[language].setdefault(name, []).append(text)
        main = captions[LANGUAGE]
        if unasked := len(pictures) - len(main):
            fate = "stand in its gallery" if side == "test" else "are left out"
            log.warning(
                "%s: %d pictures of %s have no query; they %s", folder, unasked, split, fate
            )
        items += [
            Item(
                f"{split}/{name}",
                f"{split}/{main[name][0] if name in main else name}",
                "",
                {language: tuple(texts.get(name, ())) for language, texts in captions.items()},
                {"photo": picture},
                side,
                keywords=False,
            )
            for name, picture in pictures.items()
            if name in main or side == "test"
        ]
    return Corpus(folder.name, tuple(items), {}, digest.hexdigest(), tuple(queries))


def _splits(folder: Path) -> dict[str, str]:
    """File name's first part -> side."""
    path = folder / "test_texts.jsonl"
    _, first = next(read_jsonl(path), ("", {})) if is_file(path) else ("", {})
    if first.get("image_ids"):
        return {"train": "train", "valid": "val", "test": "test"}
    return {"train": "train", "valid": "test"}


def _pictures(path: Path, digest: Any) -> dict[int, TsvImage]:
    """Finds, and checks, every picture of a TSV file."""
    pictures: dict[int, TsvImage] = {}
    lines = read_placed_lines(path, _LONGEST_ROW, "one picture a row")
    for row, start, line in track(lines, f"reading {path.name}"):
        digest.update(line)
        place = f"{path}, row {row}"
        name, tab, content = line.rstrip(b"\r\n").partition(b"\t")
        if not tab or not name.isdigit() or len(name) > _LONGEST_ID:
            raise MmjaxError(
                f"{place}: begins with {line[:20]!r}; expected ID, tab, base64, the ID a number"
            )
        if int(name) in pictures:
            raise MmjaxError(f"{place}: the picture {int(name)} stands twice")
        _decode(content, place)
        pictures[int(name)] = TsvImage(path, row, start + len(name) + 1, len(content))
    if not pictures:
        raise MmjaxError(f"{path} has no rows; expected ID, tab, base64")
    return pictures


def _queries(
    path: Path, pictures: Mapping[int, TsvImage], digest: Any
) -> list[tuple[str, list[int]]]:
    """(query, pictures that answer it), in the order of the file."""
    queries: list[tuple[str, list[int]]] = []
    seen: set[int] = set()
    for place, record in read_jsonl(path):
        text, number, ids = (
            text_of(place, record, "text"),
            record.get("text_id"),
            record.get("image_ids"),
        )
        if type(number) is not int or number in seen:
            problem = "is no number" if type(number) is not int else "stands twice"
            raise MmjaxError(f"{place}: 'text_id' {shown(number)} {problem}")
        seen.add(number)
        if not isinstance(ids, list) or not ids:
            raise MmjaxError(
                f"{place}: 'image_ids' is {shown(ids)}; expected a list of picture ids"
            )
        for name in ids:
            if type(name) is not int or name not in pictures:
                raise MmjaxError(
                    f"{place}: 'image_ids' names the picture {shown(name)}, which "
                    f"{next(iter(pictures.values())).path} does not have"
                )
        queries.append((text, list(dict.fromkeys(ids))))
        digest.update(f"{number} {text} {ids};".encode())
    if not queries:
        raise MmjaxError(f"{path} has no rows; expected one JSON object a line")
    return queries
