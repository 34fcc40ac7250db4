"""MM-IMDb's own layout: posters, plots and genres of films; here drama against comedy.

FOLDER/split.json         {"train": ["0016780", ...], "dev": [...], "test": [...]}
FOLDER/dataset/ID.json    {"plot": ["...", ...], "genres": ["Drama", ...], ...}
FOLDER/dataset/ID.jpeg    the poster

That is what the authors' `mmimdb.tar.gz` unpacks to (Arevalo et al., 2017, arXiv 1702.01992).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmjax.checks.foreign import is_file, shown_path
from mmjax.data.files import check_name, read_object, whole_text
from mmjax.data.records import Corpus, Item
from mmjax.errors import MmjaxError, shown
from mmjax.progress import track
from mmjax.specs.data import PairsSpec

LANGUAGE = "en"
GENRES = ("Drama", "Comedy")
SIDES = ("train", "dev", "test")


def load_mmimdb(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads the films that are a drama or a comedy but not both.

    Args:
      place: the folder that holds `split.json` and `dataset`.
      spec: as of every corpus; nothing of it is read here.
      languages: the same.

    Returns:
      The corpus; a film's caption is its first plot, its label the genre. The authors' own sides
      are left out: the paper that this serves (arXiv 2502.02048) draws five folds.

    Raises:
      MmjaxError: names the file that is not as it should be.
    """
    folder = Path(place)
    path = folder / "split.json"
    split = read_object(path)
    ids = [name for side in SIDES for name in _names(split, side, path)]
    if len(set(ids)) != len(ids):
        twice = sorted(name for name, times in Counter(ids).items() if times > 1)
        raise MmjaxError(f"{path}: {twice[:3]} stand twice; expected every film once")
    items: list[Item] = []
    digest = hashlib.sha256()
    for name in track(ids, "reading MM-IMDb"):
        film = folder / "dataset" / f"{name}.json"
        record = read_object(film)
        genres, plots = (_texts(record, key, film) for key in ("genres", "plot"))
        classes = [genre for genre in GENRES if genre in genres]
        if len(classes) != 1:
            continue
        poster = film.with_suffix(".jpeg")
        if not is_file(poster):
            raise MmjaxError(f"{film}: no poster at {shown_path(poster)}")
        if not plots or not plots[0].strip():
            raise MmjaxError(f"{film}: 'plot' is empty; expected at least one text")
        plot = plots[0].strip()
        digest.update(f"{name}:{classes[0]}:{plot}:{poster.stat().st_size};".encode())
        items.append(Item(name, name, classes[0], {LANGUAGE: (plot,)}, {"poster": poster}))
    if not items:
        raise MmjaxError(f"{path} names no film that is one of {GENRES} alone")
    labels = {genre: {LANGUAGE: genre.lower()} for genre in GENRES}
    return Corpus(folder.name, tuple(items), labels, digest.hexdigest())


def _texts(record: dict[str, Any], key: str, path: Path) -> list[str]:
    return [whole_text(f"{path}: {key!r}", x) for x in _list(record, key, path, "texts")]


def _names(split: dict[str, Any], side: str, path: Path) -> list[str]:
    return [check_name(f"{path}, {side!r}", x) for x in _list(split, side, path, "film ids")]


def _list(record: dict[str, Any], key: str, path: Path, what: str) -> list[str]:
    entries = record.get(key)
    if not isinstance(entries, list) or not all(isinstance(x, str) for x in entries):
        raise MmjaxError(f"{path}: {key!r} is {shown(entries)}; expected a list of {what}")
    return entries
