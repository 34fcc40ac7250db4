"""Captions whose images are no files yet: tar shards as webdataset has them, tensorflow-datasets.

Their images are written as files, for every later step, and other programs, find them there. The
`webdataset` package reads such shards too; it is made for loops of training, leaves the checks of
names to its users, and runs what a source behind `pipe:` says. What is needed of it are few lines.
"""

import glob
import io
import itertools
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from mmjax.checks.foreign import is_file, reading
from mmjax.data.files import LARGEST, check_name, parse
from mmjax.data.rows import Columns, Rows
from mmjax.encoders.pictures import FORMATS, open_image
from mmjax.errors import DataError, shown, writing
from mmjax.files import write_atomic

_IMAGES, _TEXTS = ("jpg", "jpeg", "png", "webp"), ("txt", "json")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]+)\}")
_MOST_SHARDS = 100_000
_BATCH = 64  # records of tfds that are read at once


def read_tar(pattern: str, columns: Columns, into: Path) -> Rows:
    """Yields the samples of shards as rows, their images written to files.

    Args:
      pattern: a path, with braces or wildcards.
      columns: names of the row's image, caption and id, and of the caption in KEY.json.
      into: folder that gets a folder for each shard.

    Raises:
      DataError: no shard, one that is damaged, a name that leads elsewhere, a link or a device, a
        sample without one image or without a caption.
    """
    for shard in shards(pattern):
        for key, several in itertools.groupby(_members(shard), lambda member: member[0]):
            place = f"{shard}, sample {shown(key)}"
            files: dict[str, bytes] = {}
            for _, kind, content in several:
                if kind in files:
                    raise DataError(f"{place}: has two files .{kind}")
                files[kind] = content
            images = [kind for kind in _IMAGES if kind in files]
            if len(images) != 1 or len(files) == 1:
                raise DataError(
                    f"{place}: has {', '.join(f'.{kind}' for kind in files)}; expected one image "
                    "(.jpg, .png or .webp) and .txt or .json right behind it or before it"
                )
            row: dict[str, Any] = {}
            if "json" in files:
                row = parse(place, _text(place, files["json"]), "a JSON object")
                if not isinstance(row, dict):
                    raise DataError(f"{place}: .json holds {shown(row)}; expected an object")
            if "txt" in files:
                row[columns.caption] = _text(place, files["txt"]).rstrip("\r\n")
            row[columns.id] = key
            target = into / shard.stem / f"{key}.{images[0]}"
            row[columns.image] = _keep(target, files[images[0]])
            yield place, row


def shards(pattern: str) -> list[Path]:
    """The files that a pattern means, in its order."""
    braces = _BRACES.search(pattern)
    if braces:
        first, last, words = braces.groups()
        numbers = range(int(first), int(last) + 1) if first else ()
        if not words and not 0 < len(numbers) <= _MOST_SHARDS:
            raise DataError(
                f"{pattern}: {braces.group()} means {len(numbers):,} files; say the smaller number "
                f"first, and {_MOST_SHARDS:,} files at most"
            )
        chosen = words.split(",") if words else [str(n).zfill(len(first)) for n in numbers]
        head, tail = pattern[: braces.start()], pattern[braces.end() :]
        return [path for choice in chosen for path in shards(f"{head}{choice}{tail}")]
    paths = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    if not paths:
        raise DataError(f"no file is called {pattern}")
    return [Path(path) for path in paths]


def _members(shard: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yields (key, kind, content) of images and texts; other files are passed over."""
    with reading(shard, "a tar file", DataError), tarfile.open(shard, "r|*") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # it keeps them all
            place = f"{shard}, member {shown(member.name)}"
            parts = PurePosixPath(member.name).parts
            for part in parts:
                check_name(place, part)
            if member.isdir():
                continue
            if not member.isreg():
                raise DataError(f"{place}: is a link or a device; only files are read")
            stem, _, kind = parts[-1].partition(".")
            if not stem or kind.lower() not in (*_IMAGES, *_TEXTS):
                continue
            if member.size > LARGEST:
                raise DataError(f"{place}: has more than {LARGEST >> 20} MiB")
            file = tar.extractfile(member)
            assert file is not None
            yield "/".join((*parts[:-1], stem)), kind.lower(), file.read()


def _text(place: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: is not UTF-8 ({error})") from error


def read_tfds(source: str, columns: Columns, into: Path) -> Rows:
    """Yields the records of a tensorflow-datasets data set as rows, their images written to files.

    Of several captions the first counts. Other texts and numbers stay; arrays do not.

    Args:
      source: `tfds:NAME[/CONFIG][:SPLIT]`, or a data set's folder in place of the name.
      columns: names of features.
      into: folder that gets the images.

    Raises:
      DataError: a data set that is unknown, not there as array_record, or has no such features.
    """
    import tensorflow_datasets as tfds  # slow to import

    name, split = source.removeprefix("tfds:"), "train"
    if ":" in name and not Path(name).is_dir():
        name, _, split = name.partition(":")
    with reading(source, "a data set that `tfds build --file_format=array_record` made", DataError):
        builder: Any = (
            tfds.builder_from_directory(name) if Path(name).is_dir() else tfds.builder(name)
        )
        features = list(builder.info.features)
        needed = [columns.image, columns.caption]
        if not {*needed} <= {*features}:
            raise DataError(f"{source} has features {features}; expected {needed} among them")
        decoders = {columns.image: tfds.decode.SkipDecoding()}
        data: Any = builder.as_data_source(split, decoders=decoders)
        stem = re.sub(r"[^\w.+-]+", "_", f"{builder.info.name}-{split}")
    for start in range(0, len(data), _BATCH):
        numbers = range(start, min(start + _BATCH, len(data)))
        with reading(source, "array_record", DataError):
            records = data.__getitems__(list(numbers))
        for number, record in zip(numbers, records, strict=True):
            place = f"{source}, record {number}"
            own = f"{stem}-{number:08d}"
            row: dict[str, Any] = {columns.id: own} | {
                key: plain for key, value in record.items() if (plain := _plain(value)) is not None
            }
            row[columns.caption] = _first(record[columns.caption])
            content, kind = _encoded(place, record[columns.image])
            row[columns.image] = _keep(into / f"{own}.{kind}", content)
            yield place, row


def _plain(value: object) -> str | int | float | None:
    """A text or a number; None for anything else."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return value if isinstance(value, str | int | float) else None


def _first(value: Any) -> str | int | float | None:
    """The text, or the first of texts, or of objects with a `text`."""
    if isinstance(value, dict):
        return _first(value.get("text"))
    if isinstance(value, list | np.ndarray):
        return _first(value[0]) if len(value) else None
    return _plain(value)


def _encoded(place: str, image: Any) -> tuple[bytes, str]:
    """(an image file's content, what its name ends with)."""
    with reading(place, "a picture", DataError):
        if isinstance(image, bytes):
            with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
                kind = str(opened.format).lower()
            return image, "jpg" if kind == "jpeg" else kind
        buffer = io.BytesIO()
        open_image(image).save(buffer, "PNG")
        return buffer.getvalue(), "png"


def keep_picture(place: str, content: bytes, stem: Path) -> str:
    """Writes an encoded picture beside others, its name's end what it is; returns its path.

    Raises:
      DataError: it is no picture.
    """
    _, kind = _encoded(place, content)
    return _keep(stem.with_name(f"{stem.name}.{kind}"), content)


def _keep(path: Path, content: bytes) -> str:
    """Writes a picture unless it is there: one that is written anew is another to caches."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        there = is_file(path) and path.read_bytes() == content
    if not there:
        write_atomic(path, content, flush=False)
    return str(path)
