"""Using a run: load_adapter from every place, search, export, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import mmjax
from mmjax import predict, study
from mmjax.errors import MmjaxError
from mmjax.specs.recipe import resolve_recipe

TEXTS = ["w24 w34", "w30 w35", "w29 w37"]


@pytest.fixture(scope="module")
def exported(finished, toy, tmp_path_factory):
    """The run exported as safetensors."""
    folder = tmp_path_factory.mktemp("export")
    predict.export(study.plan(resolve_recipe(toy.config), finished), folder)
    return folder


@pytest.fixture(scope="module")
def adapted(finished):
    """The adapter of the run folder."""
    return mmjax.load_adapter(finished, kind=mmjax.Adapted)


def test_run_stage_and_export_embed_the_same(finished, exported, adapted, toy):
    pictures = [toy.folder / f"{i:02d}.png" for i in range(3)]
    texts, images = adapted.embed_texts(TEXTS), adapted.embed_images(pictures)
    assert texts.shape == images.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-5)
    stage = finished / "seed_0" / "language"
    for place in (stage, stage / "adapter", exported, exported / "seed_0" / "language"):
        other = mmjax.load_adapter(place, kind=mmjax.Adapted)
        assert other.card["stage"]["name"] == "language"
        assert_array_equal(other.embed_texts(TEXTS), texts)
        assert_array_equal(other.embed_images(pictures), images)


def test_every_stage_is_exported_whole(exported, toy, finished):
    for stage in ("base", "linear", "language"):
        folder = exported / "seed_0" / stage
        card = json.loads((folder / "adapter_card.json").read_text())
        assert card["trainable"] == toy.card(finished, stage)["trainable"]
        assert (folder / "adapter.safetensors").is_file()
        assert (folder / "base" / "adapter.safetensors").is_file() == (stage != "base")
    assert list(exported.rglob("*.tmp")) == []


def test_search_ranks_by_cosine(adapted, toy):
    gallery = adapted.embed_images([toy.folder / f"{i:02d}.png" for i in range(12)])
    found = adapted.search(TEXTS, gallery, k=4)
    scores = adapted.embed_texts(TEXTS) @ gallery.T
    for row, hits in zip(scores, found, strict=True):
        assert [i for i, _ in hits] == np.argsort(-row, kind="stable")[:4].tolist()
        assert [score for _, score in hits] == sorted(row, reverse=True)[:4]
    assert adapted.search(TEXTS[:1], [toy.folder / "03.png"])[0][0][0] == 0


def test_one_item_instead_of_a_list_is_refused(adapted):
    with pytest.raises(MmjaxError, match="expected a list of items"):
        adapted.embed_texts("w24")
    with pytest.raises(MmjaxError, match="expected at least one item"):
        adapted.embed_texts([])
    with pytest.raises(MmjaxError, match="expected a list of pictures"):
        adapted.embed_images("a.png")


def test_another_encoder_is_refused_unless_accepted(exported, tmp_path, write_folder):
    folder = shutil.copytree(exported / "seed_0" / "language", tmp_path / "adapter")
    words = np.zeros((50, 32), np.float32)
    tensors = {"embeddings.word_embeddings.weight": words}
    other = write_folder(tmp_path / "other", "bert_tiny", tensors=tensors)
    path = folder / "adapter_card.json"
    card = json.loads(path.read_text())
    card["stage"]["encoders"]["foreign"]["source"] = str(other)
    path.write_text(json.dumps(card))
    with pytest.raises(MmjaxError, match=r"another foreign encoder.*allow_other_encoder=True"):
        mmjax.load_adapter(folder, kind=mmjax.Adapted)
    assert mmjax.load_adapter(folder, allow_other_encoder=True, kind=mmjax.Adapted).embed_texts(
        TEXTS
    ).shape == (3, 8)


def test_a_base_that_was_exchanged_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported / "seed_0" / "language", tmp_path / "adapter")
    path = folder / "adapter_card.json"
    card = json.loads(path.read_text())
    card["base"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(card))
    with pytest.raises(MmjaxError, match=r"base at .* is not the one"):
        mmjax.load_adapter(folder, kind=mmjax.Adapted)


def test_damaged_and_missing_adapters(exported, tmp_path):
    folder = shutil.copytree(exported / "seed_0" / "base", tmp_path / "adapter")
    weights = folder / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x01\x02\x03\x04")
    with pytest.raises(MmjaxError, match="is not the one its card names"):
        mmjax.load_adapter(folder, kind=mmjax.Adapted)
    weights.write_bytes(b"torn")
    with pytest.raises(MmjaxError, match="is damaged"):
        mmjax.load_adapter(folder, kind=mmjax.Adapted)
    with pytest.raises(MmjaxError, match="no adapter at"):
        mmjax.load_adapter(tmp_path / "nothing", kind=mmjax.Adapted)


def test_evaluate_again_gives_the_same_figures(finished, toy, tmp_path, cached):
    folder = shutil.copytree(finished, tmp_path / "run")
    before = json.loads((folder / "results.json").read_text())["systems"]
    (folder / "results.json").unlink()
    study.evaluate(resolve_recipe(toy.config), toy.config, folder, "test")
    assert json.loads((folder / "results.json").read_text())["systems"] == before


def test_evaluate_before_training_is_refused(toy, tmp_path):
    with pytest.raises(MmjaxError, match=r"holds no run \(config.json is missing\)"):
        study.evaluate(resolve_recipe(toy.config), toy.config, tmp_path, "test")
    assert list(tmp_path.iterdir()) == []
    study.claim(tmp_path, toy.config, resolve_recipe(toy.config))
    with pytest.raises(MmjaxError, match="is not finished; train it first"):
        study.evaluate(resolve_recipe(toy.config), toy.config, tmp_path, "test")
