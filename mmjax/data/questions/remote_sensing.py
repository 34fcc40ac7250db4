"""Questions about pictures from above: CLRS, UC Merced, FloodNet, NWPU-Captions."""

from pathlib import Path

from mmjax.data.files import check_name, read_object, text_of
from mmjax.data.own import SUFFIXES
from mmjax.data.questions.question import Question, text_or_number
from mmjax.errors import DataError, shown

# UC Merced's folders have no spaces in their names; people's words have.
_SPELLED = {
    "baseballdiamond": "baseball diamond",
    "denseresidential": "dense residential",
    "golfcourse": "golf course",
    "mediumresidential": "medium residential",
    "mobilehomepark": "mobile home park",
    "parkinglot": "parking lot",
    "sparseresidential": "sparse residential",
    "storagetanks": "storage tanks",
    "tenniscourt": "tennis court",
}


def scenes(folder: Path) -> list[Question]:
    """CLRS or UC Merced, as their authors hand them out: a folder a class.

    FOLDER/CLASS/*.tif, or FOLDER/Images/CLASS/*.tif (UC Merced)

    Raises:
      DataError: there is no picture.
    """
    place = folder / "Images" if (folder / "Images").is_dir() else folder
    folders = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    names = {path: _name(path.name) for path in folders}
    options = tuple(names.values())
    questions = [
        Question(
            picture.relative_to(place).as_posix(),
            "Which kind of place does this picture from above show?",
            picture,
            (name,),
            options,
        )
        for path, name in names.items()
        for picture in sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    ]
    if not questions:
        raise DataError(f"{place} has no pictures in folders of classes; put the data set there")
    return questions


def _name(folder: str) -> str:
    name = folder.lower().replace("_", " ").replace("-", " ").strip()
    return _SPELLED.get(name, name)


def floodnet(folder: Path) -> list[Question]:
    """The questions of FloodNet, track 2 of the challenge at EARTHVISION 2021, that have answers.

    FOLDER/Questions/*Question*.json    {"0": {"Image_ID", "Question", "Ground_Truth",
                                        "Question_Type"}, ...}
    FOLDER/Images/*/IMAGE_ID

    Public copies have the answers of 4,511 training questions; the paper asks 11,000. The answers
    that occur to one type of question are its options, which are not shown to the model.

    Raises:
      DataError: names the file and the row that is not as it should be, or no file of questions.
    """
    paths = sorted((folder / "Questions").glob("*Question*.json"))
    if not paths:
        raise DataError(f"{folder / 'Questions'} has no file *Question*.json")
    pictures = {path.name: path for path in sorted((folder / "Images").glob("*/*"))}
    rows: list[tuple[str, str, str, Path, str]] = []
    occur: dict[str, set[str]] = {}
    for path in paths:
        for key, row in read_object(path).items():
            place = f"{path}, question {shown(key)}"
            if not isinstance(row, dict):
                raise DataError(f"{place}: is {shown(row)}; expected an object")
            if "Ground_Truth" not in row:
                raise DataError(f"{place}: has no 'Ground_Truth'; keep files with answers only")
            kind = text_of(place, row, "Question_Type")
            truth = text_or_number(place, row, "Ground_Truth")
            name = check_name(place, text_of(place, row, "Image_ID"))
            picture = pictures.get(name, folder / "Images" / name)
            text = text_of(place, row, "Question")
            rows.append((f"{path.stem}/{key}", text, truth, picture, kind))
            occur.setdefault(kind, set()).add(truth)
    return [
        Question(name, text, picture, (truth,), tuple(sorted(occur[kind])), kind)
        for name, text, truth, picture, kind in rows
    ]


def nwpu_captions(folder: Path) -> list[Question]:
    """NWPU-Captions, as HaiyanHuang98/NWPU-Captions on GitHub hands it out, every split.

    FOLDER/dataset_nwpu.json    {CLASS: [{"filename", "split", "raw", "raw_1", ... "raw_4"}, ...]}
    FOLDER/NWPU_images/CLASS/FILENAME

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    path = folder / "dataset_nwpu.json"
    questions: list[Question] = []
    for label, rows in read_object(path).items():
        if not isinstance(rows, list):
            raise DataError(f"{path}, class {shown(label)}: expected a list of pictures")
        for number, row in enumerate(rows, 1):
            place = f"{path}, class {shown(label)}, row {number}"
            if not isinstance(row, dict):
                raise DataError(f"{place}: is {shown(row)}; expected an object")
            name = check_name(place, text_of(place, row, "filename"))
            captions = tuple(text_of(place, row, key) for key in row if key.startswith("raw"))
            if not captions:
                raise DataError(f"{place}: has no caption under 'raw'")
            picture = folder / "NWPU_images" / check_name(place, label) / name
            text = "Describe this picture from above in one sentence."
            kind = text_of(place, row, "split")
            questions.append(Question(f"{label}/{name}", text, picture, captions, kind=kind))
    return questions
