import errno
import importlib
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import MmjaxError
from mmjax.files import write_atomic
from mmjax.writer import METRICS_FILE, MetricsWriter, read_metrics, series


def _write(workdir, steps, **options):
    with MetricsWriter(workdir, process_index=0, **options) as writer:
        for step in steps:
            writer.write(step, {"loss": 1.0 / (step + 1)})


def test_one_strict_json_object_a_line_flushed_at_once(tmp_path):
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(
            3,
            {
                "loss": np.float32(0.5),
                "count": np.int64(7),
                "mR": jnp.float32(0.25),
                "bad": math.nan,
                "inf": -math.inf,
                "phase": "验证",
                "done": True,
            },
        )
        line = (tmp_path / "run" / METRICS_FILE).read_text(encoding="utf-8")  # still open

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    assert line.endswith("\n")
    assert json.loads(line, parse_constant=refuse) == {
        "step": 3,
        "loss": 0.5,
        "count": 7,
        "mR": 0.25,
        "bad": None,
        "inf": None,
        "phase": "验证",
        "done": True,
    }


def test_null_reads_back_as_nan(tmp_path):
    with MetricsWriter(tmp_path, process_index=0) as writer:
        writer.write(1, {"loss": math.inf})
    assert math.isnan(read_metrics(tmp_path)[0]["loss"])


def test_other_processes_write_nothing(tmp_path):
    with MetricsWriter(tmp_path / "run", process_index=1) as writer:
        writer.write(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


def test_resume_drops_later_records_and_continues(tmp_path):
    _write(tmp_path, range(10))
    _write(tmp_path, range(7, 12), resume_step=6)
    assert [record["step"] for record in read_metrics(tmp_path)] == list(range(12))


def test_resumed_file_equals_that_of_an_unbroken_run(tmp_path):
    _write(tmp_path / "whole", range(12))
    _write(tmp_path / "broken", range(9))
    with (tmp_path / "broken" / METRICS_FILE).open("a") as file:
        file.write('{"step": 9, "lo')
    _write(tmp_path / "broken", range(5, 12), resume_step=4)
    whole, broken = (tmp_path / name / METRICS_FILE for name in ("whole", "broken"))
    assert broken.read_bytes() == whole.read_bytes()


def test_new_run_drops_everything(tmp_path):
    _write(tmp_path, range(5))
    _write(tmp_path, [0])
    assert [record["step"] for record in read_metrics(tmp_path)] == [0]


def test_torn_last_line_is_left_out(tmp_path):
    _write(tmp_path, range(3))
    path = tmp_path / METRICS_FILE
    path.write_bytes(path.read_bytes()[:-5])
    assert [record["step"] for record in read_metrics(path)] == [0, 1]


@pytest.mark.parametrize("line", [b"nonsense", b"[1]", b'{"loss": 1}', b'{"step": "1"}', b"\xff"])
def test_damage_elsewhere_is_named(tmp_path, line):
    path = tmp_path / METRICS_FILE
    path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(MmjaxError, match=r"metrics\.jsonl, line 2: expected a JSON object"):
        read_metrics(path)
    with pytest.raises(MmjaxError, match="line 2"):
        MetricsWriter(tmp_path, resume_step=5, process_index=0)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MmjaxError, match="no such metrics file"):
        read_metrics(tmp_path)


def test_wrong_metrics_are_refused_and_leave_no_line(tmp_path):
    with MetricsWriter(tmp_path, process_index=0) as writer:
        with pytest.raises(ValueError, match="shape"):
            writer.write(0, {"loss": np.zeros(2)})
        with pytest.raises(ValueError, match="list"):
            writer.write(0, {"loss": [1.0]})
        with pytest.raises(ValueError, match="step"):
            writer.write(0, {"step": 1})
    assert read_metrics(tmp_path) == []


def test_series_is_in_order_and_the_last_value_of_a_step_counts():
    records = [
        {"step": 2, "loss": 3.0},
        {"step": 1, "loss": 4.0},
        {"step": 2, "loss": 2.5},
        {"step": 3, "mR": 0.1},
    ]
    assert series(records, "loss") == ((1, 2), (4.0, 2.5))
    assert series(records, "unknown") == ((), ())


def test_killed_writer_loses_no_whole_line(tmp_path):
    code = (
        "import sys, pathlib, itertools; from mmjax.writer import MetricsWriter\n"
        "w = MetricsWriter(pathlib.Path(sys.argv[1]), process_index=0)\n"
        "for s in itertools.count(): w.write(s, {'loss': 1.0}); print(s, flush=True)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    seen = -1
    try:
        while seen < 20:
            seen = int(child.stdout.readline())
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    steps = [record["step"] for record in read_metrics(tmp_path)]
    assert steps == list(range(len(steps)))
    assert len(steps) > seen


def test_full_disk_is_one_clear_sentence(tmp_path, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "report.md"
    target.write_text("old")
    with MetricsWriter(tmp_path, process_index=0) as writer:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(MmjaxError, match=r"metrics\.jsonl.*No space left.*free some space"):
            writer.write(0, {"loss": 1.0})
        with pytest.raises(MmjaxError, match=r"report\.md.*No space left"):
            write_atomic(target, "new")
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [METRICS_FILE, "report.md"]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    write_atomic(tmp_path / "a", "héllo 世界")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "héllo 世界"


def _events(folder):
    """The events of TensorBoard's one file: records of length, checksum, protobuf, checksum."""
    Event = importlib.import_module("tensorboardX.proto.event_pb2").Event  # made at import
    (file,) = folder.iterdir()
    data, events = file.read_bytes(), []
    while data:
        (size,) = struct.unpack_from("<Q", data)
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return events


def test_tensorboard_gets_numbers_and_hides_what_a_killed_run_wrote(tmp_path):
    with MetricsWriter(
        tmp_path, resume_step=4, trackers=("tensorboard",), process_index=0
    ) as writer:
        writer.write(5, {"loss": 1.5, "phase": "train", "bad": math.nan})
    events = _events(tmp_path / "tensorboard")
    values = [(v.tag, v.simple_value, e.step) for e in events for v in e.summary.value]
    assert values == [("loss", 1.5, 5)]
    starts = [e.step for e in events if e.session_log.status == e.session_log.START]
    assert starts == [5]


def test_tensorboard_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MmjaxError, match=r"mmjax\[tensorboard\]"):
        MetricsWriter(tmp_path, trackers=("tensorboard",), process_index=0)
    assert not (tmp_path / METRICS_FILE).exists()


def test_a_record_costs_little(tmp_path):
    start = time.perf_counter()
    _write(tmp_path, range(2000))
    assert time.perf_counter() - start < 2.0
