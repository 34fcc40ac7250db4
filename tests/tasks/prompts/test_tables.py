"""Tables of few shots have a cell for every system that was measured, whatever a recipe learns."""

from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import adapters_emoji, chain_emoji, prompts_coop, prompts_emoji
from mmjax.report.figures import told_apart
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.prompts import tables

RECIPES = {
    "few": lambda: adapters_emoji.get_config("few"),
    "prompts": prompts_emoji.get_config,
    "exact": lambda: prompts_emoji.get_config("exact"),
    "coop": prompts_coop.get_config,
    "chain": chain_emoji.get_config,
}
COUNTS = {"classes": (10, 10, 10), "asked": (80, 80, 82)}


def grid(config: ConfigDict) -> tuple[tables.ShotsGrid, int]:
    """Figures of every system of a recipe, 1, 2, ..., and how many there are."""
    recipe = resolve_recipe(config.to_dict())
    stages = [stage for stage in recipe.stages if stage.task == "prompts"]
    labels, protocol, systems = {"base": "base"}, dict[str, Any](), dict[str, Any]()
    systems["base"], systems["base_half"] = {"accuracy": [0.0]}, {"base_accuracy": [0.0]}
    for number, stage in enumerate(stages, 1):
        name = "adapted" if stage is recipe.main else stage.name
        labels[name], protocol[name] = tables.describe_method(stage), tables.protocol_of(stage)
        half = stage.fewshot.half == "base"
        systems[name] = {"base_accuracy" if half else "accuracy": [float(number)]}
    return tables.ShotsGrid(systems, told_apart(labels, protocol), protocol), len(stages)


def cells(made: list[tables.Table]) -> list[float]:
    """All figures of the tables that are not zero, each once."""
    rows = [row for table in made for _, row in table.rows]
    return sorted({value for row in rows for cell in row for value in cell if value})


@pytest.mark.parametrize("name", RECIPES)
def test_every_system_has_a_cell_of_its_own(name):
    found, number = grid(RECIPES[name]())
    assert cells(tables.fewshot_tables(found, COUNTS)) == list(map(float, range(1, number + 1)))
    assert tables.fewshot_headline(found)


def test_one_half_of_the_classes_alone_is_told_of_both_halves():
    found, _ = grid(RECIPES["few"]())
    (table,) = tables.fewshot_tables(found, COUNTS)
    assert table.title == "Base to new classes, 16 shots"
    assert "80 / 82 held-out pictures of the first 10 classes" in table.caption
    assert table.highlight[0] in [label for label, _ in table.rows]
    ((what, shown),) = tables.fewshot_headline(found)
    assert what == "accuracy on base classes, before and after"
    assert shown.startswith("0.000 → ")
    assert not list(tables.fewshot_curves(found))
    assert not tables.fewshot_notes(found)


def test_one_method_with_more_and_with_fewer_shots_of_half_the_classes_has_two_rows():
    config = RECIPES["few"]()
    config.variants = {"fewer": {"fewshot": {"shots": 4}}}
    found, _ = grid(config)
    (table,) = tables.fewshot_tables(found, COUNTS)
    assert [label for label, _ in table.rows] == ["zero-shot", "CoOp, 4 shots", "CoOp, 16 shots"]
    assert table.highlight == ("CoOp, 16 shots",)
    assert table.title == "Base to new classes, 4 / 16 shots"
