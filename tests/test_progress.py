from types import SimpleNamespace

import pytest

from mmjax import progress
from mmjax.errors import MmjaxError, is_full_disk


def test_track_yields_the_same_items_in_order():
    assert list(progress.track(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert list(progress.track(iter("abc"), "letters")) == ["a", "b", "c"]


def test_lines_at_every_tenth_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1)
    list(progress.track(range(20), "counting"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("counting: 10% (2/20)")
    assert len(lines) == 11
    assert lines[-1].startswith("counting: finished, 20")


def test_work_that_goes_on_shows_its_true_place_and_what_is_said_of_it(monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1)
    assert list(progress.track(range(18), "training", None, 142, lambda: "loss 0.4")) == [
        *range(18)
    ]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training: 90% (144/160)")
    assert all(line.endswith(", loss 0.4") for line in lines)
    assert lines[-1].startswith("training: finished, 18")


def test_long_work_says_early_how_long_it_will_take(monkeypatch, capsys):
    now = iter(range(0, 10**6, 16))  # seconds: 16 an item
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(progress, "_rate", lambda done, start: "1/s")  # it looks at the clock too
    list(progress.track(range(1000), "training", None, 100))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 9% (101/1100), 16 s, 1/s, about 4.4 h left"
    assert lines[1].startswith("training: 10% (110/1100), ")
    assert lines[-2].startswith("training: 100% (1100/1100), ")
    assert "left" not in lines[-2]
    assert len(lines) == 1 + 10 + 1
    assert [progress._duration(s) for s in (7.2, 99, 100, 5990, 7200)] == [
        "7 s",
        "99 s",
        "2 min",
        "100 min",
        "2.0 h",
    ]


def test_quick_work_is_silent(capsys):
    list(progress.track(range(100), "counting"))
    assert capsys.readouterr().err == ""


def test_nested_bars_share_one_display(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    seen = [(a, b) for a in progress.track("ab", "outer") for b in progress.track("cd", "inner")]
    assert seen == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]
    with progress.status("waiting", note=lambda: "12 MB") as report:
        report(1)
    assert progress._DISPLAY._progress is None  # stopped


def test_a_broken_loop_stops_the_display(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with pytest.raises(ZeroDivisionError):
        [1 // i for i in progress.track([1, 0], "dividing")]
    assert progress._DISPLAY._progress is None


def test_full_disk_is_seen_through_other_libraries():
    assert is_full_disk(OSError(28, "No space left on device"))
    assert is_full_disk(RuntimeError("write failed: No space left on device (os error 28)"))
    wrapped = MmjaxError("wrapped")
    wrapped.__cause__ = OSError(28, "full")
    assert is_full_disk(wrapped)
    assert not is_full_disk(ValueError("shape"))
