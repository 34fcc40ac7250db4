"""easy-VQA: questions with one-word answers about pictures of one shape."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mmjax import assets
from mmjax.data.conversations import QUESTION, Conversation, Turn
from mmjax.data.files import read_json, whole_text
from mmjax.errors import DataError
from mmjax.foreign import shown

SOURCE = "easy_vqa"
_MOST_NUMBERS = 10  # a picture: a folder from which most were taken keeps its numbers


@dataclass(frozen=True)
class Question:
    """A question about a picture, and its answer; both as the data set has them."""

    text: str
    answer: str
    picture: int

    @property
    def conversation(self) -> Conversation:
        """As the language model reads it."""
        asked = Turn(QUESTION.format(question=self.text))
        return Conversation((asked, Turn(f" {self.answer}", learn=True)), self.picture)


@dataclass(frozen=True)
class Questions:
    """Questions of one side, and where the pictures are."""

    questions: tuple[Question, ...]
    pictures: tuple[Path, ...]

    def of_pictures(self, chosen: Int[np.ndarray, " k"]) -> "Questions":
        """The questions about some of the pictures."""
        wanted = set(chosen.tolist())
        kept = tuple(q for q in self.questions if q.picture in wanted)
        return Questions(kept, self.pictures)


def load(source: str, side: str) -> Questions:
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
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} holds no list of questions")
    found: list[Question] = []
    for i, row in enumerate(rows):
        if not isinstance(row, list) or [type(x) for x in row] != [str, str, int]:
            raise DataError(
                f"{path}, row {i}: expected [question, answer, picture number], got {shown(row)}"
            )
        if not row[0].strip() or not row[1].strip():
            raise DataError(f"{path}, row {i}: an empty question or answer: {shown(row)}")
        asked, answer = (whole_text(f"{path}, row {i}", part) for part in row[:2])
        found.append(Question(asked, answer, row[2]))
    # Numbers are held against the files before a list is as long as the largest of them.
    present = {p.name for p in (root / "images").glob("*.png")}
    for i, question in enumerate(found):
        if f"{question.picture}.png" not in present:
            raise DataError(
                f"{path}, row {i}: asks about picture {question.picture}, but "
                f"{root / 'images' / f'{question.picture}.png'} is missing"
            )
        if not 0 <= question.picture < _MOST_NUMBERS * len(present):
            raise DataError(
                f"{path}, row {i}: asks about picture {question.picture}; {len(present)} pictures "
                f"are numbered from 0, with few gaps"
            )
    count = 1 + max(q.picture for q in found)
    pictures = tuple(root / "images" / f"{number}.png" for number in range(count))
    if len(present) != len({q.picture for q in found}):
        raise DataError(
            f"{root / 'images'} holds {len(present)} pictures, but {path} asks about "
            f"{len({q.picture for q in found})}: the folder is not whole, or of another version"
        )
    return Questions(tuple(found), pictures)


def split_pictures(
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
