"""The feature cache: nothing frozen is computed twice.

Features of a list of items live in a folder of array_record shards, keyed by the encoder's
fingerprint, its preprocessing, which output is read, and the items themselves. A shard is written
under a temporary name and renamed, so a killed run goes on where the last whole shard ended.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.tables import FeatureTable, table_of
from mmjax.encoders.base import Encoder
from mmjax.encoders.batching import Chosen, Items
from mmjax.errors import MmjaxError, shown, writing
from mmjax.processes.timings import phase
from mmjax.progress import track
from mmjax.sharding import in_every_process

SHARD_ITEMS = 2048
# What to do where the cache cannot be written.
ELSEWHERE = "free some space or point MMJAX_CACHE at another disk, then run the same command again"
VERSION = "1"


@dataclass(frozen=True)
class Request:
    """One list of items through one frozen encoder.

    Attributes:
      name: for the progress bar.
      key: what the features depend on: the encoder's and preprocessing's fingerprints, the output.
      items: texts or pictures.
      item_keys: one text an item that identifies its content.
      output: which output of the encoder is kept.
      dtype: of the stored features.
    """

    name: str
    key: tuple[str, ...]
    items: Items
    item_keys: Sequence[str]
    output: str
    dtype: str = "float32"

    @property
    def digest(self) -> str:
        """Folder name of these features."""
        digest = hashlib.sha256()
        for part in (VERSION, self.output, self.dtype, *self.key, "items", *self.item_keys):
            digest.update(f"{len(part)}:{part};".encode())
        return digest.hexdigest()[:32]


@phase("features")
def load_features(root: Path, request: Request, encoder: Callable[[], Encoder]) -> FeatureTable:
    """Reads features from the cache, computing what is missing.

    Args:
      root: the cache's folder.
      request: what is asked for.
      encoder: makes the encoder; called only if something is missing.

    Returns:
      The features, one row an item, bit-equal however often they are read.

    Raises:
      MmjaxError: features that are not finite, a full disk, or a folder that cannot be written.
    """
    folder = root / request.digest
    count = len(request.items)
    parts = [range(i, min(i + SHARD_ITEMS, count)) for i in range(0, count, SHARD_ITEMS)]
    shards = [
        _read_shard(_shard_path(folder, i, request), len(p), request.dtype)
        for i, p in enumerate(parts)
    ]
    present = in_every_process(np.array([shard is not None for shard in shards]))
    missing = np.flatnonzero(~present).tolist()
    if missing:
        computed = track(
            _compute(encoder(), request, [parts[i] for i in missing]),
            f"{request.name} features",
            total=sum(len(parts[i]) for i in missing),
        )
        results = iter(computed)
        for i in missing:
            rows = [np.asarray(next(results), request.dtype) for _ in parts[i]]
            _check_finite(request, parts[i], rows)
            with writing(f"cannot write features to {folder}", ELSEWHERE):
                folder.mkdir(parents=True, exist_ok=True)
                _write_shard(_shard_path(folder, i, request), rows)
            shards[i] = rows
    return table_of([row for shard in shards for row in shard or []])


def _compute(
    encoder: Encoder, request: Request, parts: Sequence[Sequence[int]]
) -> Iterator[np.ndarray]:
    """Shard by shard: a batch's company shows in the last bits, so no batch spans two shards."""
    for part in parts:
        yield from encoder.outputs(Chosen(request.items, part), request.output)


def _check_finite(request: Request, part: Sequence[int], rows: Sequence[np.ndarray]) -> None:
    """Refuses what no training could read, before it is kept for every later run."""
    bad = [i for i, row in zip(part, rows, strict=True) if not np.isfinite(row).all()]
    if bad:
        names = ", ".join(f"{i} ({shown(request.item_keys[i])})" for i in bad[:3])
        raise MmjaxError(
            f"{request.name} features are not finite in {len(bad)} of {len(rows)} rows, such as "
            f"{names}; none of these rows is kept: look at them, and at the encoder's weights"
        )


def _shard_path(folder: Path, index: int, request: Request) -> Path:
    return folder / f"{request.output}-{index:05d}.array_record"


def _array_record() -> Any:
    """The compiled module: heavy to import, and no type checker sees into it."""
    from array_record.python import (
        array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
    )

    return array_record_module


def _write_shard(path: Path, rows: Sequence[np.ndarray]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    header = {"shapes": [r.shape for r in rows], "dtype": str(rows[0].dtype)}
    try:
        writer = _array_record().ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        writer.write(json.dumps(header).encode())
        for row in rows:
            writer.write(row.tobytes())
        writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_shard(path: Path, count: int, dtype: str) -> list[np.ndarray] | None:
    """The shard's rows, or None where there is no whole shard of that many rows."""
    if not path.is_file():
        return None
    try:
        reader = _array_record().ArrayRecordReader(str(path))
        try:
            records = reader.read_all()
        finally:
            reader.close()
        header = json.loads(records[0])
        shapes = header["shapes"]
        rows = [
            np.frombuffer(r, dtype).reshape(s) for r, s in zip(records[1:], shapes, strict=True)
        ]
    except Exception:  # torn by a full disk or a crash, in whatever way: computed again
        return None
    whole = header["dtype"] == dtype and len(rows) == count
    alike = len({(row.ndim, row.shape[-1:]) for row in rows}) == 1
    finite = whole and alike and all(np.isfinite(row).all() for row in rows)
    return rows if finite and 1 <= rows[0].ndim <= 2 else None
