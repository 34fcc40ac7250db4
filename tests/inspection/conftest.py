"""Five awkward data sets, each in another form, and what is known to be wrong with them."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

GERMAN = (
    "ein roter Apfel auf dem Tisch",
    "zwei Hunde spielen im Garten",
    "die alte Brücke über den Fluss",
    "ein Kind liest ein Buch",
    "das blaue Auto vor dem Haus",
    "frisches Brot aus dem Ofen",
)
ENGLISH = (
    "a red apple on the table",
    "two dogs play in the garden",
    "the old bridge over the river",
    "a child is reading a book",
    "the blue car in front of the house",
    "fresh bread from the oven",
)


def photo(path: Path, number: int, shift: int = 0) -> Path:
    """A picture of soft patches; one number is one scene, a shift makes it a little brighter."""
    patches = np.random.default_rng(number).integers(0, 230, (5, 5, 3)) + shift
    picture = Image.fromarray(patches.astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def captions(i: int) -> dict[str, str]:
    """German and English of one scene, each its own."""
    number = f"{i // len(GERMAN)}"
    return {
        "de": f"{GERMAN[i % len(GERMAN)]} Nummer {number}",
        "en": f"{ENGLISH[i % len(ENGLISH)]} number {number}",
    }


def write_csv(path: Path, rows: list[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def draw_photo() -> Callable[..., Path]:
    """Returns `photo`."""
    return photo


@pytest.fixture(scope="session")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with its own split: rows 42 and 43 (train) show what rows 2 and 3 (test) show."""
    folder = tmp_path_factory.mktemp("leaky")
    rows: list[Mapping[str, Any]] = []
    for i in range(40):
        photo(folder / f"{i}.png", i)
        rows.append({"image": f"{i}.png", "split": "test" if i < 8 else "train", **captions(i)})
    photo(folder / "same.png", 0)
    photo(folder / "bright.png", 1, shift=3)
    for j, name in enumerate(("same.png", "bright.png")):
        rows.append({"image": name, "split": "train", **captions(40 + j)})
    return write_csv(folder / "leaky.csv", rows)


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of classes: one with a single picture, one spelt twice, a broken and a blank file."""
    folder = tmp_path_factory.mktemp("uneven") / "flowers"
    number = 0
    for name, count in {"rose": 44, "tulip": 14, "Tulip": 2, "orchid": 1, "lily": 4}.items():
        for i in range(count):
            photo(folder / name / f"{i:02d}.png", 1000 + number)
            number += 1
    (folder / "rose" / "99.png").write_bytes((folder / "rose" / "00.png").read_bytes()[:60])
    Image.new("RGB", (64, 64), "white").save(folder / "rose" / "98.png")
    return folder


@pytest.fixture(scope="session")
def mixed_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines whose German stands under `en`, and rows that are empty, endless, torn or markup."""
    folder = tmp_path_factory.mktemp("mixed_up")
    lines = []
    for i in range(36):
        photo(folder / f"{i}.png", 2000 + i)
        row = {"image": f"{i}.png", "en": captions(i)["de"], "de": captions(i)["de"]}
        lines.append(row)
    lines[4]["de"] = "  "
    lines[9]["de"] = " ".join(["und weiter"] * 60)
    lines[11]["de"] = "StraÃŸe mit BÃ¤umen im Herbst am Abend"
    lines[12]["de"] = "<b>Ein Haus</b> am See im Sommer"
    text = [json.dumps(row, ensure_ascii=False) for row in lines]
    text[20] = '{"image": "20.png", "de": '
    text[21] = json.dumps({"image": "nowhere.png", **captions(21)})
    (folder / "mixed_up.jsonl").write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder / "mixed_up.jsonl"


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tar shards with English captions, all of them one of three sentences, and tiny pictures."""
    folder = tmp_path_factory.mktemp("shards")
    with tarfile.open(folder / "shop.tar", "w") as tar:
        for i in range(30):
            picture = Image.open(photo(folder / "raw" / f"{i}.png", 3000 + i)).resize((24, 24))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            for kind, content in (("png", buffer.getvalue()), ("txt", ENGLISH[i % 3].encode())):
                info = tarfile.TarInfo(f"{i:03d}.{kind}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder / "shop.tar"


@pytest.fixture(scope="session")
def scarce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen labelled pictures in two classes, one photo of them under both."""
    folder = tmp_path_factory.mktemp("scarce")
    rows = []
    for i in range(14):
        photo(folder / f"{i}.png", 4000 + (i if i != 13 else 0))
        rows.append({"image": f"{i}.png", "label": ("sound", "cracked")[i % 2]})
    return write_csv(folder / "scarce.csv", rows)
