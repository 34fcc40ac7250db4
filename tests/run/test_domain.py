"""A whole domain recipe on the toy: base without the domain, variants, report, export, resume."""

import json
import shutil

import numpy as np
import pytest

import mmjax
from mmjax import predict, study
from mmjax.errors import MmjaxError
from mmjax.report.results import Results
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import definition_of

HEADS = {"residual": {"tune": "heads"}, "weighting": {"pairs": "none"}}
VARIANTS = {
    "plain": {"weighting": {"pairs": "none"}},
    "fewer": {"pairs": {"domain": {"fraction": 0.8}}},
    "ewc": {**HEADS, "continual": {"kind": "ewc", "weight": 10.0, "fisher_batch_size": 8}},
    "distill": {**HEADS, "continual": {"kind": "distill"}},
}
STAGES = ("base", *VARIANTS, "domain")


@pytest.fixture(scope="module")
def recipe(toy):
    """The toy's base on one of its two classes; the other one is the domain."""
    config = toy.change({"base.train.steps": 6, "train.steps": 4, "train.save_every": 2})
    pairs = {**config["pairs"], "domain": {"labels": ("w18",)}}
    config["base"] |= {"pairs": pairs}
    train = config["train"] | {"eval_every": 2}
    for name in ("parallel", "adapter", "variants"):
        del config[name]
    return config | {
        "name": "toy_domain",
        "task": "domain",
        "evals": ("retrieval",),
        "encoders": config["base"]["encoders"],
        "pairs": pairs,
        "residual": {"bottleneck": 4},
        "weighting": {"pairs": "focal"},
        "loss": {"kind": "contrastive"},
        "train": train,
        "variants": VARIANTS,
    }


@pytest.fixture(scope="module")
def domain(toy, recipe, tmp_path_factory):
    """The finished run; nobody writes into it."""
    workdir = tmp_path_factory.mktemp("domain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(toy.cache))
        study.run(resolve_recipe(recipe), recipe, workdir, "test")
    return workdir


def test_every_system_is_measured_on_the_domain_and_on_the_rest(domain):
    results = Results.load(domain / "results.json")
    assert list(results.systems) == ["base", *VARIANTS, "adapted"]
    for metrics in results.systems.values():
        assert 0 <= metrics["mR"][0] <= 1
        assert 0 <= metrics["general_mR"][0] <= 1
    assert results.counts == {"train": [11], "val": [3], "test": [6], "general": [6]}
    assert results.shares == {"plain": 1, "fewer": 0.8, "ewc": 1, "distill": 1, "adapted": 1}
    first, against, *_ = definition_of("domain").tables(results)
    assert first.columns == (
        "domain, 80%",
        "domain, 100%",
        "general, 80%",
        "general, 100%",
    )
    label = "residual adapter, focal weights γ=1"
    rows = dict(first.rows)
    assert rows[label][0] == tuple(results.systems["fewer"]["mR"])
    assert rows[label][1] == tuple(results.systems["adapted"]["mR"])
    plain, adapted = (results.systems[name]["general_mR"][0] for name in ("plain", "adapted"))
    assert dict(against.rows)[label][3] == pytest.approx((adapted - plain,))


def test_the_report_shows_what_was_hard(domain):
    page = (domain / "report.html").read_text(encoding="utf-8")
    for text in ("Hard samples", "Heaviest before the first step", "Heaviest in the end"):
        assert text in page
        assert text in (domain / "report.md").read_text(encoding="utf-8")
    assert "weight of a pair" in page


def test_training_sees_the_domain_alone_and_the_base_the_rest(domain, recipe, toy, cached):
    from mmjax.data.library import Library
    from mmjax.sharding import make_mesh

    library = Library(make_mesh(), ("zh", "en"))
    pairs = resolve_recipe(recipe).main.pairs
    own, rest = library.split(pairs, 0, domain=True), library.split(pairs, 0)
    items = library.corpus(pairs).items
    assert {items[i].label for side in own.values() for i in side} == {"w18"}
    assert {items[i].label for side in rest.values() for i in side} == {"w19"}
    stage = next(s for s in resolve_recipe(recipe).stages if s.name == "fewer")
    fewer = library.split(stage.pairs, 0, domain=True)
    assert set(fewer["train"]) < set(own["train"])
    assert np.array_equal(fewer["test"], own["test"])


def test_only_what_is_trained_is_saved(domain, recipe):
    def params(stage):
        return (domain / "seed_0" / stage / "params.txt").read_text()

    assert params("domain").count("image/") == params("domain").count("text/") == 6
    assert "member" not in params("domain")
    assert "heads/image/member_0_out/kernel" in params("ewc")


def test_loaded_and_exported_it_embeds_the_same(domain, recipe, toy, tmp_path, cached):
    adapted = mmjax.load_adapter(domain, kind=mmjax.Adapted)
    assert adapted.card["stage"]["name"] == "domain"
    found = adapted.embed_texts(["w4 w14", "w8 w15"])
    predict.export(study.plan(resolve_recipe(recipe), domain), tmp_path)
    other = mmjax.load_adapter(tmp_path / "seed_0" / "domain", kind=mmjax.Adapted)
    np.testing.assert_array_equal(other.embed_texts(["w4 w14", "w8 w15"]), found)
    assert adapted.search(["w4 w14"], [toy.folder / "00.png"])[0][0][0] == 0


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_bits(domain, recipe, toy, tmp_path, cached):
    workdir = shutil.copytree(domain, tmp_path / "run")
    (workdir / "results.json").unlink()
    for stage in ("ewc", "domain"):
        folder = workdir / "seed_0" / stage
        (folder / "done.json").unlink()
        shutil.rmtree(folder / "checkpoints" / "4")
    study.run(resolve_recipe(recipe), recipe, workdir, "test")
    for stage in STAGES:
        assert toy.card(workdir, stage)["trainable"] == toy.card(domain, stage)["trainable"]
    before, after = (json.loads((d / "results.json").read_text()) for d in (domain, workdir))
    assert before["systems"] == after["systems"]


@pytest.mark.slow
def test_a_language_adapter_can_be_the_base(finished, recipe, toy, tmp_path, cached):
    config = {
        **recipe,
        "encoders": toy.config["encoders"],
        "pairs": toy.config["pairs"],  # all items: the base saw no pair of this language
        "base": str(finished),
        "variants": {},
    }
    study.run(resolve_recipe(config), config, tmp_path / "run", "test")
    export = predict.export(
        study.plan(resolve_recipe(config), tmp_path / "run"), tmp_path / "export"
    )[0]
    assert (export / "base" / "base" / "adapter.safetensors").is_file()
    texts = mmjax.load_adapter(tmp_path / "run", kind=mmjax.Adapted).embed_texts(["w24 w34"])
    np.testing.assert_array_equal(
        mmjax.load_adapter(export, kind=mmjax.Adapted).embed_texts(["w24 w34"]), texts
    )


def test_bases_that_do_not_fit_are_refused(domain, finished, recipe, toy, tmp_path, cached):
    def refuse(message, **changes):
        config = {**recipe, "variants": {}, **changes}
        workdir = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        with pytest.raises(MmjaxError, match=message):
            study.run(resolve_recipe(config), config, workdir, "test")

    base = str(domain / "seed_0" / "base")
    refuse(
        "is a 'domain' adapter; config.base needs one of contrastive, pretrained, language",
        base=str(domain),
    )
    refuse("stands on other encoders", base=str(finished))
    other = {**recipe["pairs"], "domain": {"labels": ("w19",)}}
    refuse("another split or domain of .*: its training items may be test", base=base, pairs=other)
    refuse("trained with seed 0: its training items", base=base, seeds=(1,))
    unknown = {**recipe["pairs"], "domain": {"labels": ("w99",)}}
    refuse(r"domain.labels names \['w99'\]; labels of pairs are \['w18', 'w19'\]", pairs=unknown)
    refuse("config.base is empty; the domain task needs", base=None)
