"""Names that become paths, at the door."""

from pathlib import Path

import pytest

from configs import language_emoji
from mmjax.assets.cache import cache_dir
from mmjax.checks.names import check_different, check_folder, check_name
from mmjax.errors import MmjaxError
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import resolve_recipe

BAD = ["", ".", "..", "../../evil", "/evil", "a/b", "a\\b", "C:evil", "a\nb", "a\0b", ".hidden"]
BAD += ["-flag", " a", "a ", "a.", "~root", "a*", "a?b", "a[1]b", "x" * 121, "字" * 41, 3, None]


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_part_of_a_path(name):
    with pytest.raises(MmjaxError, match=r"^config.name is .*; expected a name of at most 120"):
        check_name("config.name", name)


@pytest.mark.parametrize("name", ["a", "german", "ours_100", "v1.5-b", "日本語", "a b", "_x", "7b"])
def test_usual_names(name):
    assert check_name("config.name", name) == name


@pytest.mark.parametrize("name", ["../../evil", "back\\slash", "a[1]"])
def test_a_recipes_name_and_its_variants(name):
    config = as_dict(language_emoji.get_config("tiny"))
    with pytest.raises(MmjaxError, match=r"^config\.name is "):
        resolve_recipe(config | {"name": name})
    with pytest.raises(MmjaxError, match=r"name of a variant in config\.variants is "):
        resolve_recipe(config | {"variants": {name: {}}})


@pytest.mark.parametrize("name", ["adapted", "floor", "Base"])
def test_a_variant_named_as_a_system_would_take_its_place(name):
    config = as_dict(language_emoji.get_config("tiny"))
    with pytest.raises(MmjaxError, match=r"config\.variants is .* expected a name that no system"):
        resolve_recipe(config | {"variants": {name: {}}})


def test_names_that_some_systems_take_for_one():
    with pytest.raises(MmjaxError, match="differ from each other"):
        check_different("config.variants", ["Linear", "linear"])


@pytest.mark.parametrize("source", ["cn_clip:", "muge:a/..", "cn_clip:data/a\\b"])
def test_a_benchmarks_name(source):
    config = as_dict(language_emoji.get_config("tiny"))
    with pytest.raises(MmjaxError, match=r"the name that config\.benchmarks takes from"):
        resolve_recipe(config | {"benchmarks": {"retrieval": (source,)}})


@pytest.mark.parametrize("name", ["a\\b", "a[1]b", "what?", "gs:"])
def test_run_folders_whose_checkpoints_could_not_be_read_again(name, tmp_path):
    with pytest.raises(MmjaxError, match=r"^--workdir is .*choose another folder"):
        check_folder("--workdir", tmp_path / name)
    assert check_folder("--workdir", tmp_path / "ä b#1") == tmp_path / "ä b#1"


@pytest.mark.parametrize("path", ["gs://bucket/runs/a", "s3://bucket", "gs:/bucket/a"])
def test_a_bucket_is_no_folder_of_this_machine(path, monkeypatch):
    with pytest.raises(MmjaxError, match=r"^--workdir is .*mount the bucket"):
        check_folder("--workdir", Path(path))
    monkeypatch.setenv("MMJAX_CACHE", path)
    with pytest.raises(MmjaxError, match=r"^MMJAX_CACHE is .*mount the bucket"):
        cache_dir()
