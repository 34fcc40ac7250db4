"""Ready embeddings and columns of numbers with classes: what another program computed or measured.

  embeddings:FILE.npz       `label` [n]; every float array [n, d] is a modality; perhaps `id`,
                            `family`, `split`, and texts [n] under a language's code
  embeddings:FILE.parquet   a column `label`; lists of numbers are modalities, columns of single
                            numbers together the modality `columns`; perhaps the others
  embeddings:FILE.jsonl     an object a line, of the same: {"label": "ill", "note": [0.1, ...],
                            "age": 61, "en": "a text", "image": "1.png"}; also .csv and .tsv

A row lacks a modality where that is null, missing, or NaN throughout. A text and a path of a
picture stand beside vectors where an encoder of the recipe reads them; they may lack, too.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from jaxtyping import Float

from mmjax.checks.foreign import reading
from mmjax.data.files import check_image, name_of, stamp_of
from mmjax.data.labels import Names
from mmjax.data.own import LISTS, TABLES, own_rows, side_of
from mmjax.data.records import Corpus, Item
from mmjax.data.turn_records import check_new
from mmjax.errors import DataError, MmjaxError, shown
from mmjax.files import sha256_of
from mmjax.specs.data import PairsSpec

COLUMNS = "columns"  # the modality of all columns of single numbers
STYLE = "photo"
_NOT_NUMBERS = ("id", "family", "label", "split", "image", "file_name")
Vector = Float[np.ndarray, " d"]


def load_embeddings(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads rows of vectors and numbers with a class each.

    Args:
      place: the file.
      spec: as of every corpus; nothing of it is read here.
      languages: which texts are read, where there are some.

    Returns:
      The corpus; each row is a family of its own unless it names one.

    Raises:
      MmjaxError: names the file, the row and the column that is not as it should be.
    """
    path = Path(place)
    if not path.is_file():
        raise MmjaxError(f"config.pairs.source is 'embeddings:{place}'; there is no such file")
    names, rows = Names(languages), list(_rows(path))
    if not rows:
        raise MmjaxError(f"{path} has no rows")
    columns = _columns(rows, languages)
    widths: dict[str, int] = {}
    items: list[Item] = []
    seen: set[str] = set()
    for number, (where, row) in enumerate(rows):
        name = name_of(where, row, "id", f"row {number}")
        check_new(where, name, seen)
        label = names.read(where, row)
        features = _features(where, row, columns, widths)
        captions = {lang: (row[lang].strip(),) for lang in languages if _is_text(row.get(lang))}
        images: dict[str, bytes | Path] = {}
        if _is_text(row.get("image")):
            # A list's or table's paths start from its folder already.
            images[STYLE] = check_image(where, Path(row["image"]))
        family = name_of(where, row, "family", name)
        side = side_of(where, row)
        items.append(
            Item(name, family, label, captions, images, side, keywords=False, features=features)
        )
    if not widths:
        raise DataError(f"{path} holds no vectors and no numbers; expected at least one modality")
    digest = hashlib.sha256(f"{sha256_of(path)}:{','.join(languages)}".encode())
    for item in items:
        for image in item.images.values():
            assert isinstance(image, Path)
            digest.update(stamp_of(image))
    return Corpus(path.stem, tuple(items), names.names, digest.hexdigest(), places=names.places)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of any of the forms; numbers as they come, vectors as sequences."""
    if path.suffix == ".npz":
        yield from _of_npz(path)
    elif path.suffix == ".parquet":
        with reading(path, "a parquet file", DataError):
            table = pyarrow.parquet.read_table(path, memory_map=True)
            rows = table.to_pylist()
        for number, row in enumerate(rows, 1):
            image = row.get("image")
            if _is_text(image):
                row["image"] = str(path.parent / image)
            yield f"{path}, row {number}", row
    elif path.suffix in LISTS:
        numbers = path.suffix in TABLES
        for place, row in own_rows(str(path)):
            yield place, {k: _number(v) for k, v in row.items()} if numbers else row
    else:
        raise DataError(f"{path}: expected a file of the kinds .npz, .parquet, {', '.join(LISTS)}")


def _of_npz(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with reading(path, "an .npz file", DataError), np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if "label" not in arrays:
        raise DataError(f"{path} has the arrays {sorted(arrays)}; expected 'label' among them")
    count = len(arrays["label"])
    bad = [n for n, a in arrays.items() if a.ndim not in (1, 2) or len(a) != count]
    if bad:
        raise DataError(
            f"{path}: {bad[0]!r} is {list(arrays[bad[0]].shape)}; expected [{count}] or "
            f"[{count}, d], as many rows as 'label'"
        )
    for number in range(count):
        row: dict[str, Any] = {n: a[number] for n, a in arrays.items() if a.ndim == 2}
        row |= {n: a[number].item() for n, a in arrays.items() if a.ndim == 1}
        yield f"{path}, row {number + 1}", row


def _number(cell: Any) -> Any:
    """A cell of a table as a number where it is one."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return cell


def _columns(
    rows: Iterable[tuple[str, Mapping[str, Any]]], languages: Sequence[str]
) -> tuple[str, ...]:
    """Names of the columns of single numbers, in the order in which they first stand."""
    columns: dict[str, None] = {}
    for _, row in rows:
        for name, value in row.items():
            if _is_number(value) and name not in (*_NOT_NUMBERS, *languages):
                columns.setdefault(name)
    return tuple(columns)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _features(
    where: str, row: Mapping[str, Any], columns: Sequence[str], widths: dict[str, int]
) -> dict[str, Vector]:
    """Modality -> vector of a row; a modality that it lacks is not there."""
    parts: dict[str, Any] = {}
    if columns:
        cells = [row.get(name) for name in columns]
        wrong = [n for n, v in zip(columns, cells, strict=True) if not (v is None or _is_number(v))]
        if wrong:
            raise DataError(
                f"{where}: {wrong[0]!r} is {shown(row[wrong[0]])}, but a number in other rows; "
                "give numbers throughout, or leave the cell empty"
            )
        parts[COLUMNS] = [np.nan if cell is None else float(cell) for cell in cells]
    for name, value in row.items():
        if isinstance(value, (list, tuple, np.ndarray)) and not name.startswith("keywords_"):
            parts[name] = value
    vectors: dict[str, Vector] = {}
    for name, value in parts.items():
        try:
            with np.errstate(over="ignore"):  # told below
                vector = np.asarray(value, np.float32)
        except (TypeError, ValueError, OverflowError):
            vector = np.zeros((0, 0), np.float32)
        if vector.ndim != 1 or not len(vector):
            raise DataError(f"{where}: {name!r} is {shown(value)}; expected a list of numbers")
        if np.isinf(vector).any():
            raise DataError(f"{where}: {name!r} holds a number that float32 cannot")
        if widths.setdefault(name, len(vector)) != len(vector):
            raise DataError(
                f"{where}: {name!r} has {len(vector)} numbers, in rows before {widths[name]}"
            )
        if not np.isnan(vector).all():
            vectors[name] = vector
    return vectors
