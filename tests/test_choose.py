"""Settings are chosen on the development pool alone, with as many tries for every method.

A setting that a test item chose, or a method that was tried oftener than its rivals, would make
every comparison of the project worth nothing.
"""

import json

import pytest

from configs import chain_emoji
from mmjax.errors import MmjaxError
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import merged, resolve_recipe
from tools import choose

SPACE = {"optim.lr": {"log": (1e-4, 1e-1)}, "train.steps": (5, 10, 20, 40)}
METHODS = {"first": {}, "second": {"prompts": {"method": "linear_probe"}}}


@pytest.fixture(scope="module")
def config():
    return choose.on_pool(as_dict(chain_emoji.get_config("tiny")))


@pytest.fixture
def what(config):
    return choose.Search(config, METHODS, dict.fromkeys(METHODS, SPACE), 5, "adapted", "accuracy")


class Runner:
    """Stands in for training: a larger rate is better, more so for the second method."""

    def __init__(self):
        self.seen = []

    def __call__(self, recipe, folder, name):
        self.seen.append((recipe, folder, name))
        score = recipe["optim"]["lr"] * (2 if name == "second" else 1)
        return {"adapted": {"accuracy": [score, score]}}


def test_every_method_is_tried_as_often_and_the_best_is_written_down(what, tmp_path):
    run = Runner()
    found = choose.search(what, tmp_path, {"recipe": "x"}, run)
    assert found == json.loads((tmp_path / "choice.json").read_text())
    assert (found["recipe"], found["tries"], found["metric"]) == ("x", 5, "accuracy")
    for name, method in found["methods"].items():
        tries = method["tries"]
        assert len(tries) == 5
        assert tries[0]["settings"] == {}  # the recipe as it stands
        assert len({json.dumps(one["settings"]) for one in tries}) == 5
        best = max(tries, key=lambda one: one["mean"])
        assert (method["chosen"], method["mean"]) == (best["settings"], best["mean"])
        used = [r for r, _, run_name in run.seen if run_name == name]
        for recipe, one in zip(used, tries, strict=True):
            for place, value in one["settings"].items():
                part, key = place.split(".")
                assert recipe[part][key] == value
            assert one["mean"] == pytest.approx(recipe["optim"]["lr"] * (1 + (name == "second")))
    folders = [folder for _, folder, _ in run.seen]
    assert len(set(folders)) == len(folders) == 11  # and what all of them stand on, once
    assert run.seen[0][2] == "base"


def test_nothing_outside_the_pool_is_read_at_any_link(what, tmp_path):
    run = Runner()
    choose.search(what, tmp_path, {}, run)
    for recipe, _, _ in run.seen:
        for stage in resolve_recipe({**recipe, "variants": {}}).stages:
            assert stage.pairs.pool == "development"
            assert stage.pairs.development == 0.3
    assert {r["base"] for r, _, name in run.seen if name != "base"} == {str(tmp_path / "base")}


def test_the_same_search_draws_the_same_and_no_setting_of_its_recipe_is_lost(what, config):
    assert choose.draws_of(SPACE, "first", 5) == choose.draws_of(SPACE, "first", 5)
    assert choose.draws_of(SPACE, "first", 5) != choose.draws_of(SPACE, "second", 5)
    for settings in choose.draws_of(SPACE, "first", 20)[1:]:
        assert 1e-4 <= settings["optim.lr"] <= 1e-1
        assert settings["train.steps"] in SPACE["train.steps"]
    changed = choose.with_settings(config, {"optim.lr": 0.5})
    assert changed["optim"] == {**config["optim"], "lr": 0.5}
    assert config["optim"]["lr"] != 0.5
    assert {k: v for k, v in changed.items() if k != "optim"} == {
        k: v for k, v in config.items() if k != "optim"
    }


def test_a_search_that_would_not_be_even_is_refused(what, config, tmp_path):
    few = choose.Search(
        config, METHODS, {"first": SPACE, "second": {"train.steps": (1,)}}, 5, "adapted", "accuracy"
    )
    with pytest.raises(MmjaxError, match=r"fewer than 5 different tries \(\{'second': 2\}\)"):
        choose.search(few, tmp_path, {}, Runner())
    lacking = choose.Search(config, METHODS, {"first": SPACE}, 5, "adapted", "accuracy")
    with pytest.raises(MmjaxError, match=r"SEARCH lacks \['second'\]"):
        choose.search(lacking, tmp_path, {}, Runner())
    with pytest.raises(MmjaxError, match="has no development pool"):
        choose.on_pool({"pairs": {"source": "emoji"}})


def test_what_recipes_offer_can_be_drawn_and_read():
    for method, space in chain_emoji.SEARCH.items():
        config = choose.on_pool(as_dict(chain_emoji.get_config("food")))
        for settings in choose.draws_of(space, method, 8):
            changed = merged(config, chain_emoji.METHODS[method])
            resolve_recipe(choose.with_settings(changed, settings))
    assert chain_emoji.SEARCH.keys() == chain_emoji.METHODS.keys()
