"""The notebooks run as they are written, at tiny size, and their pairs hold the same cells."""

import json
import re
from pathlib import Path

import pytest

from mmjax import assets
from tests.run.test_instruct import recipe as recipe
from tests.run.test_instruct import world as world

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))
# What the published size costs, and what is enough to see that every cell does its work.
TINY = {
    "limit=60": "limit=6",
    "(0, 20, 40)": "(0, 2, 4)",
    '"train.steps": 20, "base.train.steps": 20': '"train.steps": 2, "base.train.steps": 2',
    "language_emoji:tiny": "RECIPE",
    "image_size=56": "image_size=20",
    "[:900]": "[:200]",
    "epochs=10": "epochs=1",
    "unit(256)": "unit(64)",
    "(4096, 64)": "(256, 64)",
    ".items[:400]": ".items[:60]",
    "in (1, 4, 16)": "in (1, 2)",
    '"lavin_easyvqa:tiny"': "INSTRUCT",
    '"train.steps": 40, "train.eval_every": 40, "train.save_every": 40': (
        '"train.steps": 2, "train.eval_every": 2, "train.save_every": 2, "mesh": {}'
    ),
}


def cells(text: str) -> list[str]:
    """The cells of a percent script, markdown without its marks."""
    body = re.split(r"^# ---\n", text, flags=re.MULTILINE)[-1]
    found = re.split(r"^# %%(?: \[markdown\])?\n", body, flags=re.MULTILINE)[1:]
    return ["\n".join(re.sub(r"^# ?", "", li) for li in c.strip().splitlines()) for c in found]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_pair_holds_the_same_cells_and_its_outputs(source):
    pair = json.loads(source.with_suffix(".ipynb").read_text("utf-8"))["cells"]
    theirs = ["".join(cell["source"]).strip() for cell in pair]
    for i, cell in enumerate(pair):
        if cell["cell_type"] == "code":  # whose comments `cells` takes for marks
            theirs[i] = "\n".join(re.sub(r"^# ?", "", line) for line in theirs[i].splitlines())
    assert theirs == cells(source.read_text("utf-8")), "run python -m tools.execute_notebooks"
    printed = [cell for cell in pair if "print(" in "".join(cell["source"])]
    assert all(cell["outputs"] for cell in printed if cell["cell_type"] == "code")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_runs(source, toy, write_folder, tmp_path, monkeypatch, request, on_one_device):
    code = source.read_text("utf-8")
    for published, tiny in TINY.items():
        code = code.replace(published, tiny)
    stand_ins = {"dinov2-small": "dinov2_tiny", "minilm-l6": "bert_tiny"}
    for name, kind in stand_ins.items():
        write_folder(tmp_path / name, kind)
    real = assets.path
    monkeypatch.setattr(
        assets, "path", lambda name: tmp_path / name if name in stand_ins else real(name)
    )
    if "RECIPE" in code:
        code = code.replace("RECIPE", str(toy.recipe))
        monkeypatch.setenv("MMJAX_CACHE", str(toy.cache))
    names = {"__name__": "__main__"}
    if "INSTRUCT" in code:
        on_one_device(monkeypatch)
        names["INSTRUCT"] = request.getfixturevalue("recipe") | {"evals": ("vqa",), "variants": {}}
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(source), "exec"), names)
