"""A chain in one recipe: base, language, domain, prompts, each on the one below."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

import mmjax
from configs import chain_clip
from mmjax import predict, study
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.report.results import Results
from mmjax.runs.adapter_files import read_card
from mmjax.sharding import make_mesh
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import definition_of
from mmjax.tasks.early import part_of
from mmjax.tasks.prompts.chain import LEARNT, LINK, OTHERS
from tests.run.test_language_clip import png, text, write_clip_tokenizer

LINKS = ("base", "language", "domain", "prompts")


def chain_of(toy):
    """The toy's four shapes are classes: two of them the domain, which prompts then learn apart."""
    rows = [
        {
            **row,
            "label": {"en": f"w{14 + i % 4}", "zh": f"w{34 + i % 4}"},
            "family": f"f{i}",
        }
        for i, row in enumerate(toy.rows())
    ]
    source = toy.write_jsonl(toy.folder / "chain.jsonl", rows)
    config = toy.change({})
    pairs = {
        **config["pairs"],
        "source": str(source),
        "domain": {"labels": ("w14", "w15"), "test_fraction": 0.3, "val_fraction": 0.15},
        "stratify": True,
        "development": 0.4,
    }
    train = {**config["train"], "steps": 4, "eval_every": 4, "save_every": 4}
    shared = {"pairs": pairs, "optim": config["optim"]}
    encoders = config["encoders"]
    base = {**config["base"], **shared, "train": train}
    language = {
        **shared,
        "task": "language",
        "encoders": encoders,
        "parallel": config["parallel"],
        "adapter": config["adapter"],
        "loss": config["loss"],
        "train": train,
        "base": base,
    }
    domain = {
        **shared,
        "task": "domain",
        "encoders": encoders,
        "residual": {"bottleneck": 4},
        "weighting": {"pairs": "focal"},
        "loss": {"kind": "contrastive"},
        "train": train,
        "base": language,
    }
    return {
        **shared,
        "name": "toy_chain",
        "task": "prompts",
        "seeds": (0,),
        "languages": ("zh", "en"),
        "evals": ("fewshot",),
        "encoders": encoders,
        "prompts": {
            "method": "structured",
            "template": "w29 {}",
            "templates": ("{}", "w29 {}"),
            "context": "w24",
            "general": 1,
            "ending": "",
        },
        "fewshot": {"shots": 4, "domain": True},
        "loss": {"kind": "contrastive"},
        "train": {**train, "select": "none"},
        "base": domain,
        "variants": {"factorised": {"prompts": {"method": "factorised"}}},
    }


@pytest.fixture(scope="module")
def recipe(toy):
    return chain_of(toy)


@pytest.fixture(scope="module")
def chain(toy, recipe, on_one_device, tmp_path_factory):
    """The finished run, on one device: meshes are tested elsewhere. Nobody writes into it."""
    workdir = tmp_path_factory.mktemp("chain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(toy.cache))
        on_one_device(patch)
        study.run(resolve_recipe(recipe), recipe, workdir, "test")
    return workdir


def test_each_links_card_names_the_one_below(chain):
    cards = {name: read_card(chain / "seed_0" / name / "adapter") for name in LINKS}
    assert cards["base"]["base"] is None
    for below, name in itertools.pairwise(LINKS):
        assert cards[name]["base"] == {
            "path": f"../../{below}/adapter",
            "fingerprint": cards[below]["trainable"]["fingerprint"],
        }
    assert cards["prompts"]["classes"] == ["w34", "w35"]  # in the added language


def test_the_table_says_what_every_link_adds_and_forgets(chain):
    results = Results.load(chain / "results.json")
    links = [name for name in results.systems if name.startswith(LINK)]
    assert links == [f"{LINK}{name}" for name in LINKS]
    asked = {"domain, zh", "domain, en", "rest, zh", "rest, en", LEARNT, OTHERS}
    for name in links[:3]:
        assert set(results.systems[name]) == asked
    assert set(results.systems[links[3]]) == {LEARNT, OTHERS}
    assert results.systems[links[3]][LEARNT] == results.systems["adapted"]["accuracy"]
    # English goes through the base's own head: a language link moves neither it nor the pictures.
    for part in ("domain, en", "rest, en"):
        assert results.systems[links[0]][part] == results.systems[links[1]][part]
    first, changes, *rest = definition_of("prompts").tables(results)
    assert [label for label, _ in first.rows][:3] == list(LINKS[:3])
    assert rest[0].title.startswith("Accuracy by shots")
    column = changes.columns.index("mR, domain, zh")
    below, mine = (results.systems[name]["domain, zh"][0] for name in links[:2])
    assert dict(changes.rows)["language"][column] == pytest.approx((mine - below,))
    page = (chain / "report.html").read_text(encoding="utf-8")
    assert "What each link adds and forgets" in page


def test_every_link_reads_the_same_split_and_no_pool_item_is_tested(recipe, cached):
    stages = resolve_recipe(recipe).stages
    library = Library(make_mesh(), ("zh", "en"))
    first = library.split(stages[0].pairs, 0)
    for stage in stages[1:]:
        for side, items in library.split(stage.pairs, 0).items():
            np.testing.assert_array_equal(items, first[side])
    own = library.split(stages[-1].pairs, 0, domain=True)
    items = library.corpus(stages[-1].pairs).items
    assert {items[i].label for side in own.values() for i in side} == {"w14", "w15"}


def test_loaded_and_exported_it_is_the_top_link(
    chain, recipe, toy, tmp_path, cached, monkeypatch, on_one_device
):
    on_one_device(monkeypatch)
    images = [toy.folder / f"{i:02d}.png" for i in range(2)]
    top = mmjax.load_adapter(chain, kind=mmjax.Classifier)
    found = top.classify(images, k=2)
    assert {name for name, _ in found[0]} == {"w34", "w35"}
    assert top.embed_texts(["w24 w34"]).shape == (1, 8)
    predict.export(study.plan(resolve_recipe({**recipe, "variants": {}}), chain), tmp_path)
    assert mmjax.load_adapter(tmp_path, kind=mmjax.Classifier).classify(images, k=2) == found
    assert (tmp_path / "seed_0/prompts/base/base/base/adapter.safetensors").is_file()


def test_a_domain_stands_beside_the_language_below_it(
    chain, toy, cached, monkeypatch, on_one_device
):
    on_one_device(monkeypatch)
    places = [chain / "seed_0" / name for name in ("language", "domain")]
    below, domain = (mmjax.load_adapter(place, kind=mmjax.Adapted) for place in places)
    texts, images = ["w24 w34", "w25 w35"], [toy.folder / f"{i:02d}.png" for i in range(2)]
    for own, base, first in (
        (domain.embed_texts(texts), domain.embed_base_texts(texts), below.embed_texts(texts)),
        (domain.embed_images(images), domain.embed_base_images(images), below.embed_images(images)),
    ):
        np.testing.assert_allclose(base, first, atol=1e-5)
        assert np.abs(own - base).max() > 1e-4
    # Below, the pictures are those of the base; its words are another language's.
    np.testing.assert_array_equal(below.embed_base_images(images), below.embed_images(images))
    assert {"embed_base_texts", "embed_images"} <= below.offers


def test_a_chain_may_stand_on_a_finished_run(chain, recipe, cached):
    language = chain / "seed_0" / "language"
    domain = {**recipe["base"], "base": str(language)}
    found = resolve_recipe({**recipe, "base": domain, "variants": {}})
    assert (found.links, found.base) == (("domain",), str(language))
    runs = study.plan(found, chain)
    assert [run.stage.name for run in runs] == ["domain", "prompts"]
    below = runs[0].base
    assert below is not None
    assert below.adapter == language / "adapter"
    whole = resolve_recipe(recipe)
    assert [part_of(whole, stage) for stage in whole.stages] == [
        "base.base.base",
        "base.base",
        "base",
        "variants.factorised",
        "",
    ]


def refused(recipe, message, **changes):
    with pytest.raises(MmjaxError, match=message):
        resolve_recipe({**recipe, **changes})


def test_links_that_do_not_fit_are_refused(recipe):
    domain = recipe["base"]
    language, base = domain["base"], domain["base"]["base"]
    refused(
        recipe,
        r"config\.base\.base\.task is 'prompts'",
        base={**domain, "base": {**recipe, "base": base}},
    )
    lonely = {**domain, "base": {**language, "base": None}}
    refused(recipe, r"config\.base\.base\.base is empty; the language task needs", base=lonely)
    others = {k: v for k, v in recipe["encoders"].items() if k != "foreign"}
    refused(recipe, r"config\.base\.encoders is \[.*expected those of the stage", encoders=others)
    plain = {k: v for k, v in recipe["pairs"].items() if k != "domain"}
    refused(recipe, r"config\.fewshot\.domain is True; expected False", pairs=plain)
    bad = {**domain, "base": {**language, "adapter": {"width": 0}}}
    refused(recipe, r"config\.base\.base\.adapter\.width is 0", base=bad)


@pytest.fixture(scope="module")
def shop(tmp_path_factory, write_folder):
    """What `chain_clip` asks of a user: CLIP, a RoBERTa, parallel text, pictures with classes."""
    folder = tmp_path_factory.mktemp("shop")
    write_folder(folder / "clip", "clip_tiny")
    write_clip_tokenizer(folder / "clip" / "tokenizer.json")
    write_folder(folder / "roberta", "bert_tiny")
    pairs = [{"source": text(i, 20), "target": text(i, 0)} for i in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    rows = []
    for i in range(48):
        (folder / f"{i}.png").write_bytes(png(i))
        label = {"en": f"w{14 + i % 2}", "zh": f"w{34 + i % 2}"}
        rows.append({"image": f"{i}.png", "en": text(i, 0), "zh": text(i, 20), "label": label})
    (folder / "products.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


@pytest.mark.slow
def test_the_chain_stands_on_checkpoints_of_clip(shop, monkeypatch, on_one_device):
    """The documented recipe, tiny, on one device as a user's CPU is."""
    config: Any = chain_clip.get_config("tiny")
    # One reference each: what is set here holds for every link.
    config.pairs.source = str(shop / "products.jsonl")
    config.encoders.text.source = str(shop / "clip")
    config.encoders.foreign.source = str(shop / "roberta")
    config.encoders.foreign.max_length = 12
    config.base.base.parallel.sources = (str(shop / "pairs.jsonl"),)
    recipe = as_dict(config)
    resolved = resolve_recipe(recipe)
    assert resolved.links == ("base", "language", "domain")
    assert {s.encoders["image"].source for s in resolved.stages} == {str(shop / "clip")}
    monkeypatch.setenv("MMJAX_CACHE", str(shop / "cache"))
    on_one_device(monkeypatch)
    study.run(resolved, recipe, shop / "run", "test")
    results = Results.load(shop / "run" / "results.json")
    links = [name for name in results.systems if name.startswith(LINK)]
    assert links == [f"{LINK}{name}" for name in LINKS]
    assert {"items, zh", "items, en", LEARNT} == set(results.systems[links[2]])
    assert read_card(shop / "run/seed_0/prompts/adapter")["classes"] == ["w34", "w35"]
    assert {"factorised_2", "linear_probe_2", "adapted"} <= set(results.systems)
