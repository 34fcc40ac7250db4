"""Data sets by name: made on first use, whole or not at all, read at random ever after."""

import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmjax import assets
from mmjax.assets.cache import cache_dir
from mmjax.assets.workspace import workspace
from mmjax.errors import AssetError, DataError, first_line, is_full_disk
from mmjax.files import sha256_of
from mmjax.progress import track

_CARD = "source.json"
_SPLIT = "train"
_BATCH = 1024  # records that are read at once

Record = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A data set on disk; cheap to pickle, so that worker processes can hold it.

    Attributes:
      name: of the data set.
      folder: where it is.
      fingerprint: sha256 over its records, in order.
      length: number of records.
    """

    name: str
    folder: Path
    fingerprint: str
    length: int
    _opened: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        """Number of records."""
        return self.length

    def __getitem__(self, index: int) -> Record:
        """Reads a record: texts as str, pictures as the bytes of a PNG file."""
        index = int(index)
        if not -self.length <= index < self.length:
            raise IndexError(f"{self.name} has {self.length} records, no record {index}")
        return self._read([index % self.length])[0]

    def __iter__(self) -> Iterator[Record]:
        """Reads all records in order, many at a time: several times quicker than one by one."""
        for start in range(0, self.length, _BATCH):
            yield from self._read(range(start, min(start + _BATCH, self.length)))

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the open file behind."""
        return {**self.__dict__, "_opened": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Opens the file again on first use."""
        self.__dict__.update(state)

    def _read(self, indices: Sequence[int]) -> list[Record]:
        if "reader" not in self._opened:
            self._opened["reader"] = _open(self.folder / "data")
        try:
            return _records(self._opened["reader"], indices)
        except Exception as error:  # whatever the damage leads to in other languages' code
            raise DataError(
                f"records {indices[0]} to {indices[-1]} of {self.name} in {self.folder} cannot be "
                f"read ({first_line(error)}); delete that folder, it is made again on the next run"
            ) from error


def load_source(name: str, **options: Any) -> Source:
    """Loads a data set, and makes it first where this machine has not got it.

    Args:
      name: "emoji" or "cedict".
      **options: of emoji: `styles` (default ("openmoji",); "noto", "apple", or "auto" for OpenMoji
        and every further style whose font is found) and `pixels` (default 160).

    Returns:
      The data set.

    Raises:
      DataError: unknown name or option, a missing font, a damaged data set, a full disk.
      AssetError: what it is made of cannot be had.
    """
    recipes: Mapping[str, Callable[..., _Recipe]] = {"emoji": _emoji, "cedict": _cedict}
    if name not in recipes:
        raise DataError(f"no data set is called {name!r}; there are: {', '.join(recipes)}")
    accepted = list(inspect.signature(recipes[name]).parameters)
    if unknown := sorted(set(options) - set(accepted)):
        raise DataError(f"data set {name!r} has no option {unknown}; its options are {accepted}")
    recipe = recipes[name](**options)
    folder = cache_dir() / "datasets" / f"{recipe.label}-{recipe.key[:12]}"
    source = _find(name, folder)
    if source is not None:
        return source
    try:
        with workspace(folder.parent, folder.name) as work:
            source = _find(name, folder)  # another process may just have made it
            if source is None:
                _make(recipe, name, work, folder)
                source = _find(name, folder)
    except Exception as error:
        if is_full_disk(error):
            raise DataError(
                f"the disk of {folder.parent} is full while data set {name!r} is made; free some "
                "space, or set MMJAX_CACHE to a folder on another disk"
            ) from error
        raise
    assert source is not None
    return source


@dataclass(frozen=True)
class _Recipe:
    """How a data set is made.

    Attributes:
      label: start of its folder's name.
      key: sha256 over everything that decides what is in it.
      builder: data_dir -> tensorflow-datasets builder.
    """

    label: str
    key: str
    builder: Callable[[str], Any]


def entries(text: str) -> tuple[str, ...]:
    """What a record keeps as one text, with bars between."""
    return tuple(entry for entry in text.split("|") if entry)


def _emoji(styles: Sequence[str] = ("openmoji",), pixels: int = 160) -> _Recipe:
    from mmjax.data.builders import emoji_fonts
    from mmjax.data.builders.emoji_table import TABLE, VERSION

    if not 8 <= pixels <= 1024:
        raise DataError(f"emoji pictures of {pixels} pixels; expected 8 to 1024")
    fonts = _fonts(styles, emoji_fonts.STYLES, emoji_fonts.system_font)
    parts = [f"{style} {sha256_of(path)}" for style, path in fonts.items()]
    parts += [sha256_of(TABLE), str(pixels)]

    def builder(data_dir: str) -> Any:
        from mmjax.data.builders.emoji import EmojiBuilder

        return EmojiBuilder(fonts=fonts, pixels=pixels, data_dir=data_dir)

    return _Recipe("-".join(("emoji", *fonts)), _key("emoji", VERSION, *parts), builder)


def _fonts(
    styles: Sequence[str], known: Sequence[str], find: Callable[[str], Path | None]
) -> dict[str, Path]:
    """The font file of every style that is asked for."""
    styles = (styles,) if isinstance(styles, str) else tuple(styles)
    wrong = [style for style in styles if style not in (*known, "auto")]
    if wrong or not styles:
        raise DataError(
            f"emoji styles {list(styles)} are not possible; choose from {[*known, 'auto']}"
        )
    fonts = {}
    for style in dict.fromkeys(s for name in styles for s in (known if name == "auto" else [name])):
        if style == "openmoji":
            fonts[style] = assets.path("openmoji") / "OpenMoji-color-glyf_colr0.ttf"
        elif (path := find(style)) is not None:
            fonts[style] = path
        elif style in styles:
            fonts[style] = _fetched(style)
    return fonts


def _fetched(style: str) -> Path:
    """The font of a style that is not among the system's: of Noto the asset.

    Raises:
      DataError: it cannot be had.
    """
    reason = ""
    if style == "noto":
        try:
            return assets.path("noto-emoji") / "NotoColorEmoji.ttf"
        except AssetError as error:
            reason = f" ({error})"
    raise DataError(
        f"this machine has no {style!r} emoji font; install it (Debian and Ubuntu: apt install "
        f"fonts-noto-color-emoji; macOS brings 'apple'), or drop {style!r} from the styles{reason}"
    )


def _cedict() -> _Recipe:
    from mmjax.data.builders.cedict_entries import VERSION

    folder = assets.path("cedict")
    files = {"cedict": "cedict_1_0_ts_utf-8_mdbg.txt", "hsk2": "hsk2.txt", "hsk3": "hsk3.txt"}
    paths = {name: folder / file for name, file in files.items()}

    def builder(data_dir: str) -> Any:
        from mmjax.data.builders.cedict import CedictBuilder

        return CedictBuilder(**paths, data_dir=data_dir)

    return _Recipe("cedict", _key("cedict", VERSION, *map(sha256_of, paths.values())), builder)


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _make(recipe: _Recipe, name: str, work: Path, folder: Path) -> None:
    """Writes the records, hashes them, and puts the finished folder into its place."""
    with _quiet_tfds():
        builder = recipe.builder(os.fspath(work / "tfds"))
        builder.download_and_prepare()
    ready = work / "ready"
    ready.mkdir()
    Path(builder.data_dir).rename(ready / "data")
    digest, reader = hashlib.sha256(), _open(ready / "data")
    count = len(reader)
    for start in track(range(0, count, _BATCH), f"hashing {name}"):
        for record in _records(reader, range(start, min(start + _BATCH, count))):
            for key, value in record.items():  # sorted by key
                content = value if isinstance(value, bytes) else str(value).encode()
                digest.update(f"{key} {len(content)} ".encode() + content)
    card = {"name": name, "fingerprint": digest.hexdigest(), "length": count, "key": recipe.key}
    (ready / _CARD).write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    if folder.exists():  # damaged: `_find` said so
        folder.rename(work / "replaced")
    ready.rename(folder)


def _find(name: str, folder: Path) -> Source | None:
    """The finished data set in a folder, if there is one."""
    try:
        card = json.loads((folder / _CARD).read_text("utf-8"))
        fingerprint, length = card["fingerprint"], card["length"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = isinstance(fingerprint, str) and type(length) is int and length > 0
    return Source(name, folder, fingerprint, length) if whole else None


def _open(folder: Path) -> Any:
    """Opens what tensorflow-datasets wrote: serialised examples, at random."""
    import tensorflow_datasets as tfds  # slow to import

    with _quiet_tfds():
        try:
            builder: Any = tfds.builder_from_directory(os.fspath(folder))
            return builder.as_data_source(_SPLIT).data_source
        except Exception as error:
            raise DataError(
                f"the data set in {folder} cannot be opened ({first_line(error)}); delete "
                f"{folder.parent}, it is made again on the next run"
            ) from error


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Our own bars are shown instead; settings are put back for whoever else uses the library."""
    from tensorflow_datasets.core.utils import tqdm_utils

    before = getattr(tqdm_utils, "_active", True)
    tqdm_utils.display_progress_bar(False)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        tqdm_utils.display_progress_bar(before)


def _records(reader: Any, indices: Sequence[int]) -> list[Record]:
    """Reads records; texts as str, numbers as int, pictures as the bytes of their file.

    Parses the examples itself: our features are single values, and the library's way through numpy
    takes five times as long, on every start of a run.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    example_type: Any = tf_example_pb2.Example  # type: ignore[attr-defined]

    records = []
    for row in reader.__getitems__(list(indices)):
        example = example_type.FromString(row)
        records.append({key: _value(key, f) for key, f in sorted(example.features.feature.items())})
    return records


def _value(key: str, feature: Any) -> Any:
    if feature.int64_list.value:
        return feature.int64_list.value[0]
    # A text of no length has no value at all.
    content = feature.bytes_list.value[0] if feature.bytes_list.value else b""
    return content if key == "image" else content.decode("utf-8")
