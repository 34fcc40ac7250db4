import copy
import dataclasses

import pytest

from configs import base_emoji, language_emoji
from mmjax.errors import MmjaxError
from mmjax.recipe import as_dict, resolve


def language() -> dict:
    return as_dict(language_emoji.get_config())


def test_the_default_recipe_trains_base_baseline_and_adapter_in_turn():
    recipe = resolve(language())
    assert [s.name for s in recipe.stages] == ["base", "linear", "mlp", "language"]
    assert [s.adapter.kind for s in recipe.stages[1:]] == ["linear", "mlp", "transformer"]
    for baseline in recipe.stages[1:3]:
        same = dataclasses.replace(baseline, name="language", adapter=recipe.main.adapter)
        assert same == recipe.main
    assert recipe.seeds == (0, 1, 2)


@pytest.mark.parametrize("module", [base_emoji, language_emoji])
def test_tiny_is_the_same_recipe_made_small(module):
    full, tiny = (resolve(as_dict(module.get_config(s))) for s in ("full", "tiny"))
    assert [s.name for s in full.stages] == [s.name for s in tiny.stages]
    assert tiny.main.train.steps < full.main.train.steps


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("tasc",), "language", "config.tasc is 'language'; expected one of the keys"),
        (("task",), "languages", r"expected one of \['contrastive', 'language'\]"),
        (
            ("loss", "kind"),
            "distil_mse",
            r"'distil_mse'; expected one of \['con",
        ),
        (("optim", "lrr"), 1.0, r"config.optim.lrr is 1.0; expected one of the keys \['b1'"),
        (("optim", "lr"), "fast", "config.optim.lr is 'fast'; expected a value of type float"),
        (("optim", "lr"), -1.0, "expected a positive learning rate"),
        (("train", "steps"), 0, "config.train.steps is 0; expected at least 1"),
        (("train", "steps"), 1.5, "expected a value of type int"),
        (("train", "steps"), True, "expected a value of type int"),
        (("adapter", "num_heads"), 7, "a divisor of adapter.width=128"),
        (("encoders",), {"image": {"source": "asset:dinov2-small"}}, "expected the roles"),
        (("evals",), ("bleu",), r"config.evals is 'bleu'; expected one of \['retrieval'"),
        (("seeds",), (), "expected different integers"),
        (("seeds",), (1, 1), "expected different integers"),
        (("languages",), ("zh",), r"expected \(source, target\)"),
        (("base",), None, "config.base is empty"),
        (("pairs", "test_fraction"), 1.0, "between 0 and 1"),
        (("pairs", "val_fraction"), 0.8, "together under 0.9"),
        (("image_head",), {"out_dim": 8}, "both heads share one space"),
        (("variants",), {"language": {}}, "names that differ"),
    ],
)
def test_every_mistake_has_its_own_sentence(path, value, message):
    config = language()
    place = config
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(MmjaxError, match=message):
        resolve(config)


def test_resolving_changes_nothing():
    config = language()
    before = copy.deepcopy(config)
    resolve(config)
    assert config == before


def test_a_source_with_two_towers_gives_each_role_its_own():
    (base, *_, main) = resolve(language()).stages
    assert base.encoders["image"].tower == "image"
    assert {role: spec.tower for role, spec in main.encoders.items()} == {
        "image": "image",
        "text": "text",
        "foreign": "text",
    }
