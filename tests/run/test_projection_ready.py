"""A projection of ready vectors and columns, some of which lack: no encoder, or one beside them."""

import numpy as np
import pytest

import mmjax
from mmjax import study
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.evals import probe
from mmjax.report.results import Results
from mmjax.sharding import make_mesh
from mmjax.specs.recipe import resolve_recipe
from mmjax.specs.spec import read_stage
from mmjax.tasks.catalog import definition_of
from mmjax.tasks.projection.adapted import Projected
from mmjax.tasks.projection.data import prepare_labelled


@pytest.fixture(scope="module")
def recipe(toy):
    """Vectors that tell two classes apart, one row in five without them, and two columns."""
    rng = np.random.default_rng(0)
    labels = np.asarray([f"c{i % 2}" for i in range(60)])
    note = rng.normal(size=(60, 6)).astype(np.float32)
    note[:, 0] += 3 * (np.arange(60) % 2)
    note[::5] = np.nan
    columns = rng.normal(size=(60, 2)).astype(np.float32)
    columns[3, 1] = np.nan
    path = toy.folder / "ready.npz"
    texts = np.asarray([f"w{4 + i % 10}" if i % 3 else "" for i in range(60)])
    np.savez(path, label=labels, note=note, columns=columns, en=texts)
    config = toy.change({})
    for name in ("parallel", "adapter", "variants", "base"):
        del config[name]
    shared = {"steps": 4, "eval_every": 4, "save_every": 4, "select": "none"}
    return config | {
        "name": "toy_ready",
        "task": "projection",
        "seeds": (0,),
        "evals": ("probe",),
        "encoders": {},
        "pairs": {"source": f"embeddings:{path}", "folds": 3, "val_fraction": 0.2},
        "projection": {
            "loss": "pairwise_bce",
            "out_dim": 4,
            "standardize": True,
            "features": ("note", "columns"),
            "positive": "c1",
        },
        "loss": {"kind": "contrastive"},
        "train": config["train"] | shared,
    }


@pytest.fixture(scope="module")
def run(toy, recipe, tmp_path_factory):
    """The finished run; nobody writes into it."""
    workdir = tmp_path_factory.mktemp("ready") / "run"
    quick = probe.classifiers
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(toy.cache))
        patch.setattr(probe, "classifiers", lambda seed: {"LR": quick(seed)["LR"][:2]})
        study.run(resolve_recipe(recipe), recipe, workdir, "test")
    return workdir


def test_the_positive_class_and_what_it_costs_stand_in_tables(run):
    results = Results.load(run / "results.json")
    for values in results.systems.values():
        assert set(values) == {"LR weighted", "LR macro", "LR positive"}
    tables = {table.title: table for table in definition_of("projection").tables(results)}
    assert "Positive F1 of classifiers on frozen features" in tables
    cost = dict(tables["What it costs"].rows)
    assert cost["raw, standardised"][0] == (4.0 * 8,)  # six numbers and two, in float32
    (projected,) = [cells for name, cells in cost.items() if name.startswith("projection proj")]
    assert projected[0] == (4.0 * 8,)  # two modalities of four
    assert cost["classifiers on raw"][1][0] > 0
    assert "What it costs" in (run / "report.md").read_text(encoding="utf-8")


def test_a_row_without_a_modality_takes_no_part_in_it(run, recipe, cached):
    adapted = mmjax.load_adapter(run, kind=Projected)
    note = np.zeros((3, 6), np.float32)
    note[1] = np.nan
    found = adapted.embed_features({"note": note, "columns": np.zeros((3, 2), np.float32)})
    assert found.shape == (3, 8)
    assert not found[1, :4].any()
    assert found[0, :4].any()
    assert found[1, 4:].any()
    np.testing.assert_array_equal(adapted.embed_features({"note": note})[:, 4:], 0)
    for features, message in (
        ({"x": note}, r"features hold 'x' \[3, 6\]; expected \[n, d\] of"),
        ({"note": note[:, :2]}, r"features hold 'note' \[3, 2\]"),
        ({"note": note, "columns": np.zeros((2, 2))}, "as many of each"),
        ({"columns": np.asarray([[1, np.nan]])}, "cells without a number"),
    ):
        with pytest.raises(MmjaxError, match=message):
            adapted.embed_features(features)


def test_unknown_cells_are_the_training_items_mean(recipe, toy, cached):
    resolved = resolve_recipe(recipe)
    library = Library(make_mesh(), ("zh", "en"))
    data = prepare_labelled(resolved.main, resolved, 0, library)
    columns = data.val.views["embed_columns"]
    rows = columns.table.gather(np.arange(60))["features"]
    items = library.corpus(resolved.main.pairs).items
    train = [i for i in data.items["train"] if i != 3]
    known = np.asarray([items[i].features["columns"][1] for i in train])
    assert rows[3, 1] == pytest.approx(known.mean(), abs=1e-6)
    note = data.val.views["embed_note"].table.gather(np.arange(60))
    assert note["present"].tolist() == [i % 5 > 0 for i in range(60)]
    assert np.isfinite(note["features"]).all()


def test_texts_stand_beside_them_where_there_are_some(recipe, toy, cached):
    text = {"text": {"source": str(toy.folder / "text"), "output": "pooled"}}
    resolved = resolve_recipe({**recipe, "encoders": text})
    library = Library(make_mesh(), ("zh", "en"))
    data = prepare_labelled(resolved.main, resolved, 0, library)
    assert list(data.towers) == ["text", "note", "columns"]
    there = data.val.views["embed_texts"].table.gather(np.arange(60))["present"]
    assert there.tolist() == [bool(i % 3) for i in range(60)]
    single = {**recipe["projection"], "mode": "single"}
    resolved = resolve_recipe({**recipe, "encoders": text, "projection": single})
    data = prepare_labelled(resolved.main, resolved, 0, library)
    assert list(data.val.views) == ["embed_joined"]


def test_what_the_data_does_not_bring_is_refused_before_anything_is_trained(
    recipe, tmp_path, cached
):
    def refuse(message, **projection):
        config = {**recipe, "projection": {**recipe["projection"], **projection}}
        with pytest.raises(MmjaxError, match=message):
            study.run(resolve_recipe(config), config, tmp_path / "run", "test")
        assert not (tmp_path / "run" / "seed_0").exists()

    refuse(
        r"projection\.features names 'scan'; the items of ready bring \['columns', 'note'\]",
        features=("scan",),
    )
    refuse(r"projection\.positive is 'c9'; expected one of the classes", positive="c9")
    refuse(r"projection\.features is \('image',\)", features=("image",))
    refuse(r"config\.encoders is .*; expected an encoder, or", features=())


def test_a_stage_of_an_older_card_has_no_ready_modalities(recipe):
    old = {k: v for k, v in recipe["projection"].items() if k not in ("features", "positive")}
    stage = {"name": "p", "task": "projection", "encoders": {"text": {"source": "x"}}}
    assert (
        read_stage({**stage, "projection": old, "train": {"select": "none"}}).projection.features
        == ()
    )
