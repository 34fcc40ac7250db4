"""The run's record of numbers: metrics.jsonl, one strict JSON object a line; and trackers."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax import tracking
from mmjax.errors import MmjaxError, writing
from mmjax.files import _write_all, write_atomic

METRICS_FILE = "metrics.jsonl"

Record = dict[str, Any]


class MetricsWriter:
    """Appends metrics to `<workdir>/metrics.jsonl`; a no-op on every process but the first.

    A line is flushed as soon as it is written, so a killed run loses at most its last line. A
    resumed run first drops what the killed one wrote after its last checkpoint: the file then
    reads as if the run had never stopped.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        resume_step: int | None = None,
        mark: Mapping[str, Any] | None = None,
        trackers: Sequence[str] = (),
        process_index: int | None = None,
    ) -> None:
        """Opens the file, after dropping the records that will be written again.

        Args:
          workdir: run directory, made if it is not there.
          resume_step: the restored checkpoint's step: later records are dropped. None starts a
            new run and drops them all.
          mark: what `mark` said when that checkpoint was saved: exactly so much is kept.
          trackers: names of `mmjax.tracking.NAMES` that get the numbers too.
          process_index: this process's number; None asks jax.

        Raises:
          MmjaxError: the file is damaged before its last line, cannot be written, or the
            package of a tracker is not installed.
        """
        if process_index is None:
            import jax  # here, so that reading metrics needs no jax

            process_index = jax.process_index()
        self._fd: int | None = None
        self._trackers: list[tracking.Tracker] = []
        if process_index != 0:
            return
        self.path = workdir / METRICS_FILE
        opened = tracking.open_trackers(trackers, workdir, resume_step)
        with writing(self.path):
            workdir.mkdir(parents=True, exist_ok=True)
            kept = _keep_up_to(self.path, resume_step, mark)
            self._size, self._digest = len(kept), hashlib.sha256(kept)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._trackers = opened

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one record.

        Args:
          step: number of optimizer steps done, >= 0.
          metrics: name -> Python, numpy or jax scalar, or text. NaN and infinities are written as
            null, for JSON has neither.

        Raises:
          MmjaxError: the disk is full or the file cannot be written.
          ValueError: a metric is called "step" or is not a scalar.
        """
        if self._fd is None:
            return
        if "step" in metrics:
            raise ValueError('a metric cannot be called "step"')
        record: Record = {"step": int(step)}
        record.update((name, _plain(name, value)) for name, value in metrics.items())
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with writing(self.path):
            _write_all(self._fd, line.encode())
        self._size += len(line.encode())
        self._digest.update(line.encode())
        numbers = {k: v for k, v in record.items() if k != "step" and isinstance(v, (int, float))}
        for tracker in self._trackers:
            tracker.write(step, numbers)

    def mark(self) -> dict[str, Any] | None:
        """What is written so far, for `begins_with`: its bytes and their digest.

        Returns:
          {"bytes", "sha256"}; None on every process but the first.
        """
        if self._fd is None:
            return None
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        while self._trackers:
            self._trackers.pop().close()

    def __enter__(self) -> "MetricsWriter":
        """Returns itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Closes the files."""
        self.close()


def read_metrics(path: Path) -> list[Record]:
    """Reads a metrics file.

    Args:
      path: metrics.jsonl, or the run directory that holds it.

    Returns:
      The records in file order; null comes back as NaN. A torn last line is left out.

    Raises:
      MmjaxError: there is no such file, or another line than the last is not a record.
    """
    path = path / METRICS_FILE if path.is_dir() else path
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise MmjaxError(
            f"{path}: there is no such metrics file; start the run first, or give its --workdir"
        ) from error
    # Every whole line ends in a newline, so what follows the last one is empty or torn.
    return [_parse(path, number, line) for number, line in enumerate(lines[:-1], start=1)]


def begins_with(path: Path, mark: Mapping[str, Any]) -> bool:
    """Whether a metrics file begins with what was written up to a mark.

    Args:
      path: the file; one that is missing is as good as an empty one.
      mark: of the writer, when a checkpoint was saved.

    Returns:
      False where a byte of it is another, or it is shorter.
    """
    start = path.read_bytes()[: mark["bytes"]] if path.is_file() else b""
    return len(start) == mark["bytes"] and hashlib.sha256(start).hexdigest() == mark["sha256"]


def series(records: Iterable[Record], metric: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Picks one metric's curve out of records.

    Args:
      records: what `read_metrics` returns.
      metric: name of a number.

    Returns:
      (steps, values) in order of step; where a step was written twice the last value counts.
    """
    values = {record["step"]: float(record[metric]) for record in records if metric in record}
    steps = tuple(sorted(values))
    return steps, tuple(values[step] for step in steps)


def _keep_up_to(path: Path, step: int | None, mark: Mapping[str, Any] | None) -> bytes:
    """Drops records after `step` (all of them for None) and a torn last line; returns the rest."""
    if not path.exists():
        return b""
    before = path.read_bytes()
    kept = b""
    if step is not None and mark is not None:
        kept = before[: mark["bytes"]]
    elif step is not None:
        lines = before.split(b"\n")[:-1]
        kept = b"".join(
            line + b"\n"
            for number, line in enumerate(lines, start=1)
            if _parse(path, number, line)["step"] <= step
        )
    if kept != before:
        write_atomic(path, kept)
    return kept


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or not isinstance(record["step"], int):
            raise ValueError
    except (ValueError, KeyError) as error:
        raise MmjaxError(
            f"{path}, line {number}: expected a JSON object with an integer step;"
            " remove that line, or move the file away and start again"
        ) from error
    return {name: math.nan if value is None else value for name, value in record.items()}


def _plain(name: str, value: Any) -> Any:
    """Makes a JSON value of a scalar."""
    if hasattr(value, "item"):  # numpy and jax scalars
        if getattr(value, "size", 1) != 1:
            raise ValueError(f"metric {name} has shape {value.shape}, a scalar is expected")
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise ValueError(f"metric {name} is a {type(value).__name__}, a scalar is expected")
