"""A whole projection recipe on the toy: folds, stages, probes, report, loading, resume."""

import json
import shutil

import numpy as np
import pytest

import mmjax
from mmjax import predict, study
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.evals import probe
from mmjax.report.results import Results
from mmjax.sharding import make_mesh
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import definition_of


@pytest.fixture(scope="module")
def recipe(toy):
    """One of five folds, the two classes of the toy; one projector for both encoders."""
    config = toy.change({})
    for name in ("parallel", "adapter", "variants", "base"):
        del config[name]
    shared = {"steps": 6, "eval_every": 3, "save_every": 2, "select": "none"}
    return config | {
        "name": "toy_projection",
        "task": "projection",
        "seeds": (0,),
        "evals": ("probe",),
        "encoders": toy.config["base"]["encoders"],
        "pairs": {"source": config["pairs"]["source"], "folds": 5, "val_fraction": 0.2},
        "projection": {"loss": "supcon", "mode": "single", "hidden": 8, "out_dim": 4},
        "loss": {"kind": "contrastive"},
        "train": config["train"] | shared,
        "variants": {"paper": {"projection": {"loss": "pairwise_bce", "mode": "per_modality"}}},
    }


@pytest.fixture(scope="module")
def projection(toy, recipe, tmp_path_factory):
    """The finished run; nobody writes into it."""
    workdir = tmp_path_factory.mktemp("projection") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(toy.cache))
        patch.setattr(probe, "classifiers", few(probe.classifiers))
        study.run(resolve_recipe(recipe), recipe, workdir, "test")
    return workdir


def few(classifiers):
    """The quick ones alone."""
    return lambda seed: {k: v for k, v in classifiers(seed).items() if k in ("CART", "LR", "kNN")}


def test_every_method_is_measured_in_every_fold(projection, recipe, toy, cached):
    results = Results.load(projection / "results.json")
    assert list(results.systems)[:4] == ["raw", "PCA", "LDA", "projection"]
    alone = [results.labels[name] for name in results.systems if name.startswith("= ")]
    assert alone == [
        "raw, standardised",
        "raw, unit length",
        "PCA(4), standardised first",
        "PCA(4), unit length first",
        "LDA, shrinkage 0.1",
        "LDA, shrinkage 0.5",
        "projection paper: pairwise_bce, per_modality, hidden 8, to 4",
        "projection projection: supcon, single, hidden 8, to 4",
    ]
    for metrics in results.systems.values():
        assert set(metrics) == {f"{c} {a}" for c in ("CART", "LR", "kNN") for a in probe.AVERAGES}
        assert all(len(v) == 1 and 0 <= min(v) <= max(v) <= 1 for v in metrics.values())
    stored = {k: v for k, v in results.counts.items() if k.startswith("bytes an item: ")}
    sizes = {"train": [24], "val": [8], "test": [8], "classes": [2]}
    assert results.counts == sizes | stored
    assert [name.removeprefix("bytes an item: ") for name in stored] == alone
    assert list(stored.values())[-2:] == [[4 * 8], [4 * 4]]  # two projectors of four, and one
    first, macro, against, by_itself, cost = definition_of("projection").tables(results)
    assert [label for label, _ in cost.rows if label.startswith("classifiers on")] == [
        f"classifiers on {method}" for method in ("raw", "PCA", "LDA", "projection")
    ]
    assert first.columns == ("CART", "LR", "kNN", "mean")
    rows = {label: cells for label, cells in first.rows}
    raw, mine = rows["raw"], rows["projection (pairwise_bce or supcon)"]
    assert raw[0] == tuple(results.systems["raw"]["CART weighted"])
    assert dict(against.rows)["projection (pairwise_bce or supcon)"][1] == pytest.approx(
        [a - b for a, b in zip(mine[1], raw[1], strict=True)]
    )
    assert dict(macro.rows)["PCA"][2] == tuple(results.systems["PCA"]["kNN macro"])
    assert len(by_itself.rows) == 8
    classes = results.classes
    assert classes is not None
    assert "the classifier that is best on the inner split" in classes.system
    assert (classes.names, [sum(n) for n in classes.asked]) == (["w18", "w19"], [8])
    assert sum(sum(found.values()) for found in classes.said.values()) == 8
    # The seeds hold out different folds, and both stages of a seed the same.
    library = Library(make_mesh(), ("zh", "en"))
    zero, one = (library.split(resolve_recipe(recipe).main.pairs, seed)["test"] for seed in (0, 1))
    assert not set(zero) & set(one)


def test_the_report_says_where_the_projection_wins(projection):
    for page in ("report.html", "report.md"):
        text = (projection / page).read_text(encoding="utf-8")
        assert "Does the projection beat tuned raw features?" in text
        assert "Each seed holds out another of 5 folds" in text
        assert "val/knn" in text
        assert "on the training side" in text  # class by class
    assert "joined/hidden/kernel" in (projection / "seed_0/projection/params.txt").read_text()


def test_loaded_it_projects_pictures_and_texts(projection, recipe, toy, tmp_path, cached):
    pictures, texts = [toy.folder / "00.png", toy.folder / "05.png"], ["w4 w14", "w5 w15"]
    adapted = mmjax.load_adapter(projection, seed=0, kind=mmjax.Adapted)
    found = adapted.embed_joined(pictures, texts)
    assert found.shape == (2, 4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    with pytest.raises(MmjaxError, match=r"no embed_texts; it has \['embed_joined'\]"):
        adapted.embed_texts(texts)
    with pytest.raises(MmjaxError, match="2 images and 1 texts; expected as many of each"):
        adapted.embed_joined(pictures, texts[:1])
    predict.export(study.plan(resolve_recipe(recipe), projection), tmp_path)
    other = mmjax.load_adapter(tmp_path / "seed_0" / "projection", kind=mmjax.Adapted)
    np.testing.assert_array_equal(other.embed_joined(pictures, texts), found)
    paper = mmjax.load_adapter(projection / "seed_0" / "paper", kind=mmjax.Adapted)
    for found in (paper.embed_texts(texts), paper.embed_images(pictures)):
        assert found.shape == (2, 4)
        assert abs(np.linalg.norm(found, axis=1) - 1).min() > 1e-3  # as trained: of any length
    with pytest.raises(MmjaxError, match="no embed_joined; it has"):
        paper.embed_joined(pictures, texts)


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_bits(projection, recipe, toy, tmp_path, cached):
    workdir = shutil.copytree(projection, tmp_path / "run")
    (workdir / "results.json").unlink()
    folder = workdir / "seed_0" / "projection"
    (folder / "done.json").unlink()
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "classifiers", few(probe.classifiers))
        study.run(resolve_recipe(recipe), recipe, workdir, "test")
    before, after = (
        json.loads((d / "seed_0/projection/adapter/adapter_card.json").read_text())["trainable"]
        for d in (projection, workdir)
    )
    assert before == after
    assert (
        Results.load(workdir / "results.json").systems
        == Results.load(projection / "results.json").systems
    )


def test_data_without_classes_is_refused(recipe, toy, tmp_path, cached):
    rows = toy.rows()
    for row in rows:
        row["image"] = str(toy.folder / row["image"])
        row["label"] = "same"

    def refuse(message):
        path = toy.write_jsonl(tmp_path / "pairs.jsonl", rows)
        config = recipe | {"pairs": recipe["pairs"] | {"source": str(path)}}
        workdir = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        with pytest.raises(MmjaxError, match=message):
            study.run(resolve_recipe(config), config, workdir, "test")

    refuse("have one label alone")
    del rows[3]["label"]
    refuse(r"1 items of pairs have no label \(item03")
