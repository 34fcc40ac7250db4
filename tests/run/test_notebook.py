"""`mmjax.train` from Python: the command's own engine, folder and figures."""

import shutil

import pytest
from numpy.testing import assert_array_equal

import mmjax
from mmjax.errors import MmjaxError


@pytest.fixture(scope="module")
def study(toy, finished, tmp_path_factory):
    """A copy of the finished run, opened by the same call that trains."""
    folder = tmp_path_factory.mktemp("study") / "run"
    shutil.copytree(finished, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(toy.cache))
        yield mmjax.train(toy.config, folder)


def test_a_finished_run_is_used_as_it_is(study, finished, toy):
    assert (study.workdir / "results.json").read_bytes() == (finished / "results.json").read_bytes()
    assert study.report.is_file()
    assert study.tables[0].title == "Text to image"
    assert study.results.seeds == [0]
    assert toy.card(study.workdir, "language") == toy.card(finished, "language")


def test_it_says_what_it_is(study):
    assert repr(study).startswith(f"Study({study.recipe.name!r} in ")
    assert "R@1, text to image: 0." in repr(study)
    assert "<table><tr><td>" in study._repr_html_()
    assert repr(mmjax.open_study(study.workdir)) == repr(study)


def test_its_adapter_embeds_as_the_loaded_one(study):
    adapted = study.adapter(0)
    other = mmjax.load_adapter(study.workdir, kind=mmjax.Adapted)
    assert_array_equal(adapted.embed_texts(["w24 w34"]), other.embed_texts(["w24 w34"]))
    assert repr(adapted).startswith("Adapted('language' of ")
    with pytest.raises(MmjaxError, match="loads as Adapted; expected Answering"):
        mmjax.load_adapter(study.workdir, kind=mmjax.Answering)


def test_another_recipe_is_refused_as_by_the_command(study, toy):
    with pytest.raises(MmjaxError, match=r"holds a run of another recipe .*lr"):
        mmjax.train(toy.config, study.workdir, **{"optim.lr": 0.5})
    with pytest.raises(MmjaxError, match=r"config\.optim\.rl is no setting"):
        mmjax.train(toy.config, study.workdir, **{"optim.rl": 0.5})
