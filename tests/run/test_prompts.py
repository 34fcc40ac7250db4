"""A whole few-shot recipe on the toy: every kind of method, report, use, resume, refusals."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

import mmjax
from mmjax import predict, study
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.report.results import Results
from mmjax.sharding import make_mesh
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import definition_of
from mmjax.tasks.run import stage_of

FACTORISED = {"method": "factorised"}
VARIANTS = {
    "linear_probe_2": {"prompts": {"method": "linear_probe"}},
    "tip_adapter": {"prompts": {"method": "tip_adapter"}, "train": {"steps": 0}},
    "factorised": {"prompts": FACTORISED},
    "without_i": {"prompts": {"instance": 0}},
}


@pytest.fixture(scope="module")
def recipe(toy):
    """The toy's base, its four shapes as classes; a fifth has fewer pictures than are wanted."""
    rows = [{**row, "label": f"w{14 + i % 4}"} for i, row in enumerate(toy.rows())]
    for row in rows[-2:]:
        row["label"] = "w13"
    pairs = toy.write_jsonl(toy.folder / "shapes.jsonl", rows)
    config = toy.change({"base.train.steps": 4, "base.train.save_every": 4})
    pairs = {**config["pairs"], "source": str(pairs), "stratify": True, "val_fraction": 0.2}
    config["base"] |= {"pairs": pairs}
    for name in ("parallel", "adapter", "variants"):
        del config[name]
    train = {"steps": 4, "batch_size": 8, "save_every": 2, "select": "none", "log_every": 2}
    return config | {
        "name": "toy_prompts",
        "task": "prompts",
        "languages": ("en", "en"),
        "evals": ("fewshot",),
        "encoders": config["base"]["encoders"],
        "pairs": pairs,
        "prompts": {"template": "w9 {}", "templates": ("{}", "w9 {}"), "general": 2, "chunk": 40},
        "fewshot": {"shots": 2, "min_families": 3},
        "loss": {"kind": "contrastive"},
        "train": train,
        "variants": VARIANTS,
    }


@pytest.fixture(scope="module")
def run(toy, recipe, tmp_path_factory):
    """The finished run; nobody writes into it."""
    workdir = tmp_path_factory.mktemp("prompts") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(toy.cache))
        study.run(resolve_recipe(recipe), recipe, workdir, "test")
    return workdir


def test_every_system_is_measured_and_stands_in_the_tables(run):
    results = Results.load(run / "results.json")
    assert set(results.systems) == {
        *("base", "linear_probe_2", "tip_adapter", "factorised", "without_i", "adapted")
    }
    assert results.protocol["adapted"] == {"shots": 2, "half": "all"}
    assert results.counts["classes"] == [4]
    first, parts = definition_of("prompts").tables(results)
    assert first.columns == ("2 shots",)
    rows = dict(first.rows)
    assert rows["zero-shot"][0] == tuple(results.systems["base"]["accuracy"])
    assert rows["structured prompts, exact"][0] == tuple(results.systems["adapted"]["accuracy"])
    assert {"linear probe", "Tip-Adapter, training-free"} <= set(rows)
    assert "structured prompts, exact, without I" in dict(parts.rows)
    page = (run / "report.html").read_text(encoding="utf-8")
    for text in ("accuracy by shots", "shots to the linear probe", "is above"):
        assert text in page


def test_every_class_is_accounted_for(run, recipe, toy, caplog, cached):
    results = Results.load(run / "results.json")
    classes = results.classes
    assert classes is not None
    assert classes.system == "structured prompts, exact"
    assert classes.names == ["w14", "w15", "w16", "w17"]
    assert classes.items == [10, 10, 9, 9]
    (right,), (asked,) = classes.right, classes.asked
    assert sum(asked) == results.counts["asked"][0]
    assert sum(right) / sum(asked) == pytest.approx(results.systems["adapted"]["accuracy"][0])
    for name, hit, total in zip(classes.names, right, asked, strict=True):
        assert classes.said[name].get(name, 0) == hit
        assert sum(classes.said[name].values()) == total
    assert {e[1] == e[2] for e in classes.examples} <= {True, False}
    assert len(classes.examples) == min(sum(right), 10) + min(sum(asked) - sum(right), 10)
    # The one that is left out is named: in the report, and before the training.
    told = "Left out (fewer families than config.fewshot.min_families=3): w13 (2)."
    for page in ("report.html", "report.md"):
        text = (run / page).read_text(encoding="utf-8").replace("\\", "")
        for part in (told, "on the training side", "said to be"):
            assert part in text, part
    assert "What each class is taken for" in (run / "report.html").read_text(encoding="utf-8")
    study.tell_left_out(resolve_recipe(recipe), Library(make_mesh(), ("en", "en")))
    assert told in caplog.text


def test_training_free_means_that_the_keys_are_the_shots(run):
    metrics = run / "seed_0" / "tip_adapter" / "metrics.jsonl"
    assert not metrics.is_file() or metrics.read_text() == ""
    card = json.loads((run / "seed_0/tip_adapter/adapter/adapter_card.json").read_text())
    assert card["trainable"]["count"] == 4 * 2 * 8  # classes, shots, width of the space
    assert card["classes"] == ["w14", "w15", "w16", "w17"]


def test_loaded_and_exported_it_classifies_the_same(run, recipe, toy, tmp_path, cached):
    images = [toy.folder / f"{i:02d}.png" for i in range(4)]
    adapted = mmjax.load_adapter(run, kind=mmjax.Classifier)
    found = adapted.classify(images, k=4)
    assert [sum(p for _, p in row) for row in found] == pytest.approx([1] * 4, rel=1e-5)
    assert {name for name, _ in found[0]} == {"w14", "w15", "w16", "w17"}
    config = {**recipe, "variants": {}}
    predict.export(study.plan(resolve_recipe(config), run), tmp_path)
    assert (
        mmjax.load_adapter(tmp_path / "seed_0" / "prompts", kind=mmjax.Classifier).classify(
            images, k=4
        )
        == found
    )
    with pytest.raises(MmjaxError, match="knows no classes"):
        mmjax.load_adapter(run / "seed_0" / "base", kind=mmjax.Adapted).classify(images)


def test_other_classes_are_taught_by_names_and_pictures(run, toy, cached):
    images = [toy.folder / f"{i:02d}.png" for i in range(8)]
    adapted = mmjax.load_adapter(run, kind=mmjax.Classifier)
    features = sorted((toy.cache / "features").iterdir())
    # Its own names, taught, are its own classifier: General and Instance tokens read any name.
    names = list(adapted.classes)
    again = adapted.taught(names)
    for mine, theirs in (
        (again.classify(images, 4), adapted.classify(images, 4)),
        (again.classify_base(images, 4), adapted.classify_base(images, 4)),
    ):
        for one, other in zip(mine, theirs, strict=True):
            assert dict(one) == pytest.approx(dict(other), abs=1e-5)
    assert adapted.classify(images, 4) != adapted.classify_base(images, 4)
    # Pictures move it towards themselves; as many as there are of a class, and none of the last.
    shots = [[images[0], images[4]], [images[2]], []]
    by_name, by_shots = (
        adapted.taught(["w20", "w21", "w22"]),
        adapted.taught(["w20", "w21", "w22"], shots),
    )
    for picture, name in ((images[0], "w20"), (images[4], "w20"), (images[2], "w21")):
        (before,), (after,) = by_name.classify([picture], 3), by_shots.classify([picture], 3)
        assert dict(after)[name] > dict(before)[name]
        assert after[0][0] == name
    assert by_shots.classify_base(images, 3) == by_name.classify_base(images, 3)
    # What a visitor types is kept nowhere.
    assert sorted((toy.cache / "features").iterdir()) == features


def test_what_learned_its_classes_alone_teaches_from_the_names(run, toy, cached):
    images = [toy.folder / f"{i:02d}.png" for i in range(4)]
    tip = mmjax.load_adapter(run / "seed_0" / "tip_adapter", kind=mmjax.Classifier)
    taught = tip.taught(["w20", "w21"])
    assert taught.classify(images, 2) == taught.classify_base(images, 2)
    for classes, shots, message in (
        (["w20"], (), "two classes or more"),
        (["w20", "w20"], (), "each once"),
        (["w20", "w21"], [[images[0]]], "1 lists of shots for 2 classes"),
        (["w20", "w21"], [[images[0]], ["nothing.png"]], "nothing.png"),
    ):
        with pytest.raises(MmjaxError, match=message):
            tip.taught(classes, shots)


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_bits(run, recipe, toy, tmp_path, cached):
    workdir = shutil.copytree(run, tmp_path / "run")
    (workdir / "results.json").unlink()
    folder = workdir / "seed_0" / "prompts"
    (folder / "done.json").unlink()
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "checkpoints" / "4", ignore_errors=True)
    study.run(resolve_recipe(recipe), recipe, workdir, "test")
    assert toy.card(workdir, "prompts")["trainable"] == toy.card(run, "prompts")["trainable"]


@pytest.mark.slow
def test_new_classes_are_asked_for_by_name(run, recipe, toy, tmp_path, cached):
    new = {"prompts": FACTORISED, "fewshot": {"half": "base"}}
    config = {
        **recipe,
        "fewshot": {"shots": 4, "min_families": 3},
        "variants": {"factorised_new": new},
    }
    workdir = tmp_path / "run"
    shutil.copytree(run / "seed_0" / "base", workdir / "seed_0" / "base")
    study.run(resolve_recipe(config), config, workdir, "test")
    values = Results.load(workdir / "results.json").systems["factorised_new"]
    for name in ("base_accuracy", "new_accuracy", "harmonic_accuracy"):
        assert 0 <= values[name][0] <= 1


def test_data_that_cannot_be_dealt_is_refused_before_anything_is_trained(
    recipe, toy, tmp_path, cached
):
    def refuse(message, **changes):
        config = {**recipe, "variants": {}, **changes}
        workdir = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        with pytest.raises(MmjaxError, match=message):
            study.run(resolve_recipe(config), config, workdir, "test")
        assert not list(workdir.glob("seed_*"))

    refuse("4 classes have fewer than 9 training pictures", fewshot={"shots": 9, "min_families": 3})
    refuse("needs at least 2 classes", fewshot={"shots": 1, "min_families": 99})


def test_what_a_recipe_gets_wrong_about_prompts(recipe, toy, tmp_path, cached, run):
    from mmjax.tasks.prompts.data import assemble_prompts, context_of, know
    from mmjax.tasks.prompts.joint import joint_of
    from mmjax.tasks.run import Run

    library = Library(make_mesh(), ("en", "en"))
    folder = run / "seed_0" / "base" / "adapter"

    def stage(**prompts):
        settings = {**recipe["prompts"], **prompts}
        return resolve_recipe({**recipe, "variants": {}, "prompts": settings}).main

    def put(**prompts):
        settings = {**recipe["prompts"], **prompts}
        made = resolve_recipe(
            {**recipe, "variants": {}, "languages": ("en", "en"), "prompts": settings}
        )
        base = Run(made, made.main, 0, run / "seed_0" / "base")
        return assemble_prompts(Run(made, made.main, 0, run / "none", base), library)

    def check(stage):
        encoder = library.encoder(stage.encoders["text"])
        width = encoder.params["word_embeddings"]["embedding"].shape[-1]
        context_of(stage, encoder, width, 0)

    with pytest.raises(MmjaxError, match=r"gives 1 vectors of width 32, .* set .*general=1"):
        put(context="w4")
    with pytest.raises(MmjaxError, match="gives 1 vectors"):  # known before the base is trained
        check(stage(context="w4"))
    with pytest.raises(MmjaxError, match="no CoOp checkpoint at"):
        put(context="no/model.pth.tar-50")
    save_file({"ctx": np.ones((2, 32), np.float32)}, tmp_path / "coop.safetensors")
    imported = {"context": str(tmp_path / "coop.safetensors"), "method": "coop"}
    with pytest.raises(
        MmjaxError, match=r"prompts\.ending is ''; .*coop.safetensors was trained in"
    ):
        check(stage(**imported, ending=""))
    check(stage(**imported))
    with pytest.raises(MmjaxError, match=r"config\.base is empty, and config.encoders share no"):
        joint_of(stage(), None, library)
    with pytest.raises(MmjaxError, match=r"of class 'w14' has \d+ tokens"):
        put(general=14)
    data = put(context="w4 w5").frozen
    table = library.encoder(stage().encoders["text"]).params["word_embeddings"]["embedding"]
    np.testing.assert_array_equal(data["known"]["context"], np.asarray(table)[[4, 5]])
    # A trained adapter has its own: the file that it began with may be gone.
    later = know(stage(**imported), joint_of(stage(), folder, library), ["w4"], library, 0)
    assert "context" not in later


def test_prompts_of_older_cards_end_as_they_were_trained(run):
    card = json.loads((run / "seed_0/prompts/adapter/adapter_card.json").read_text())
    assert stage_of(card).prompts.ending == "."
    del card["stage"]["prompts"]["ending"]
    assert stage_of(card).prompts.ending == ""
