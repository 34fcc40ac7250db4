"""Questions about food: Recipe1M, Nutrition5K, Food-101, FoodSeg103."""

import csv
from pathlib import Path
from typing import Any

from mmjax.data.files import check_name, error_of, read_object, read_rows, text_of
from mmjax.data.questions.question import Question, listed, parquet, text_or_number
from mmjax.errors import DataError, shown

_BACKGROUND = 0  # of FoodSeg103's categories


def recipe1m(folder: Path) -> list[Question]:
    """The test recipes of Recipe1M that have a picture, as its authors hand it out.

    FOLDER/layer1.json     a list of {"id", "title", "ingredients", "instructions", "partition"},
                           the two in the middle lists of {"text"}
    FOLDER/layer2.json     a list of {"id", "images"}, a list of {"id": FILE}
    FOLDER/test/a/b/c/d/FILE, its folders the first four letters of FILE

    The first picture of each is asked about. The paper asks 1,000 that it does not list; `limit`
    spreads over all 51,000 or so.

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    recipes: dict[str, str] = {}
    for place, row in listed(folder / "layer1.json"):
        if row.get("partition") == "test":
            steps = (*_texts(place, row, "ingredients"), *_texts(place, row, "instructions"))
            recipes[text_of(place, row, "id")] = "\n".join([text_of(place, row, "title"), *steps])
    questions: list[Question] = []
    for place, row in listed(folder / "layer2.json"):
        name, images = text_of(place, row, "id"), row.get("images")
        if name not in recipes or not images:
            continue
        if not isinstance(images, list) or not isinstance(images[0], dict):
            raise DataError(f"{place}: 'images' is {shown(images)}; expected a list of objects")
        file = check_name(place, text_of(place, images[0], "id"))
        picture = folder.joinpath("test", *file[:4], file)
        text = "Write the recipe of this dish: its name, the ingredients and the steps."
        questions.append(Question(name, text, picture, (recipes[name],)))
    return questions


def _texts(place: str, row: dict[str, Any], key: str) -> list[str]:
    rows = row.get(key)
    if not isinstance(rows, list) or not all(isinstance(entry, dict) for entry in rows):
        raise DataError(f"{place}: {key!r} is {shown(rows)}; expected a list of objects")
    return [text_of(f"{place}, {key}", entry, "text") for entry in rows]


def nutrition5k(folder: Path) -> list[Question]:
    """The test dishes of Nutrition5K that were taken from above, as Google hands it out.

    FOLDER/dish_ids/splits/depth_test_ids.txt    507 ids, one a line
    FOLDER/metadata/dish_metadata_cafe1.csv      id, five sums (in some copies the number of
    FOLDER/metadata/dish_metadata_cafe2.csv      ingredients too), then seven cells an ingredient:
                                                 id, name, grams, calories, fat, carbs, protein
    FOLDER/imagery/realsense_overhead/ID/rgb.png

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    dishes: dict[str, tuple[str, ...]] = {}
    for cafe in (1, 2):
        path = folder / "metadata" / f"dish_metadata_cafe{cafe}.csv"
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.reader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"cannot read {path}: {error_of(error)}") from error
        for number, row in enumerate(rows, 1):
            first = next((i for i, cell in enumerate(row) if cell.startswith("ingr_")), len(row))
            cells = row[first:]
            if not row or len(cells) % 7:
                raise DataError(
                    f"{path}, row {number}: {len(cells)} cells of ingredients; expected seven each"
                )
            names = (cell.strip() for cell in cells[1::7])
            dishes[row[0]] = tuple(dict.fromkeys(name for name in names if name))
    path = folder / "dish_ids" / "splits" / "depth_test_ids.txt"
    questions: list[Question] = []
    for number, name in enumerate(read_rows(path), 1):
        if not dishes.get(name):
            raise DataError(f"{path}, row {number}: no ingredients of {shown(name)} in metadata/")
        picture = folder / "imagery" / "realsense_overhead" / check_name(str(path), name)
        text = "Which ingredients are in this dish?"
        questions.append(Question(name, text, picture / "rgb.png", dishes[name]))
    return questions


def food101(folder: Path) -> list[Question]:
    """The test pictures of Food-101, as ETH Zürich hands it out.

    FOLDER/meta/classes.txt, labels.txt    the 101 classes and their names, on the same lines
    FOLDER/meta/test.txt                   one CLASS/ID a line
    FOLDER/images/CLASS/ID.jpg

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    classes, names = (read_rows(folder / "meta" / f"{n}.txt") for n in ("classes", "labels"))
    if len(classes) != len(names):
        raise DataError(
            f"{folder / 'meta' / 'labels.txt'} has {len(names)} rows; classes.txt {len(classes)}"
        )
    options = tuple(name.lower() for name in names)
    named = dict(zip(classes, options, strict=True))
    path = folder / "meta" / "test.txt"
    questions: list[Question] = []
    for number, line in enumerate(read_rows(path), 1):
        label = line.partition("/")[0]
        if label not in named:
            raise DataError(f"{path}, row {number}: classes.txt has no class {shown(label)}")
        picture = folder / "images" / f"{line}.jpg"
        text = "Which dish is in this picture?"
        questions.append(Question(line, text, picture, (named[label],), options))
    return questions


def foodseg103(folder: Path) -> list[Question]:
    """The test pictures of FoodSeg103, as EduardoPacheco/FoodSeg103 on the Hugging Face Hub.

    FOLDER/data/validation-*.parquet    columns image, classes_on_image (numbers), id
    FOLDER/id2label.json                number -> category, 0 being the background

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    path = folder / "id2label.json"
    named = read_object(path)
    labels = {key: text_of(str(path), named, key) for key in named}
    options = tuple(label for key, label in labels.items() if key != str(_BACKGROUND))
    questions: list[Question] = []
    columns = ["id", "classes_on_image"]
    for place, row, picture in parquet(folder / "data", "validation-*.parquet", columns):
        numbers = row["classes_on_image"] or []
        unknown = next((number for number in numbers if str(number) not in labels), None)
        if unknown is not None:
            raise DataError(f"{place}: {path.name} has no category {unknown}")
        right = tuple(labels[str(number)] for number in numbers if number != _BACKGROUND)
        text = "Which of these foods are in this picture? List every one that is."
        questions.append(Question(text_or_number(place, row, "id"), text, picture, right, options))
    return questions
