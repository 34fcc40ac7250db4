"""ScienceQA: multiple choice with lectures and solutions, about pictures or about none."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.checks.foreign import is_file, shown_path
from mmjax.data.files import check_name, read_object, whole_text
from mmjax.data.layout import Conversation
from mmjax.data.wording import Turn, problem
from mmjax.errors import DataError, shown

SOURCE = "scienceqa"
LETTERS = "ABCDEFGHIJ"
SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_GRADES = tuple(map(str, range(1, 13)))
_TEXTS = ("question", "hint", "lecture", "solution", "subject", "grade")


@dataclass(frozen=True)
class Problem:
    """One problem as the data set has it.

    Attributes:
      id: its key in problems.json.
      question: what is asked.
      choices: the options.
      answer: index of the right one.
      hint: a passage to read; may be empty.
      lecture: background; may be empty.
      solution: why the answer is right; may be empty.
      subject: one of `SUBJECTS`.
      grade: 1 to 12.
      caption: of the picture; empty where captions are not read.
      image: which picture; None for text alone.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str
    lecture: str
    solution: str
    subject: str
    grade: int
    caption: str = ""
    image: int | None = None

    @property
    def prompt(self) -> str:
        """What the language model reads: question, context and options."""
        pairs = zip(LETTERS, self.choices, strict=False)
        options = " ".join(f"({letter}) {choice}" for letter, choice in pairs)
        return problem(self.question, f"{self.hint} {self.caption}".strip(), options)

    @property
    def target(self) -> str:
        """What it learns to say: answer, lecture and solution (ALE).

        Line breaks of lecture and solution are written as a backslash and an n, and a problem that
        has neither ends in "BECAUSE:", both as in the texts that the published models learned.
        """
        lecture, solution = (x.replace("\n", "\\n") for x in (self.lecture, self.solution))
        text = f"The answer is {LETTERS[self.answer]}. BECAUSE: {lecture} {solution}"
        return text.replace("  ", " ").strip()

    @property
    def conversation(self) -> Conversation:
        """As the language model reads and learns it."""
        return Conversation((Turn(self.prompt), Turn(self.target, learn=True)), self.image)


@dataclass(frozen=True)
class Problems:
    """Problems of one side, and where their pictures are.

    Attributes:
      problems: in the order of pid_splits.json.
      names: of each problem, for messages.
      images: their files; `Problem.image` counts them.
      image_names: whose each picture is, for messages.
    """

    problems: tuple[Problem, ...]
    names: tuple[str, ...]
    images: tuple[Path, ...]
    image_names: tuple[str, ...]

    @functools.cached_property
    def conversations(self) -> tuple[Conversation, ...]:
        """The problems as the language model reads and learns them."""
        return tuple(problem.conversation for problem in self.problems)


def load_scienceqa(source: str, side: str, captions: bool = False) -> Problems:
    """Reads one side of ScienceQA, split as its authors did.

    Args:
      source: `scienceqa:FOLDER`; the folder holds problems.json, pid_splits.json,
        images/SIDE/ID/image.png and, where captions are read, captions.json.
      side: `train`, `val` or `test`.
      captions: whether the pictures' captions go into the context. The paper's models read none.

    Returns:
      The side's problems.

    Raises:
      DataError: a file that cannot be read, a problem that is listed but not there, or has another
        form, or a picture that is missing; named by the problem's key.
    """
    folder = Path(source.partition(":")[2])
    if not source.startswith(f"{SOURCE}:") or not source.partition(":")[2]:
        raise DataError(f"no questions are called {source!r}; expected {SOURCE}:FOLDER")
    path = folder / "problems.json"
    rows, splits = read_object(path), read_object(folder / "pid_splits.json")
    spoken: Mapping[str, Any] = {}
    if captions:
        content = read_object(folder / "captions.json")
        spoken = content["captions"] if isinstance(content.get("captions"), dict) else content
    listed = splits.get(side)
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{folder / 'pid_splits.json'} lists no {side!r} problems")
    problems: list[Problem] = []
    names: list[str] = []
    pictures: list[Path] = []
    picture_names: list[str] = []
    seen: set[str] = set()
    for entry in listed:
        if isinstance(entry, bool) or not isinstance(entry, str | int):
            raise DataError(
                f"{folder / 'pid_splits.json'}: {side!r} lists {shown(entry)}; expected the key of "
                "a problem"
            )
        pid = check_name(f"{folder / 'pid_splits.json'}, {side!r}", str(entry))
        name = f"{path}, problem {shown(pid)[1:-1]}"
        if pid in seen:
            raise DataError(f"{name}: pid_splits.json lists it twice as {side}")
        seen.add(pid)
        if pid not in rows:
            raise DataError(f"{name}: pid_splits.json lists it as {side}, but it is not there")
        row = rows[pid]
        picture = None
        if isinstance(row, dict) and row.get("image"):
            if not isinstance(row["image"], str):
                raise DataError(f"{name}: 'image' is {shown(row['image'])}; expected a file's name")
            own = check_name(f"{name}, 'image'", row["image"])
            picture, file = len(pictures), folder / "images" / side / pid / own
            if not is_file(file):
                raise DataError(f"{name}: its picture {shown_path(file)} is missing")
            pictures.append(file)
            picture_names.append(name)
        caption = spoken.get(pid, "") if picture is not None else ""
        problems.append(
            _problem(pid, row, picture, whole_text(f"{name}: its caption", caption), name)
        )
        names.append(name)
    return Problems(tuple(problems), tuple(names), tuple(pictures), tuple(picture_names))


def _problem(pid: str, row: Any, picture: int | None, caption: str, name: str) -> Problem:
    if not isinstance(row, dict):
        raise DataError(f"{name}: expected an object, got {shown(row)}")
    texts = {key: row.get(key) or "" for key in _TEXTS}
    for key, value in texts.items():
        whole_text(f"{name}: {key!r}", value)
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise DataError(
            f"{name}: 'choices' is {shown(choices)}; expected 2 to {len(LETTERS)} texts"
        )
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise DataError(f"{name}: 'answer' is {shown(answer)}, with {len(choices)} choices")
    if not texts["question"].strip():
        raise DataError(f"{name}: an empty question")
    subject, grade = texts.pop("subject"), texts.pop("grade").removeprefix("grade")
    if subject not in SUBJECTS:
        raise DataError(f"{name}: 'subject' is {shown(subject)}; expected one of {list(SUBJECTS)}")
    if grade not in _GRADES:
        raise DataError(f"{name}: 'grade' is {shown(row.get('grade'))}; expected grade1 to grade12")
    return Problem(
        pid,
        choices=tuple(whole_text(f"{name}: 'choices'", choice) for choice in choices),
        answer=answer,
        subject=subject,
        grade=int(grade),
        caption=caption,
        image=picture,
        **texts,
    )
