"""What a stage leaves, checked before it is believed: nothing is used because a file says so.

`done.json` ends a stage. It holds the digest of every file that the stage is made of, and one of
itself; a checkpoint's progress names the adapter and the metrics that belong to its step.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.checks.foreign import reading
from mmjax.errors import MmjaxError
from mmjax.files import digest_of, write_json
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.writer import METRICS_FILE, begins_with, read_metrics

DONE = "done.json"
ADAPTER = "adapter"


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes done.json: from now on the stage counts as finished.

    Args:
      folder: of the stage; its adapter and its metrics are whole.
      facts: small JSON-able facts of the loop.

    Raises:
      MmjaxError: the disk is full.
    """
    files = [*(folder / ADAPTER).rglob("*"), folder / METRICS_FILE]
    digests = {p.relative_to(folder).as_posix(): _sha256(p) for p in sorted(files) if p.is_file()}
    content = {**facts, "files": digests}
    write_json(folder / DONE, {**content, "digest": digest_of(content)})


def problem(folder: Path) -> str | None:
    """Why a stage cannot be used as finished, though it once was.

    Args:
      folder: of a stage, with a done.json.

    Returns:
      What is missing or not as it was written; None where all is whole.
    """
    path = folder / DONE
    try:
        with reading(path, "the end of a run", MmjaxError):
            done = json.loads(path.read_bytes())
        if not isinstance(done, dict):
            return f"{DONE} is no JSON object"
        if "files" not in done:
            return _problem_of_old(folder, done)
    except MmjaxError as error:
        return str(error)
    if done.pop("digest", None) != digest_of(done):
        return f"{DONE} is not what was written"
    for name, digest in done["files"].items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _sha256(folder / name) != digest:
            return f"{name} is not what was written"
    return None


def _problem_of_old(folder: Path, done: Mapping[str, Any]) -> str | None:
    """The same of a done.json without digests, as earlier versions wrote it.

    Raises:
      MmjaxError: the adapter or the metrics cannot be read.
    """
    if not isinstance(done.get("steps"), int) or not isinstance(done.get("seconds"), int | float):
        return f"{DONE} lacks its steps or seconds"
    load_adapter_params(folder / ADAPTER)
    if done["steps"]:
        steps = [record["step"] for record in read_metrics(folder)]
        if steps != sorted(steps) or steps[-1:] != [done["steps"]]:
            return f"{METRICS_FILE} does not end, in order, at step {done['steps']}"
    return None


def misfit(folder: Path, step: int, progress: Mapping[str, Any]) -> str | None:
    """Why training cannot go on from a checkpoint: what else it left is not there or is another's.

    Args:
      folder: of the stage.
      step: of the checkpoint.
      progress: that was saved with it.

    Returns:
      What is missing or not as it was written; None where all goes together, and where the adapter
      can be written again because the checkpoint itself is the best step.
    """
    mark = progress.get("metrics")  # earlier versions saved none
    if mark is not None and not begins_with(folder / METRICS_FILE, mark):
        return f"{folder / METRICS_FILE} is not what was written up to step {step}"
    if progress["best"] is None or progress["best_step"] == step:
        return None
    return adapter_misfit(folder, step, progress)


def adapter_misfit(folder: Path, step: int, progress: Mapping[str, Any]) -> str | None:
    """Why the best adapter up to a checkpoint is not the one in a stage's folder.

    Args:
      folder: of the stage.
      step: of the checkpoint.
      progress: that was saved with it, with a best step.

    Returns:
      None where it is; a later one is made again on the way, so it may stand there too.
    """
    try:
        _, card = load_adapter_params(folder / ADAPTER)
    except MmjaxError as error:
        return str(error)
    fingerprint = progress.get("adapter", card["trainable"]["fingerprint"])
    own = card["step"] == progress["best_step"] and card["trainable"]["fingerprint"] == fingerprint
    if own or card["step"] > step:
        return None
    return f"{folder / ADAPTER} is not the adapter of step {progress['best_step']}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
