"""Asks a model the questions of published benchmarks and counts its answers.

A folder holds what one model said, a file a benchmark; what was answered is not asked again.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from mmjax.checks.foreign import is_file
from mmjax.data.files import error_of, read_jsonl
from mmjax.data.questions.question import Question
from mmjax.data.turn_records import as_line
from mmjax.encoders.image_preprocess import open_image
from mmjax.errors import DataError, MmjaxError, shown, writing
from mmjax.evals.benchmarks import Benchmark, benchmark, chosen
from mmjax.evals.measures import Both, Reply
from mmjax.files import digest_of, read_optional_json, write_json
from mmjax.progress import track
from mmjax.synthesis.lines import append_lines, drop_torn

Pictures: TypeAlias = Sequence[Image.Image | None]
# (prompts, their pictures) -> answers
Answer: TypeAlias = Callable[[Sequence[str], Pictures], Sequence[str]]
# (prompts, options of each, their pictures) -> log-probabilities of the options
Score: TypeAlias = Callable[
    [Sequence[str], Sequence[Sequence[str]], Pictures], Sequence[Sequence[float]]
]
ANSWERS, RESULTS = "answers", "evaluation.json"


@dataclass(frozen=True)
class Row:
    """What came out of one benchmark.

    Attributes:
      name: of the benchmark.
      asked: how many questions were asked.
      total: how many it has.
      missing: how many have no answer; they count as wrong.
      figures: by name.
    """

    name: str
    asked: int
    total: int
    missing: int
    figures: dict[str, Both]


def evaluate(
    answer: Answer,
    names: Sequence[str],
    root: Path,
    workdir: Path,
    *,
    system: str,
    score: Score | None = None,
    limit: int = 0,
    batch: int = 16,
    seed: int = 0,
    retry: bool = False,
) -> list[Row]:
    """Measures a model by benchmarks.

    Args:
      answer: what the model says.
      names: of benchmarks, as in `mmjax.evals.benchmarks.BENCHMARKS`.
      root: holds a folder a benchmark, called by its name.
      workdir: takes answers/NAME.jsonl and evaluation.json; made where it is not there.
      system: which model answers; a folder takes the answers of one alone.
      score: how likely it finds options; needed by benchmarks that ask for that.
      limit: at most so many questions a benchmark, spread evenly (0: all).
      batch: questions that are asked at once.
      seed: of the options that `legacy` draws for answers that name none.
      retry: whether questions without an answer, for want of a picture, are asked again.

    Returns:
      A row a benchmark, in the order of the names.

    Raises:
      MmjaxError: an unknown name, another system's folder, or an answer too few.
      DataError: files of a benchmark that are missing or damaged, or none of its pictures there.
    """
    benchmarks = {name: benchmark(name) for name in names}
    lacking = next(
        (name for name, bench in benchmarks.items() if bench.scored and score is None), None
    )
    if lacking is not None:
        raise MmjaxError(f"{lacking} is measured by likelihoods; give `score`, or leave it out")
    answers = workdir / ANSWERS
    with writing(answers):
        answers.mkdir(parents=True, exist_ok=True)
    _keep(workdir, system, [])
    rows: list[Row] = []
    for name, bench in benchmarks.items():
        everything = bench.read(root / name)
        questions = chosen(everything, limit)
        _check_pictures(bench, questions)
        path = answers / f"{name}.jsonl"
        by_id = _known(path, bench, everything, retry)
        unanswered = [question for question in questions if question.id not in by_id]
        starts = range(0, len(unanswered), batch)
        for start in track(starts, f"asking {bench.title}", len(starts)):
            lines = _ask(bench, unanswered[start : start + batch], answer, score)
            append_lines(path, map(as_line, lines))
            by_id.update((str(line["id"]), _reply(line)) for line in lines)
        replies = [by_id[question.id] for question in questions]
        figures = bench.measure(questions, replies, seed)
        rows.append(Row(name, len(questions), len(everything), replies.count(None), figures))
        _keep(workdir, system, rows)
    return rows


def _keep(workdir: Path, system: str, rows: Sequence[Row]) -> None:
    """Writes what is known so far, figures as {"legacy", "strict"}, beside earlier benchmarks.

    Raises:
      MmjaxError: the folder is another system's.
    """
    kept = read_optional_json(workdir / RESULTS)
    if kept.get("system", system) != system:
        raise MmjaxError(
            f"{workdir} holds answers of {shown(kept['system'])}, not of {shown(system)}; choose "
            "another folder"
        )
    by_name = {row["name"]: row for row in kept.get("rows", [])}
    for row in rows:
        figures = {name: both._asdict() for name, both in row.figures.items()}
        by_name[row.name] = asdict(row) | {"figures": figures}
    write_json(workdir / RESULTS, {"system": system, "rows": list(by_name.values())})


def _check_pictures(one: Benchmark, questions: Sequence[Question]) -> None:
    """Refuses a set of which no picture is there: its folder lies elsewhere.

    Raises:
      DataError: so it is.
    """
    paths = [q.image for q in questions if isinstance(q.image, Path)]
    if paths and not any(is_file(path) for path in paths):
        raise DataError(f"{one.title}: none of its {len(paths)} pictures is there, as {paths[0]}")


def _ask(
    one: Benchmark, questions: Sequence[Question], answer: Answer, score: Score | None
) -> list[dict[str, object]]:
    """A line a question: its id, what was asked, and the answer or why there is none."""
    lines: list[dict[str, object]] = []
    good: list[tuple[dict[str, object], Question, Image.Image | None]] = []
    for question in questions:
        line: dict[str, object] = {"id": question.id, "asked": _asked(one, question)}
        lines.append(line)
        try:
            good.append((line, question, _open(question)))
        except (MmjaxError, OSError) as error:
            line.update(answer=None, error=error_of(error))
    if good:
        texts, pictures = [one.ask(q) for _, q, _ in good], [picture for *_, picture in good]
        if one.scored and score is not None:
            replies = score(texts, [q.options for _, q, _ in good], pictures)
        else:
            replies = answer(texts, pictures)
        if len(replies) != len(good):
            raise MmjaxError(f"{len(good)} questions of {one.title} have {len(replies)} answers")
        for (line, *_), reply in zip(good, replies, strict=True):
            line["answer"] = reply if isinstance(reply, str) else [float(x) for x in reply]
    return lines


def _open(question: Question) -> Image.Image | None:
    picture = question.image
    if picture is None:
        return None
    return open_image(picture if isinstance(picture, Path) else picture.read())


def _asked(one: Benchmark, question: Question) -> str:
    """Stands for the prompt and its options: an answer belongs to these alone."""
    return digest_of([one.ask(question), list(question.options)])[:16]


def _known(
    path: Path, one: Benchmark, questions: Sequence[Question], retry: bool
) -> dict[str, Reply]:
    """Answers that are there already.

    Raises:
      DataError: a line that is none, or belongs to another question.
    """
    if not path.exists():
        return {}
    drop_torn(path)
    prompts = {question.id: question for question in questions}
    replies: dict[str, Reply] = {}
    for place, line in read_jsonl(path):
        question = prompts.get(str(line.get("id")))
        if question is None or line.get("asked") != _asked(one, question):
            raise DataError(
                f"{place}: answers another question than {one.title} asks now; move {path} away"
            )
        if "answer" not in line:
            raise DataError(f"{place}: has no 'answer'; remove the line")
        if line["answer"] is not None or not retry:
            replies[question.id] = _reply(line)
    return replies


def _reply(line: dict[str, object]) -> Reply:
    answer = line["answer"]
    if isinstance(answer, list):
        return [float(value) for value in answer]
    return answer if isinstance(answer, str) else None
