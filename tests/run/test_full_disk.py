"""A full disk, as each library says it, is one sentence, and what was whole stays whole."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from mmjax import checkpoint
from mmjax.data import feature_cache
from mmjax.errors import MmjaxError, is_full_disk, writing
from mmjax.runs import adapter_files
from tests.test_checkpoint import IDENTITY, make_batches, make_state, restore

ORBAX = ValueError(
    'RESOURCE_EXHAUSTED: Failed writing: "runs/a": Failed to write 4459 bytes to file 30: '
    "No space left on device [os_error_code='28']"
)
ARRAY_RECORD = RuntimeError(
    "write() failed: No space left on device; writing features; at byte 0; Failed to close "
    "chunk_writer"
)
SYSTEM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
QUOTA = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def fail(error):
    def failing(*arguments: Any, **settings: Any) -> Any:
        raise error

    return failing


@pytest.mark.parametrize("error", [ORBAX, SYSTEM, QUOTA])
@pytest.mark.parametrize("moment", ["at once", "later", "adapter"])
def test_a_checkpoint(error, moment, tmp_path, mesh, monkeypatch):
    folder, state, batches = tmp_path / "c", make_state(mesh(1)), make_batches()

    class Response:
        result = staticmethod(fail(error))

    def save_twice():
        with contextlib.closing(checkpoint.Checkpoints(folder, 2, IDENTITY)) as checkpoints:
            next(batches)
            checkpoints.save(state._replace(step=jnp.int32(1)), batches, {})
            if moment == "adapter":
                monkeypatch.setattr(ocp, "save", fail(error))
                adapter_files.save_adapter(tmp_path / "adapter", state.trainable, {"step": 1})
            found = fail(error) if moment == "at once" else lambda *_, **__: Response()
            monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables_async", found)
            checkpoints.save(state._replace(step=jnp.int32(2)), batches, {})

    with pytest.raises(
        MmjaxError, match=r"cannot save to .*: (No space|Disk quota).* same command"
    ):
        save_twice()
    monkeypatch.undo()
    assert not (tmp_path / "adapter" / adapter_files.CARD).exists()
    found, _ = restore(folder, mesh(1))
    assert found is not None
    assert int(found[0].step) == 1


def test_what_ended_a_run_counts_more_than_its_last_save(tmp_path, monkeypatch):
    checkpoints = checkpoint.Checkpoints(tmp_path, 2, IDENTITY)
    monkeypatch.setattr(checkpoints, "close", fail(MmjaxError("no space")))
    with pytest.raises(KeyError), checkpoints:
        raise KeyError


@pytest.mark.parametrize("call", ["write", "close"])
def test_features(call, tmp_path, monkeypatch):
    class Writer:
        def __init__(self, path: str, options: str) -> None:
            self.records = Path(path)
            self.records.touch()

        def write(self, record: bytes) -> None:
            if call == "write":
                raise ARRAY_RECORD
            self.records.write_bytes(record)

        def close(self) -> None:
            raise ARRAY_RECORD

    class Module:
        ArrayRecordWriter = Writer

    monkeypatch.setattr(feature_cache, "_array_record", lambda: Module)
    monkeypatch.setattr(feature_cache, "_compute", lambda *_: iter(np.zeros((2, 3), np.float32)))
    nobody: Any = None
    request = feature_cache.Request("text", ("key",), ["a", "b"], ["a", "b"], "pooled")
    with pytest.raises(MmjaxError, match=r"cannot write features to .*: No space.* MMJAX_CACHE"):
        feature_cache.load_features(tmp_path, request, lambda: nobody)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_other_failures_are_not_told_as_a_full_disk(tmp_path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(MmjaxError, match=r"^as it was$"), writing(tmp_path):
        raise MmjaxError("as it was") from SYSTEM
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    sentence = rf"^{tmp_path}: cannot be written \(Permission denied\); "
    with pytest.raises(MmjaxError, match=sentence), writing(tmp_path):
        raise denied
    assert not is_full_disk(denied)
