"""Records that stream: composed to conversations, or given the answers of a judge elsewhere.

Nothing is computed by a model. Every side writes files into a folder of its own, reads them line
by line as `python -m mmjax.synthesize` does, and says how much memory its process took; ten times
as many records must not take ten times as much.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.apart import Side, Worker, cores_of
from benchmarks.harness import Grid, Options, Report
from mmjax.data.files import read_jsonl
from mmjax.data.turn_records import Message, Record, as_line, read_records
from mmjax.errors import MmjaxError
from mmjax.progress import track
from mmjax.synthesis.answers import read_label
from mmjax.synthesis.compose import compose, with_kept
from mmjax.synthesis.judge import LABELS
from mmjax.synthesis.lines import write_lines
from mmjax.synthesis.parts import Failure
from mmjax.synthesis.requests import import_responses, tasks_of
from mmjax.synthesis.templates import Wordings

COMPOSED, IMPORTED = "compose", "import of a judge's answers"


def records(count: int) -> Iterator[Record]:
    """Captions with one task each, as long as an emoji's keywords and two sentences."""
    for i in range(count):
        caption = f"A photo of plant {i} with leaves, grass, stones and water near a wooden fence."
        task = {
            "question": f"What stands near plant {i}?",
            "precise": "a wooden fence",
            "informative": f"Plant {i} grows by the water. Near it stands a wooden fence.",
        }
        turns = Message("user", "Describe the image."), Message("assistant", caption, loss=True)
        yield Record(f"pair-{i}", (f"images/{i:07d}.jpg",), turns, {"triplets": [task]})


def _compose(folder: Path, count: int) -> int:
    generated, audit = folder / "generated.jsonl", folder / "audit.jsonl"
    wordings = Wordings.read("en")
    both = with_kept(read_records(generated), read_jsonl(audit))
    lines = (compose(record, kept, wordings, seed=0).line() for record, kept in both)
    return write_lines(folder / "composed.jsonl", track(lines, "composing", count))


def _import(folder: Path, count: int) -> int:
    counts: Counter[str] = Counter()
    failures: dict[str, Failure] = {}
    tasks = tasks_of(read_records(folder / "generated.jsonl"))
    replies = import_responses(folder / "responses.jsonl", tasks, failures.__setitem__, counts)
    labels = (as_line({"id": r.item.id, "label": read_label(r.text, None)[0]}) for r in replies)
    return write_lines(folder / "labels.jsonl", track(labels, "importing", count))


def side(work: str, count: int) -> Callable[[], int]:
    """One pass over files that are made here, by the clock of the caller.

    Args:
      work: `COMPOSED` or `IMPORTED`.
      count: records.

    Returns:
      The run; it returns how many records came out.
    """
    folder = tempfile.TemporaryDirectory(prefix="mmjax-stream-")
    place = Path(folder.name)
    write_lines(place / "generated.jsonl", (record.line() for record in records(count)))
    if work == COMPOSED:
        verdicts = ({"id": f"pair-{i}", "number": 0, "keep": i % 3 == 0} for i in range(count))
        write_lines(place / "audit.jsonl", map(as_line, verdicts))
    else:  # in another order than the tasks, as a batch comes back
        backwards = reversed(range(count))
        answers = ({"id": f"pair-{i}/0", "text": LABELS[i % len(LABELS)]} for i in backwards)
        write_lines(place / "responses.jsonl", map(as_line, answers))

    def once() -> int:
        return (_compose if work == COMPOSED else _import)(Path(folder.name), count)

    return once


def run(options: Options) -> Report:
    """Streams a tenth of the records, then all of them.

    Args:
      options: `batches` are numbers of records instead; `full` composes 100,000 at most and imports
        1,000,000.

    Returns:
      Records a second and peak memory, a process each.

    Raises:
      MmjaxError: a record is lost.
    """
    rows: list[tuple[str, ...]] = []
    report = Report()
    cores = cores_of(options.threads or 1)
    for work, quick in ((COMPOSED, (1_000, 10_000)), (IMPORTED, (10_000, 100_000))):
        for count in options.sizes(quick, [10 * few for few in quick]):
            arguments = {"work": work, "count": count}
            with Worker(Side(work, f"{__name__}:side", arguments), cores, 1) as worker:
                timed = worker.run()
            if not timed["value"] == worker.value == count:
                raise MmjaxError(f"{work}: {timed['value']} of {count} records came out")
            sample = {"count": count, "seconds": timed["seconds"], "own": timed["own"]}
            report.samples.setdefault(work, []).append(sample | {"peak": worker.peak})
            speed, memory = f"{count / timed['seconds']:,.0f}", f"{worker.peak / 2**20:,.0f}"
            rows.append((work, f"{count:,}", speed, memory))
    columns = ("work", "records", "records a second", "peak MiB")
    report.grids.append(Grid("Records that stream, on one core", columns, tuple(rows)))
    return report
