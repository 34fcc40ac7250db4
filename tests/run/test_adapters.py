"""Adapters inside the encoders of whole recipes: what learns, what is kept, what uses it."""

import logging
from typing import Any

import numpy as np
import pytest

import mmjax
from mmjax import study, trees
from mmjax.errors import MmjaxError
from mmjax.report.results import Results
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.specs.recipe import resolve_recipe

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 2, "targets": ("query", "value")},
    "tokens": {"kind": "vpt", "tokens": 2},
    "full": {"kind": "full"},
}


@pytest.fixture(scope="module")
def recipe(toy):
    """A domain on the toy's base, by what sits in its encoders alone."""
    config = toy.change({"base.train.steps": 4, "train.steps": 4, "train.save_every": 2})
    pairs = {**config["pairs"], "domain": {"labels": ("w18",)}}
    config["base"] |= {"pairs": pairs}
    train = config["train"] | {"eval_every": 2, "accumulate": 2, "batch_size": 8}
    for name in ("parallel", "adapter", "variants"):
        del config[name]
    return config | {
        "name": "toy_adapters",
        "task": "domain",
        "evals": ("retrieval",),
        "encoders": config["base"]["encoders"],
        "pairs": pairs,
        "residual": {"tune": "none"},
        "adapters": {"image": KINDS["lora"], "text": KINDS["lora"]},
        "loss": {"kind": "contrastive"},
        "optim": {"lr": 0.05},
        "train": train,
        "mesh": {"data": 4, "model": 2},
        "variants": {
            # LiT: one tower learns, whole, and the base's heads with it.
            "lit": {"adapters": {"text": KINDS["full"]}, "residual": {"tune": "heads"}},
        },
    }


@pytest.fixture(scope="module")
def finished(toy, recipe, tmp_path_factory):
    """The finished run, and what it said."""
    workdir = tmp_path_factory.mktemp("adapters") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(toy.cache))
        study.run(resolve_recipe(recipe), recipe, workdir, "test")
    return workdir


def test_what_learns_is_saved_and_read_again(finished, toy, monkeypatch):
    results = Results.load(finished / "results.json")
    assert set(results.systems) == {"base", "lit", "adapted"}
    params, card = load_adapter_params(finished / "seed_0" / "domain" / "adapter")
    assert set(params) == {"adapters", "logit_scale"}
    assert set(params["adapters"]) == {"image", "text"}
    assert card["stage"]["adapters"]["image"]["kind"] == "lora"
    ups = [x for p, x in trees.named_leaves(params) if p.endswith("up/kernel")]
    assert len(ups) == 4
    assert all(np.abs(x).max() > 0 for x in ups)
    whole, _ = load_adapter_params(finished / "seed_0" / "lit" / "adapter")
    assert set(whole) == {"heads", "adapters"}
    assert set(whole["adapters"]) == {"text"}
    assert any(np.abs(x).max() > 0 for x in map(np.asarray, _leaves(whole["adapters"])))

    # Whoever uses it gets the encoders with what sits in them.
    monkeypatch.setenv("MMJAX_CACHE", str(toy.cache))
    adapted: Any = mmjax.load_adapter(finished / "seed_0" / "domain" / "adapter")
    found = adapted.embed_texts(["w4 w14", "w5 w15"])
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    base: Any = mmjax.load_adapter(finished / "seed_0" / "base" / "adapter")
    assert np.abs(found - base.embed_texts(["w4 w14", "w5 w15"])).max() > 1e-4


def _leaves(tree: Any) -> list[Any]:
    return [leaf for _, leaf in trees.named_leaves(tree)]


def test_that_nothing_is_cached_is_said_before(recipe, toy, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MMJAX_CACHE", str(toy.cache))
    broken = {**recipe, "adapters": {"image": {**KINDS["lora"], "targets": ("fc9",)}}}
    with caplog.at_level(logging.WARNING), pytest.raises(MmjaxError, match="choose from"):
        study.run(resolve_recipe(broken), broken, tmp_path / "run", "test")
    assert "config.adapters.image: lora learns inside the image encoder, which" in caplog.text
    assert not (tmp_path / "run" / "seed_0").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapters": {"image": {"kind": "lorra"}}}, r"config.adapters.image.kind is 'lorra'"),
        ({"adapters": {"image": {"rank": 2}}}, "config.adapters.image.kind is ''"),
        ({"adapters": {"foreign": KINDS["lora"]}}, "adapters of the encoders"),
        ({"train": {"accumulate": 3, "batch_size": 8}}, "a multiple of train.accumulate=3"),
        (
            {"task": "pretrained", "base": None, "train": {}},
            "no adapter: this task trains on outputs",
        ),
    ],
)
def test_settings_that_are_refused(changes, message, recipe):
    bare = {k: v for k, v in recipe.items() if k != "variants"}
    with pytest.raises(MmjaxError, match=message):
        resolve_recipe({**bare, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapters": {}}, "nothing would be trained"),
        ({"adapters": {"image": {"kind": "lora", "rank": 4000}}}, "is larger than 'query'"),
        ({"adapters": {"image": {"kind": "lora", "ranks": 4}}}, "config.adapters.image.ranks"),
    ],
)
def test_what_the_encoders_say_is_told_before_training(
    changes, message, recipe, toy, tmp_path, monkeypatch
):
    monkeypatch.setenv("MMJAX_CACHE", str(toy.cache))
    bare = {k: v for k, v in recipe.items() if k != "variants"} | changes
    with pytest.raises(MmjaxError, match=message):
        study.run(resolve_recipe(bare), bare, tmp_path / "run", "test")
