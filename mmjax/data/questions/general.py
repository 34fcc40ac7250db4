"""Questions that LaVIN was further asked: MME, TruthfulQA, COCO captions, VQA v2."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data.files import check_name, read_text, text_of, whole_text
from mmjax.data.own import SUFFIXES
from mmjax.data.questions.question import Question, kind_of, listed, text_or_number
from mmjax.errors import DataError, shown

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = (
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
)
MC1, MC2 = "mc1", "mc2"


def mme(folder: Path) -> list[Question]:
    """MME, as its authors hand it out (MME_Benchmark_release_version).

    FOLDER/SUBTASK/NAME.txt      two lines a picture: question, tab, "Yes" or "No"
    FOLDER/SUBTASK/NAME.jpg      or another ending
    In five subtasks they lie in FOLDER/SUBTASK/questions_answers_YN and FOLDER/SUBTASK/images.

    Raises:
      DataError: a subtask is missing; names the file and the row that is not as it should be.
    """
    questions: list[Question] = []
    for subtask in (*PERCEPTION, *COGNITION):
        place = folder / subtask
        inner = place / "questions_answers_YN"
        texts = sorted((inner if inner.is_dir() else place).glob("*.txt"))
        if not texts:
            raise DataError(f"{place} has no files of questions; put MME's folder {subtask} there")
        beside = place / "images" if inner.is_dir() else place
        pictures = {p.stem: p for p in sorted(beside.glob("*")) if p.suffix.lower() in SUFFIXES}
        for path in texts:
            group = f"{subtask}/{path.stem}"
            picture = pictures.get(path.stem, beside / f"{path.stem}.jpg")
            for number, line in enumerate(read_text(path).splitlines(), 1):
                if not line.strip():
                    continue
                text, _, answer = (part.strip() for part in line.rpartition("\t"))
                if not text or answer not in ("Yes", "No"):
                    raise DataError(
                        f"{path}, row {number}: is {shown(line)}; expected a question, a tab, and "
                        "Yes or No"
                    )
                name = f"{group}/{number}"
                questions.append(Question(name, text, picture, (answer,), (), subtask, group))
    return questions


def truthful_qa(folder: Path) -> list[Question]:
    """TruthfulQA's multiple choice, as sylinrl/TruthfulQA on GitHub hands it out.

    FOLDER/mc_task.json    a list of {"question", "mc1_targets", "mc2_targets"}, each of these an
                           object {answer: 1 if it is true, else 0}

    Every row makes two questions: of `mc1` one answer is true, of `mc2` several may be.

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    path = folder / "mc_task.json"
    questions: list[Question] = []
    for number, (place, row) in enumerate(listed(path)):
        text = text_of(place, row, "question")
        for kind in (MC1, MC2):
            key = f"{kind}_targets"
            targets = row.get(key)
            if not isinstance(targets, Mapping) or not {*targets.values()} == {0, 1}:
                raise DataError(
                    f"{place}: {key!r} is {shown(targets)}; expected answers with 1 or 0, both"
                )
            right = tuple(answer for answer, true in targets.items() if true)
            questions.append(Question(f"{number}/{kind}", text, None, right, tuple(targets), kind))
    return questions


def coco_captions(folder: Path) -> list[Question]:
    """COCO's captions in Karpathy's test split of 5,000 pictures.

    FOLDER/dataset_coco.json    {"images": [{"cocoid", "filepath", "filename", "split",
                                "sentences": [{"raw"}, ...]}, ...]}
    FOLDER/val2014/FILENAME     FILEPATH being val2014 or train2014

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    questions: list[Question] = []
    for place, row in listed(folder / "dataset_coco.json", "images"):
        if row.get("split") != "test":
            continue
        sentences = _objects(place, row, "sentences")
        parts = (check_name(place, text_of(place, row, key)) for key in ("filepath", "filename"))
        questions.append(
            Question(
                text_or_number(place, row, "cocoid"),
                "Describe this picture in one sentence.",
                folder.joinpath(*parts),
                tuple(text_of(place, sentence, "raw") for sentence in sentences),
            )
        )
    return questions


def vqa_v2(folder: Path) -> list[Question]:
    """The validation questions of VQA v2, as visualqa.org hands them out.

    FOLDER/v2_OpenEnded_mscoco_val2014_questions.json    {"questions": [{"question_id", "image_id",
                                                         "question"}, ...]}
    FOLDER/v2_mscoco_val2014_annotations.json            {"annotations": [{"question_id",
                                                         "answer_type", "answers": [{"answer"},
                                                         ...]}, ...]}
    FOLDER/val2014/COCO_val2014_000000IMAGE_ID.jpg

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    humans: dict[str, tuple[str, tuple[str, ...]]] = {}
    for place, row in listed(folder / "v2_mscoco_val2014_annotations.json", "annotations"):
        entries = _objects(place, row, "answers")
        kind = kind_of(place, row, "answer_type", ("yes/no", "number", "other"))
        answers = tuple(whole_text(f"{place}: 'answer'", entry.get("answer")) for entry in entries)
        humans[text_or_number(place, row, "question_id")] = kind, answers
    questions: list[Question] = []
    path = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    for place, row in listed(path, "questions"):
        name, image = (text_or_number(place, row, key) for key in ("question_id", "image_id"))
        if name not in humans:
            raise DataError(f"{place}: the annotations have no question {name}")
        kind, answers = humans[name]
        picture = folder / "val2014" / f"COCO_val2014_{image:0>12}.jpg"
        text = text_of(place, row, "question")
        questions.append(Question(name, text, picture, answers, kind=kind))
    return questions


def _objects(place: str, row: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = row.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(x, dict) for x in found):
        raise DataError(f"{place}: {key!r} is {shown(found)}; expected a list of objects")
    return found
