"""What cannot work is refused before the first feature is computed, and leaves nothing behind."""

import sys

import pytest

from mmjax import study
from mmjax.errors import MmjaxError
from mmjax.specs.recipe import resolve_recipe


@pytest.fixture
def refuse(toy, tmp_path, monkeypatch):
    """Returns `refuse(changes, message, **edits of the rows)`: no feature, no folder, no claim."""
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))

    def check(changes, message, config=None):
        config = toy.change(changes) if config is None else config
        workdir = tmp_path / "run"
        with pytest.raises(MmjaxError, match=message) as info:
            study.run(resolve_recipe(config), config, workdir, "test")
        assert "\n" not in str(info.value)
        assert not (tmp_path / "cache" / "features").exists()
        assert not workdir.exists()

    return check


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base.train.batch_size": 64},
            "64 is larger than the 22 .* set --config.base.train.batch_size to at most 22",
        ),
        (
            {"train.batch_size": 48, "parallel.sources": ("captions",)},
            r"larger than the \d+ .* set --config.train.batch_size to at most",
        ),
        (
            {"variants.linear.loss": {"kind": "contrastive"}, "train.batch_size": 24},
            "24 is larger than the 22 .* set --config.variants.linear.train.batch_size",
        ),
        ({"base.train.batch_size": 12}, "does not divide over 8 .* --config.base.train.batch_size"),
        ({"base.pairs.views": ("upside_down",)}, "config.base.pairs.views names 'upside_down'"),
        (
            {"parallel.sources": (), "train.select": "none"},
            "config.parallel.sources is empty; expected 'captions'",
        ),
        ({"base.train.select": "cosine_to_base"}, "config.base.train.select is 'cosine_to_base'"),
        ({"encoders.foreign.output": "pooled"}, "config.encoders.foreign.output must be 'tokens'"),
        ({"variants.linear.pairs": {"source": "none.jsonl"}}, "none.jsonl"),
        ({"languages": ("fr", "en")}, "'fr'"),
        ({"base": "nowhere"}, "no adapter at nowhere"),
    ],
)
def test_before_any_feature(changes, message, refuse):
    refuse(changes, message)


def test_every_seed_is_looked_at(refuse, monkeypatch):
    from mmjax.tasks.dual_encoder import checks

    seen = []
    real = checks.check_enough

    def check(size, count):
        seen.append(count)
        if len(seen) > 4:  # the second seed's
            raise MmjaxError("the second seed")
        real(size, count)

    monkeypatch.setattr(checks, "check_enough", check)
    refuse({"seeds": (0, 1)}, "the second seed")


def test_an_extra_that_is_not_installed(refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    refuse({"writer.tensorboard": True}, "needs tensorboardX")


@pytest.fixture
def alone(toy):
    """A recipe without a base, for other tasks."""
    config = toy.change({})
    for name in ("parallel", "adapter", "variants", "base", "loss"):
        del config[name]
    del config["encoders"]["foreign"]
    return config


def test_a_projection_of_tokens(alone, refuse):
    alone |= {"task": "projection", "evals": ("probe",)}
    alone["train"] |= {"select": "knn_acc"}
    alone["encoders"]["text"]["output"] = "tokens"
    refuse({}, "config.encoders.text.output is 'tokens'; a projection reads one vector", alone)


def test_prompts_of_more_shots_than_there_are(alone, refuse):
    alone |= {"task": "prompts", "evals": ("fewshot",), "prompts": {"method": "linear_probe"}}
    alone["train"] |= {"select": "none"}
    refuse({}, "fewer than 16 training pictures .* --config.fewshot.shots", alone)
    alone |= {"fewshot": {"shots": 2}}
    refuse({}, "8 is larger than the 4 training examples; set --config.train.batch_size", alone)
    alone["train"] |= {"batch_size": 4}
    alone["mesh"] = {"data": 4, "model": 2}
    refuse({}, "config.base is empty, and config.encoders share no space", alone)


def test_a_domain_whose_rest_has_one_class_alone(toy, refuse):
    changes = {f"{where}pairs.domain": {"labels": ("w18",)} for where in ("", "base.")}
    config = toy.change(changes) | {"task": "domain", "residual": {"bottleneck": 4}}
    for name in ("parallel", "adapter", "variants", "loss"):
        del config[name]
    del config["encoders"]["foreign"]
    refuse({}, "zero-shot classification needs at least 2 classes", config)


def test_a_wrong_flag_then_the_right_one_in_the_same_folder(toy, start, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    few = {"variants": {}, "evals": ("retrieval",), "train.steps": 1, "base.train.steps": 1}
    torn = tmp_path / "pairs.jsonl"
    rows = toy.rows()
    for row in rows:
        row["image"] = str(toy.folder / row["image"])
    (tmp_path / "torn.png").write_bytes(b"torn")
    rows[3]["image"] = "torn.png"
    toy.write_jsonl(torn, rows)
    source = {f"{where}pairs.source": str(torn) for where in ("", "base.")}
    with pytest.raises(MmjaxError, match=r"torn\.png"):  # seen only while features are computed
        start(toy, workdir, few | source)
    assert not workdir.exists()
    with pytest.raises(MmjaxError, match="at most 22"):
        start(toy, workdir, few | {"base.train.batch_size": 64})
    assert not workdir.exists()
    start(toy, workdir, few)
    assert (workdir / "results.json").is_file()
