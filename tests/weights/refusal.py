"""What reading a damaged or hostile file must look like."""

import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmjax.errors import MmjaxError

SECONDS, KIBIBYTES = 1.0, 200 * 1024


def refused(read: Callable[[], Any], tmp_path: Path) -> str:
    """Reads; returns the error's message. Fails when it is slow, large, or runs the file's code."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, message = _read(read)
    if seconds >= SECONDS:  # garbage may be collected meanwhile; a hostile file is slow twice
        seconds, message = _read(read)
    assert seconds < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIBIBYTES
    assert not (tmp_path / "ran").exists()
    assert "\n" not in message
    assert str(tmp_path) in message
    return message


def _read(read: Callable[[], Any]) -> tuple[float, str]:
    """(seconds of this thread, the error's message)."""
    began = time.thread_time()  # the machine may be busy, and so may this process's other threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's overflows inside the parsers
        with pytest.raises(MmjaxError) as raised:
            read()
    return time.thread_time() - began, str(raised.value)
