"""Tables of a domain have a cell for every system that was measured."""

import pytest

from configs import adapters_emoji, domain_emoji
from mmjax.report.figures import told_apart
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.dual_encoder.domain_results import describe_domain, domain_tables

COUNTS = {"train": (72,), "test": (39,), "general": (303,)}


@pytest.mark.parametrize("choice", ["kinds", "all", "shares", "tiny"])
def test_every_kind_of_adapter_has_a_row_of_its_own(choice):
    recipe = resolve_recipe(adapters_emoji.get_config(choice).to_dict())
    stages = [s for s in recipe.stages if s.task == "domain"]
    labels, shares, systems = {"base": "base, zero-shot"}, {}, {"base": {"mR": [0.0]}}
    for number, stage in enumerate(stages, 1):
        name = "adapted" if stage is recipe.main else stage.name
        labels[name], shares[name] = describe_domain(stage), stage.pairs.domain.fraction
        systems[name] = {"mR": [float(number)], "general_mR": [0.0]}
    assert told_apart(labels, shares) == labels  # they say themselves what they are
    table = domain_tables(systems, labels, shares, COUNTS)[0]
    cells = [
        value for label, row in table.rows for cell in row for value in cell if "base" not in label
    ]
    assert sorted(value for value in cells if value) == list(map(float, range(1, len(stages) + 1)))


def test_what_a_stage_trains_is_named():
    stages = resolve_recipe(adapters_emoji.get_config("shares").to_dict()).stages
    named = {stage.name: describe_domain(stage) for stage in stages if stage.task == "domain"}
    assert named["lora_10"] == "lora in image and text"
    assert named["lit_100"] == "heads, fine-tuned with full in text"
    plain = {
        s.name: describe_domain(s)
        for s in resolve_recipe(domain_emoji.get_config().to_dict()).stages
    }
    assert plain["plain_100"] == "residual adapter, no weighting"


def test_systems_that_differ_in_nothing_that_is_told_are_told_apart_by_name():
    labels = {"base": "base", "adapted": "LoRA", "slow": "LoRA", "little": "LoRA", "other": "DoRA"}
    columns = {"adapted": 1.0, "slow": 1.0, "little": 0.1, "other": 1.0}
    assert told_apart(labels, columns) == {
        **labels,
        "adapted": "LoRA (adapted)",
        "slow": "LoRA (slow)",
    }
