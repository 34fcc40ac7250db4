"""The recipes of domain post-training on a tiny LLaVA-NeXT in its true layout, and on others."""

from typing import Any

import pytest

from configs import posttrain_biomed_llava, posttrain_food_llava, posttrain_rs_llava
from mmjax import study
from mmjax.errors import MmjaxError
from mmjax.report.results import Results
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import resolve_recipe
from tests.run.conftest import changed
from tests.tasks.instruct import own_tower_world
from tests.tasks.instruct.llava_world import write_world

RECIPES = (posttrain_biomed_llava, posttrain_food_llava, posttrain_rs_llava)


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_folder) -> Any:
    return write_world(tmp_path_factory.mktemp("posttrain"), write_folder)


def on_toys(recipe: Any, choice: str, world: Any) -> dict[str, Any]:
    """The recipe with this test's files; on eight devices, over which weights are split."""
    files = {
        "encoders.language.source": str(world / "llava_next_tiny"),
        "questions.source": f"records:{world / 'composed.jsonl'}",
        "questions.images": str(world),
        "mesh.data": 1,
        "mesh.model": 8,
    }
    if choice.endswith("two_stage"):
        captions = f"records:{world / 'captions.jsonl'}"
        files |= {"variants.captions.questions.source": captions}
    return changed(as_dict(recipe.get_config(choice)), files)


@pytest.mark.slow
def test_two_stages_train_measure_and_report(world, tmp_path):
    config = on_toys(posttrain_rs_llava, "tiny_two_stage", world)
    study.run(resolve_recipe(config), config, tmp_path, "test")
    results = Results.load(tmp_path / "results.json")
    assert list(results.systems) == ["blank", "captions", "adapted"]
    assert results.counts["train"] == [8]
    assert results.labels["captions"] == "projector alone"
    assert results.labels["adapted"] == "all weights"
    first, _ = load_adapter_params(tmp_path / "seed_0" / "captions" / "adapter")
    second, card = load_adapter_params(tmp_path / "seed_0" / "instruct" / "adapter")
    assert set(first["weights"]) == {"image"}
    assert set(second["weights"]) == {"image", "language"}
    assert "start" in card
    assert "Answers that were held out" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "choice"),
    [(posttrain_biomed_llava, "tiny"), (posttrain_food_llava, "tiny_lora")],
)
def test_one_stage_trains_and_is_asked_a_file_of_questions(recipe, choice, world, tmp_path):
    asked = {"questions.asked": f"records:{world / 'composed.jsonl'}"}
    config = changed(on_toys(recipe, choice, world), {**asked, "questions.max_new_tokens": 2})
    study.run(resolve_recipe(config), config, tmp_path, "test")
    results = Results.load(tmp_path / "results.json")
    assert results.counts["questions"] == [len((world / "composed.jsonl").read_text().splitlines())]
    for system in ("adapted", "blank"):
        assert 0 <= results.systems[system]["right"][0] <= 1
        assert "perplexity" not in results.systems[system]
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Answers to the questions that are asked" in report


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(own_tower_world.CONSTANTS))
def test_other_models_that_see_are_trained_and_reported(
    name, write_folder, on_one_device, monkeypatch, tmp_path
):
    """A LoRA and the projector, with text alone between."""
    on_one_device(monkeypatch)
    world = own_tower_world.write_world(tmp_path / "world", write_folder)
    config = changed(
        on_toys(posttrain_food_llava, "tiny_lora", world),
        {"encoders.language.source": str(world / name), "encoders.language.max_length": 128},
    )
    sizes = {"questions.val_pictures": 2, "questions.test_pictures": 4, "instruct.rank": 2}
    config = changed(config, {**sizes, "mesh.data": 1, "mesh.model": 1})
    study.run(resolve_recipe(config), config, tmp_path / "run", "test")
    results = Results.load(tmp_path / "run" / "results.json")
    assert list(results.systems) == ["blank", "adapted"]
    assert results.labels["adapted"] == "LoRA, rank 2, projector, language model only"
    assert results.counts["questions"] == [4]
    params, _ = load_adapter_params(tmp_path / "run" / "seed_0" / "instruct" / "adapter")
    assert set(params) == {"language", "weights"}
    assert set(params["weights"]) == {"image"}
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Answers that were held out" in report


def test_questions_that_cannot_be_answered_are_refused_before_anything_is_trained(world, tmp_path):
    recipe = on_toys(posttrain_food_llava, "tiny_lora", world)
    for changes, message in (
        ({"questions.asked": f"records:{world / 'none.jsonl'}"}, "cannot read .*none.jsonl"),
        (
            {
                "questions.asked": f"records:{world / 'composed.jsonl'}",
                "questions.max_new_tokens": 65_000,
            },
            "composed.jsonl.* leaves no room for 65000 new ones",
        ),
    ):
        config = changed(recipe, changes)
        with pytest.raises(MmjaxError, match=message):
            study.run(resolve_recipe(config), config, tmp_path / "run", "test")
        assert not (tmp_path / "run" / "seed_0").exists()


def test_the_recipes_are_the_papers():
    for module in RECIPES:
        stage = resolve_recipe(as_dict(module.get_config())).main
        assert (stage.optim.lr, stage.optim.weight_decay, stage.train.batch_size) == (2e-5, 0, 128)
        assert stage.train.steps == -(-(module.RECORDS - 512) // 128)  # one epoch
        assert stage.optim.warmup_steps == stage.train.steps * 3 // 100
        assert stage.encoders["language"].max_length == 6144
        (slow,) = stage.optim.rates
        assert (slow.parameters, slow.factor) == ("weights/image/vision/.*", 0.1)  # 2e-6
        assert stage.instruct.visual
        captions, tasks = resolve_recipe(as_dict(module.get_config("two_stage"))).stages
        assert (captions.instruct.train, captions.optim.lr) == ("projector", 2e-3)
        assert (tasks.instruct.train, tasks.instruct.start) == ("full", "captions")
        assert (captions.instruct.start, captions.optim.rates) == ("", ())
    with pytest.raises(ValueError, match="'huge'; expected one of"):
        posttrain_food_llava.get_config("huge")
