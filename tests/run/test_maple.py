"""The variant `maple` of the recipe for CLIP, from its settings to what is loaded and used."""

import json
import logging
from typing import Any

import numpy as np
import pytest

import mmjax
from configs import prompts_coop
from mmjax import predict, study
from mmjax.data.library import Library
from mmjax.encoders import load_encoder
from mmjax.errors import MmjaxError
from mmjax.report.results import Results
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.sharding import make_mesh
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import assemble
from tests.run.test_language_clip import write_clip_tokenizer


@pytest.fixture(scope="module")
def recipe(toy, write_folder) -> dict[str, Any]:
    """The recipe with the toy's four shapes as classes, a tiny CLIP and few steps."""
    rows = [{**row, "label": f"w{14 + i % 4}"} for i, row in enumerate(toy.rows())]
    source = toy.write_jsonl(toy.folder / "coupled_shapes.jsonl", rows)
    write_folder(toy.folder / "clip", "clip_tiny")
    write_clip_tokenizer(toy.folder / "clip" / "tokenizer.json")
    config = as_dict(prompts_coop.get_config())
    maple = config["variants"]["maple"]
    encoder = {"source": str(toy.folder / "clip"), "output": "pooled"}
    half = {**maple, "fewshot": {**maple["fewshot"], "half": "base", "shots": 2}}
    short = {"steps": 4, "batch_size": 4, "save_every": 2, "log_every": 2}
    return config | {
        **maple,
        "seeds": (0,),
        "encoders": {"image": encoder, "text": encoder},
        "pairs": {**config["pairs"], "source": str(source), "stratify": True, "val_fraction": 0.1},
        "prompts": {**config["prompts"], **maple["prompts"], "context": "w20 w21 w22 w23"},
        "fewshot": {"shots": 2},
        "optim": {**config["optim"], **maple["optim"], "warmup_steps": 1},
        "train": {**config["train"], **short},
        "variants": {"base_to_new": half},
    }


@pytest.fixture(scope="module")
def finished(toy, recipe, on_one_device, tmp_path_factory):
    """The finished run; nobody writes into it."""
    workdir = tmp_path_factory.mktemp("maple") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(toy.cache))
        on_one_device(patch)
        study.run(resolve_recipe(recipe), recipe, workdir, "test")
    return workdir


@pytest.fixture
def here(cached, on_one_device, monkeypatch):
    """The toy's cache and one device."""
    on_one_device(monkeypatch)


def test_it_is_trained_measured_and_told(finished):
    params, card = load_adapter_params(finished / "seed_0" / "prompts" / "adapter")
    assert set(params) == {"general", "deep", "coupling"}
    assert card["stage"]["prompts"]["method"] == "maple"
    assert "adapters" not in params
    lines = (finished / "seed_0" / "prompts" / "metrics.jsonl").read_text().splitlines()
    losses = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    results = Results.load(finished / "results.json")
    assert results.labels["adapted"] == "MaPLe"
    assert 0 <= results.systems["adapted"]["accuracy"][0] <= 1
    # Of a method that reads names the classes that came later have figures too.
    for name in ("base_accuracy", "new_accuracy", "harmonic_accuracy"):
        assert 0 <= results.systems["base_to_new"][name][0] <= 1


def test_loaded_and_exported_it_says_what_was_measured(finished, recipe, tmp_path, here):
    plan = study.plan(resolve_recipe(recipe), finished)
    run = next(one for one in plan if one.stage.name == "prompts")
    library = Library(make_mesh(), ("en", "en"))
    assembly: Any = assemble(run, library)
    trained = run.trained(library.mesh)
    functions = assembly.data.publish(assembly.task, library.mesh).bind(trained, assembly.frozen)
    shown = assembly.data.test["adapted"].data
    items = [assembly.data.corpus.items[i].picture("photo") for i in shown.images.rows]
    classifier = mmjax.load_adapter(finished, kind=mmjax.Classifier)
    for function, named in (
        ("score", classifier.classify(items, k=4)),
        ("score_base", classifier.classify_base(items, k=4)),
    ):
        logits = functions[function](shown.images)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        for row, share in zip(named, shares, strict=True):
            expected = dict(zip(assembly.data.classes, share, strict=True))
            assert dict(row) == pytest.approx(expected, abs=1e-4)
    predict.export(plan, tmp_path)
    again = mmjax.load_adapter(tmp_path / "seed_0" / "prompts", kind=mmjax.Classifier)
    assert again.classify(items, k=4) == classifier.classify(items, k=4)
    # Its pictures are read with its tokens, the base's and all texts without them.
    alone = load_encoder(recipe["encoders"]["image"]["source"], tower="image")
    frozen = alone.embed_images(items)
    frozen /= np.linalg.norm(frozen, axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.embed_base_images(items), frozen, atol=1e-5)
    assert np.abs(classifier.embed_images(items) - frozen).max() > 1e-3


def test_classes_that_came_later_are_named_by_the_learned_prompts(finished, toy, here):
    images = [toy.folder / f"{i:02d}.png" for i in range(4)]
    classifier = mmjax.load_adapter(finished, kind=mmjax.Classifier)
    # Its own names, taught, are its own classifier.
    again = classifier.taught(classifier.classes)
    for mine, theirs in zip(again.classify(images, 4), classifier.classify(images, 4), strict=True):
        assert dict(mine) == pytest.approx(dict(theirs), abs=1e-5)
    other = classifier.taught(["w30", "w31 w32"])
    assert {name for name, _ in other.classify(images, 2)[0]} == {"w30", "w31 w32"}
    assert other.classify(images, 2) != other.classify_base(images, 2)


def test_a_clip_without_transformers_is_refused_before_anything_is_computed(
    recipe, toy, golden, tmp_path, here, caplog
):
    archive = tmp_path / "RN.pt"
    archive.write_bytes(golden("clip_resnet_tiny")["archive"].tobytes())
    write_clip_tokenizer(tmp_path / "tokenizer.json")
    encoder = {"source": str(archive), "output": "pooled"}
    config = {**recipe, "encoders": {"image": encoder, "text": encoder}, "variants": {}}
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(MmjaxError, match=r"is 'maple', .*config\.encoders\.image .* has none"),
    ):
        study.run(resolve_recipe(config), config, tmp_path / "run", "test")
    step = "config.prompts.method: maple learns inside the image encoder, which therefore runs in"
    assert step in caplog.text  # as of adapters, what it costs is said before
    assert not (tmp_path / "run" / "seed_0").exists()
