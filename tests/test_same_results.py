"""What tools/same_results.py calls the same: a refactoring is trusted on its word."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tools.compare_runs import Failed, compare
from tools.small_recipes import FIXTURES, RECIPES, command_line, draw_data

ROOT = Path(__file__).parents[1]


def write(run: Path, fingerprint: str = "1" * 64, **changes: Any) -> Path:
    """A run folder of two systems and one stage, with what is measured changed."""
    results = {
        "recipe": "toy",
        "systems": {"base": {"mR": [0.25, 0.5]}, "adapted": {"mR": [0.75, math.nan], "R@1": [0.5]}},
        "counts": {"test": [6, 6]},
        "classes": {"said": {"cat": {"dog": 1}}},
        "timings": {"evaluation": 1.0},
        "command": "python -m mmjax.main",
        **changes,
    }
    folder = run / "seed_0" / "language" / "adapter"
    folder.mkdir(parents=True)
    (run / "results.json").write_text(json.dumps(results))
    card = {"trainable": {"count": 6, "fingerprint": fingerprint}}
    (folder / "adapter_card.json").write_text(json.dumps(card))
    return run


@pytest.fixture
def old(tmp_path):
    return write(tmp_path / "old")


def told(old: Path, new: Path, **options: Any) -> list[str]:
    return [str(one) for one in compare(old, new, **options)]


def test_what_differs_in_time_and_place_alone_is_the_same(old, tmp_path):
    new = write(tmp_path / "new", timings={"evaluation": 9.0}, command="other", digest="2" * 64)
    assert told(old, new) == []


def test_one_figure_is_named_with_both_values(old, tmp_path):
    systems = {"base": {"mR": [0.25, 0.5 + 1e-6]}, "adapted": {"mR": [0.75, math.nan], "R@1": [1]}}
    new = write(tmp_path / "new", systems=systems)
    figure = "adapted, R@1[0]: 0.5 before, 1 now"
    assert told(old, new) == ["base, mR[1]: 0.5 before, 0.500001 now", figure]
    assert told(old, new, tolerance=1e-5) == [figure]


def test_what_is_not_a_system_s_is_measured_too(old, tmp_path):
    new = write(tmp_path / "new", counts={"test": [6, 7]}, classes={"said": {"cat": {}}})
    assert told(old, new) == [
        "[counts], test[1]: 6 before, 7 now",
        "[classes], said.cat.dog: 1 before, nothing now",
    ]


def test_a_missing_system_is_seen_from_both_sides(old, tmp_path):
    new = write(tmp_path / "new", systems={"base": {"mR": [0.25, 0.5]}})
    assert told(old, new) == [
        "adapted, mR[0]: 0.75 before, nothing now",
        "adapted, mR[1]: nan before, nothing now",
        "adapted, R@1[0]: 0.5 before, nothing now",
    ]
    assert "adapted, R@1[0]: nothing before, 0.5 now" in told(new, old)


def test_adapters_are_compared_bit_for_bit(old, tmp_path):
    new = write(tmp_path / "new", fingerprint="2" * 64)
    line = f"seed_0/language, fingerprint: {'1' * 64} before, {'2' * 64} now"
    assert told(old, new, tolerance=1.0) == [line]
    assert told(old, new, adapters=False) == []


def test_nothing_is_not_the_same_as_nothing(old, tmp_path):
    empty = write(tmp_path / "empty", systems={})
    with pytest.raises(Failed, match="empty has no figures"):
        compare(empty, empty)
    (old / "seed_0" / "language" / "adapter" / "adapter_card.json").unlink()
    with pytest.raises(Failed, match="old has no adapter"):
        compare(old, old)


def test_what_the_recipes_are_run_on_is_there(tmp_path):
    """A recipe or a test that gets another name would quietly be left out."""
    for place in FIXTURES:
        path, _, name = place.partition("::")
        assert re.search(rf"^def {name}\(.*\bworld\b", (ROOT / path).read_text(), re.MULTILINE)
    draw_data(tmp_path)
    for name, small in RECIPES.items():
        for recipe in filter(None, (name, small.base)):
            assert (ROOT / "configs" / f"{recipe}.py").is_file()
        arguments = command_line(name, tmp_path / "runs", tmp_path)
        assert not any("{" in argument for argument in arguments)
        folder = arguments[1].partition(":")[2]
        assert folder == "tiny" or Path(folder).exists()
