"""easy-VQA: questions with one-word answers about pictures of one shape."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mmjax import assets
from mmjax.data.files import read_data_json, whole_text
from mmjax.data.layout import Conversation
from mmjax.data.wording import QUESTION, Turn
from mmjax.errors import DataError, shown

SOURCE = "easy_vqa"


@dataclass(frozen=True)
class EasyVqaQuestion:
    """A question, its answer, and which picture of `Questions.images` it is about."""

    text: str
    answer: str
    image: int

    @property
    def conversation(self) -> Conversation:
        """As the language model reads it."""
        question = Turn(QUESTION.format(question=self.text))
        return Conversation((question, Turn(f" {self.answer}", learn=True)), self.image)


@dataclass(frozen=True)
class Questions:
    """Questions of one side, and where the pictures are."""

    questions: tuple[EasyVqaQuestion, ...]
    images: tuple[Path, ...]

    def of_images(self, chosen: Int[np.ndarray, " k"]) -> "Questions":
        """The questions about some of the pictures."""
        numbers = set(chosen.tolist())
        kept = tuple(q for q in self.questions if q.image in numbers)
        return Questions(kept, self.images)


def load_easy_vqa(source: str, side: str) -> Questions:
    """Reads one side of easy-VQA.

    Args:
      source: `easy_vqa` for the asset, or `easy_vqa:FOLDER` for a folder in its layout:
        SIDE/questions.json with rows [question, answer, number of the picture], and
        SIDE/images/NUMBER.png.
      side: `train` or `test`.

    Returns:
      The questions, in the file's order.

    Raises:
      DataError: no such folder, rows of another form, a question about a picture that is not there,
        or pictures that no question is about; named by file and row.
    """
    name, _, folder = source.partition(":")
    if name != SOURCE:
        raise DataError(f"no questions are called {source!r}; {SOURCE} or {SOURCE}:FOLDER")
    root = (Path(folder) if folder else assets.path(SOURCE)) / side
    path = root / "questions.json"
    rows = read_data_json(path)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} holds no list of questions")
    present = {p.name for p in (root / "images").glob("*.png")}
    questions: list[EasyVqaQuestion] = []
    for i, row in enumerate(rows):
        if not isinstance(row, list) or [type(x) for x in row] != [str, str, int]:
            raise DataError(
                f"{path}, row {i}: expected [question, answer, picture number], got {shown(row)}"
            )
        if not row[0].strip() or not row[1].strip():
            raise DataError(f"{path}, row {i}: an empty question or answer: {shown(row)}")
        if row[2] < 0 or f"{row[2]}.png" not in present:
            raise DataError(
                f"{path}, row {i}: asks about picture {shown(row[2])}, but "
                f"{root / 'images' / f'{row[2]}.png'} is missing"
            )
        question, answer = (whole_text(f"{path}, row {i}", part) for part in row[:2])
        questions.append(EasyVqaQuestion(question, answer, row[2]))
    numbers = sorted({q.image for q in questions})
    if len(present) != len(numbers):
        raise DataError(
            f"{root / 'images'} holds {len(present)} pictures, but {path} asks about "
            f"{len(numbers)}: the folder is not whole, or of another version"
        )
    # Counted without gaps: a number may be as large as it likes.
    place = {number: i for i, number in enumerate(numbers)}
    questions = [dataclasses.replace(q, image=place[q.image]) for q in questions]
    return Questions(
        tuple(questions), tuple(root / "images" / f"{number}.png" for number in numbers)
    )


def split_images(
    count: int, val: int, seed: int
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " m"]]:
    """Holds pictures out for validation, with all of their questions.

    Args:
      count: pictures.
      val: how many are held out.
      seed: draws them.

    Returns:
      (training pictures, validation pictures), sorted.
    """
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[val:]), np.sort(order[:val])
