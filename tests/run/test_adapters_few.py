"""Adapters inside the encoders of few-shot and projection recipes: what learns is kept and used."""

import functools
import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmjax
from mmjax import predict, study
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.evals import probe
from mmjax.report.results import Results
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.sharding import make_mesh
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import assemble, definition_of
from mmjax.tasks.early import check_early
from mmjax.tasks.projection.adapted import Projected

LORA = {"kind": "lora", "rank": 2, "targets": ("query", "value")}
VPT = {"kind": "vpt", "tokens": 2, "deep": True}
PLAIN = ("parallel", "adapter", "variants", "base")


@pytest.fixture(scope="module")
def few(toy):
    """The toy's four shapes as classes; prompts beside adapters in both towers."""
    rows = [{**row, "label": f"w{14 + i % 4}"} for i, row in enumerate(toy.rows())]
    source = toy.write_jsonl(toy.folder / "adapted_shapes.jsonl", rows)
    config = toy.change({"base.train.steps": 4, "base.train.save_every": 4})
    pairs = {**config["pairs"], "source": str(source), "stratify": True, "val_fraction": 0.2}
    pairs |= {"views": ("mirror", "plain")}
    base = config["base"] | {"pairs": pairs}
    train = {"steps": 4, "batch_size": 8, "save_every": 2, "select": "none", "log_every": 2}
    return {k: v for k, v in config.items() if k not in PLAIN} | {
        "name": "toy_adapted_prompts",
        "task": "prompts",
        "languages": ("en", "en"),
        "evals": ("fewshot",),
        "encoders": base["encoders"],
        "base": base,
        "pairs": pairs,
        "prompts": {"method": "coop", "template": "w9 {}", "general": 2, "ending": ""},
        "fewshot": {"shots": 2},
        "adapters": {"image": VPT, "text": LORA},
        "loss": {"kind": "contrastive"},
        "optim": {"lr": 0.05},
        "train": train,
        "variants": {
            "patches": {
                "prompts": {"method": "structured", "instance": 1, "chunk": 8},
                "adapters": {"image": LORA},
            },
        },
    }


@pytest.fixture(scope="module")
def projected(toy):
    """One projector an encoder, both of which learn; beside it one for both."""
    config = toy.change({})
    shared = {"steps": 4, "eval_every": 2, "save_every": 2, "select": "none"}
    return {k: v for k, v in config.items() if k not in PLAIN} | {
        "name": "toy_adapted_projection",
        "task": "projection",
        "evals": ("probe",),
        "encoders": toy.config["base"]["encoders"],
        "pairs": {"source": config["pairs"]["source"], "folds": 5, "val_fraction": 0.2},
        "projection": {"loss": "supcon", "hidden": 8, "out_dim": 4},
        "adapters": {"image": LORA, "text": VPT},
        "loss": {"kind": "contrastive"},
        "optim": {"lr": 0.05},
        "train": config["train"] | shared,
        "variants": {"joined": {"projection": {"mode": "single"}, "adapters": {"image": LORA}}},
    }


def quick(classifiers: Any) -> Any:
    """The quick ones alone."""
    return lambda seed: {k: v for k, v in classifiers(seed).items() if k in ("LR", "kNN")}


@pytest.fixture(scope="module")
def runs(toy, few, projected, on_one_device, tmp_path_factory):
    """Returns `runs(task)`: the finished run's folder of a recipe; nobody writes into it."""
    folder = tmp_path_factory.mktemp("few")

    @functools.cache
    def run(task: str) -> Path:
        config = {"prompts": few, "projection": projected}[task]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MMJAX_CACHE", str(toy.cache))
            patch.setattr(probe, "classifiers", quick(probe.classifiers))
            on_one_device(patch)
            study.run(resolve_recipe(config), config, folder / task, "test")
        return folder / task

    return run


@pytest.fixture
def here(cached, on_one_device, monkeypatch):
    """The toy's cache and one device."""
    monkeypatch.setattr(probe, "classifiers", quick(probe.classifiers))
    on_one_device(monkeypatch)


def test_adapters_beside_prompts_are_saved_and_told(runs):
    params, card = load_adapter_params(runs("prompts") / "seed_0" / "prompts" / "adapter")
    assert set(params) == {"adapters", "general"}
    assert set(params["adapters"]) == {"image", "text"}
    assert card["stage"]["adapters"]["image"]["kind"] == "vpt"
    assert np.abs(params["adapters"]["text"]["query"]["up"]["kernel"]).max() > 0
    results = Results.load(runs("prompts") / "results.json")
    assert set(results.systems) == {"base", "patches", "adapted"}
    told = "CoOp with vpt in image, lora in text", "structured prompts, exact with lora in image"
    assert (results.labels["adapted"], results.labels["patches"]) == told
    assert set(told) < {label for label, _ in definition_of("prompts").tables(results)[0].rows}


@pytest.mark.parametrize("stage", ["prompts", "patches"])
def test_loaded_it_says_what_was_measured(stage, runs, few, toy, tmp_path, here):
    run = next(r for r in study.plan(resolve_recipe(few), runs("prompts")) if r.stage.name == stage)
    library = Library(make_mesh(), ("en", "en"))
    assembly = assemble(run, library)
    functions = assembly.data.publish(assembly.task, library.mesh).bind(
        run.trained(library.mesh), assembly.frozen
    )
    asked: Any = assembly.data
    sets = asked.test["adapted"].data
    measured = functions["score"](sets.images)
    results = Results.load(runs("prompts") / "results.json")
    right = float((measured.argmax(axis=1) == sets.labels).mean())
    label = "adapted" if stage == "prompts" else stage
    assert results.systems[label]["accuracy"] == [pytest.approx(right)]

    items = [asked.corpus.items[i].picture("photo") for i in sets.images.rows]
    adapted = mmjax.load_adapter(runs("prompts") / "seed_0" / stage, kind=mmjax.Classifier)
    found = adapted.classify(items, k=4)
    shares = np.exp(measured - measured.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    for row, share in zip(found, shares, strict=True):
        expected = dict(zip(asked.classes, share, strict=True))
        for name, value in row:
            assert value == pytest.approx(expected[name], abs=1e-4)
    if stage == "prompts":
        predict.export(study.plan(resolve_recipe(few), runs("prompts")), tmp_path)
        again = mmjax.load_adapter(tmp_path / "seed_0" / "prompts", kind=mmjax.Classifier)
        assert again.classify(items, k=4) == found
        # Without its adapters it would say something else.
        frozen = mmjax.load_adapter(runs("prompts") / "seed_0" / "base", kind=mmjax.Adapted)
        assert np.abs(adapted.embed_images(items) - frozen.embed_images(items)).max() > 1e-4
        # Beside it stands what the frozen model says, of its own view of the pictures.
        base = frozen.embed_images(items)
        np.testing.assert_array_equal(adapted.embed_base_images(items), base)
        right = functions["score_base"](sets.images).argmax(axis=1)
        for one in (adapted, adapted.taught(adapted.classes)):
            named = one.classify_base(items)
            assert [name for ((name, _),) in named] == [asked.classes[c] for c in right]


def test_adapters_beside_projectors_are_saved_and_told(runs):
    params, _ = load_adapter_params(runs("projection") / "seed_0" / "joined" / "adapter")
    assert set(params) == {"adapters", "joined"}
    assert np.abs(params["adapters"]["image"]["query"]["up"]["kernel"]).max() > 0
    results = Results.load(runs("projection") / "results.json")
    told = [label for label in results.labels.values() if label.endswith("with lora in image")]
    assert told == ["projection joined: supcon, single, hidden 8, to 4 with lora in image"]


@pytest.mark.parametrize("stage", ["projection", "joined"])
def test_loaded_it_projects_what_was_measured(stage, runs, projected, toy, tmp_path, here):
    plan = study.plan(resolve_recipe(projected), runs("projection"))
    run = next(r for r in plan if r.stage.name == stage)
    library = Library(make_mesh(), ("zh", "en"))
    assembly: Any = assemble(run, library)
    functions = assembly.data.publish(assembly.task, library.mesh).bind(
        run.trained(library.mesh), assembly.frozen
    )
    measured = assembly.data.val.embed(functions)
    items = assembly.data.corpus.items
    pictures = [item.picture("photo") for item in items]
    texts = [item.captions["en"][0] for item in items]
    predict.export(plan, tmp_path)
    for folder in (runs("projection") / "seed_0" / stage, tmp_path / "seed_0" / stage):
        adapted = mmjax.load_adapter(folder, kind=Projected)
        if stage == "joined":
            found = adapted.embed_joined(pictures, texts)
        else:
            parts = adapted.embed_images(pictures), adapted.embed_texts(texts)
            found = np.concatenate(parts, axis=1)
        np.testing.assert_allclose(found, measured, atol=2e-5)


@pytest.mark.parametrize("task", ["prompts", "projection"])
def test_what_runs_in_every_step_is_said_before(task, few, projected, tmp_path, here, caplog):
    config = {"prompts": few, "projection": projected}[task]
    broken = {**config, "adapters": {"image": {**LORA, "targets": ("fc9",)}}, "variants": {}}
    with caplog.at_level(logging.WARNING), pytest.raises(MmjaxError, match="choose from"):
        study.run(resolve_recipe(broken), broken, tmp_path / "run", "test")
    items = {"prompts": 8 * 2, "projection": 8}[task]  # two views of each
    assert "config.adapters.image: lora learns inside the image encoder, which" in caplog.text
    assert f"on {items} items each" in caplog.text
    assert not (tmp_path / "run" / "seed_0").exists()


@pytest.mark.parametrize("kind", ["prompt_tuning", "vpt"])
def test_tokens_without_a_place_are_refused_before_anything_is_computed(kind, few, tmp_path, here):
    def put(tokens: int) -> dict[str, Any]:
        return {**few, "adapters": {"text": {"kind": kind, "tokens": tokens}}, "variants": {}}

    config = put(500)
    with pytest.raises(MmjaxError, match=r"config\.adapters\.text\.tokens is 500") as refusal:
        study.run(resolve_recipe(config), config, tmp_path / "run", "test")
    assert not (tmp_path / "run" / "seed_0").exists()
    sentence = r"at most (\d+): the longest prompt has (\d+) .* (\d+)$"
    numbers = re.search(sentence, str(refusal.value))
    assert numbers is not None
    most, longest, places = map(int, numbers.groups())
    assert most + longest == places

    # As many as it says fit, one more does not.
    library = Library(make_mesh(), ("en", "en"))
    for tokens in (most, most + 1):
        recipe = resolve_recipe(put(tokens))
        runs = study.plan(recipe, tmp_path / "run")
        if tokens == most:
            check_early(recipe, runs, library)
        else:
            with pytest.raises(MmjaxError, match=f"expected at most {most}: "):
                check_early(recipe, runs, library)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": {"method": "clap"}}, r"adapters\.image is 'vpt'; .*prompts\.method='clap'"),
        ({"prompts": {"method": "factorised"}}, "learns on embeddings that are computed once"),
        ({"adapters": {"foreign": LORA}}, "adapters of the encoders"),
        (
            {"prompts": {"method": "structured"}, "pairs": {"views": ("mirror",)}},
            r"pairs\.views is \('mirror',\); expected 'plain' among them",
        ),
    ],
)
def test_settings_that_are_refused(changes, message, few):
    changed = {
        name: {**few[name], **value} if name in ("prompts", "pairs") else value
        for name, value in changes.items()
    }
    with pytest.raises(MmjaxError, match=message):
        resolve_recipe({**few, "variants": {}, **changed})


def test_one_projector_needs_what_an_encoder_that_learns_reads_of_every_item(
    projected, toy, tmp_path, here
):
    path, count = tmp_path / "lacking.npz", 40
    texts = np.asarray([f"w{4 + i % 10}" if i % 3 else "" for i in range(count)])
    labels = np.asarray([f"c{i % 2}" for i in range(count)])
    np.savez(path, label=labels, en=texts, note=np.ones((count, 3), np.float32))
    changes = {
        "encoders": {"text": projected["encoders"]["text"]},
        "adapters": {"text": VPT},
        "pairs": {**projected["pairs"], "source": f"embeddings:{path}"},
        "projection": {"mode": "single", "features": ("note",)},
    }
    config = {**projected, "variants": {}, **changes}
    with pytest.raises(MmjaxError, match=r"adapters\.text is 'vpt'; .*some items have no text"):
        study.run(resolve_recipe(config), config, tmp_path / "run", "test")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["prompts", "projection"])
def test_measured_again_it_says_the_same(task, runs, few, projected, tmp_path, here):
    config = {"prompts": few, "projection": projected}[task]
    workdir = shutil.copytree(runs(task), tmp_path / "run")
    before = Results.load(workdir / "results.json").systems
    (workdir / "results.json").unlink()
    study.evaluate(resolve_recipe(config), config, workdir, "test")
    assert Results.load(workdir / "results.json").systems == before


@pytest.mark.slow
@pytest.mark.parametrize("task", ["prompts", "projection"])
def test_a_stopped_run_ends_with_the_same_bits(task, runs, few, projected, toy, tmp_path, here):
    config: Mapping[str, Any] = {"prompts": few, "projection": projected}[task]
    workdir = shutil.copytree(runs(task), tmp_path / "run")
    (workdir / "results.json").unlink()
    folder = workdir / "seed_0" / task
    (folder / "done.json").unlink()
    shutil.rmtree(folder / "adapter")
    assert (folder / "checkpoints" / "2").is_dir()
    shutil.rmtree(folder / "checkpoints" / "4")
    study.run(resolve_recipe(dict(config)), config, workdir, "test")
    before, after = (
        json.loads((d / "seed_0" / task / "adapter" / "adapter_card.json").read_text())["trainable"]
        for d in (runs(task), workdir)
    )
    assert after == before
