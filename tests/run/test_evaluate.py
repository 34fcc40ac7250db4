"""Measuring what is finished: its own recipe, its own results, and other questions beside them."""

import json
import shutil
import subprocess
import sys

import pytest

from mmjax import study
from mmjax.errors import MmjaxError
from mmjax.runs import run_folder
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import resolve_recipe


@pytest.fixture
def german(finished, tmp_path, monkeypatch, toy):
    """A finished run on its own pictures; the recipe's file knows others."""
    monkeypatch.setenv("MMJAX_CACHE", str(toy.cache))
    return shutil.copytree(finished, tmp_path / "german")


@pytest.fixture
def other(toy, tmp_path):
    """The recipe as its file has it, without the flags that the run was trained with."""
    rows = [{**row, "zh": row["en"], "en": row["zh"]} for row in toy.rows()]
    for row in rows:
        row["image"] = str(toy.folder / row["image"])
    source = str(toy.write_jsonl(tmp_path / "others.jsonl", rows))
    return toy.change({"pairs.source": source, "base.pairs.source": source})


def kept(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_another_recipe_is_refused_and_the_results_stay(german, other):
    before = kept(german)
    with pytest.raises(MmjaxError) as info:
        study.evaluate(resolve_recipe(other), other, german, "test")
    assert "holds a run of another recipe (base.pairs.source: " in str(info.value)
    assert "leave --config out, for the folder keeps its own recipe" in str(info.value)
    assert kept(german) == before


def test_the_folder_alone_is_enough(german, toy):
    """One command: no recipe is named, other evals are; the run's own results stay."""
    before = kept(german)
    command = [sys.executable, "-m", "mmjax.main", "--mode", "evaluate", "--workdir", str(german)]
    done = subprocess.run(
        [*command, "--config.evals=('retrieval',)"],
        cwd=toy.folder,
        env=toy.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "other evals or benchmarks than the run's own" in done.stdout
    (place,) = (german / "evaluations").iterdir()
    assert str(place) in done.stdout
    assert {p: c for p, c in kept(german).items() if place not in p.parents} == before
    found, own = (
        json.loads((f / "results.json").read_text())["systems"]["adapted"] for f in (place, german)
    )
    assert "zeroshot_acc" in own
    assert "zeroshot_acc" not in found
    assert found["t2i_mR"] == pytest.approx(own["t2i_mR"])
    assert json.loads((place / "asked.json").read_text())["evals"] == ["retrieval"]


def test_measured_again_is_told(german, toy, capsys):
    study.evaluate(resolve_recipe(toy.config), toy.config, german, "test")
    assert f"measured again: the results and the report in {german} are replaced" in (
        capsys.readouterr().out
    )
    assert not (german / "evaluations").exists()


@pytest.mark.parametrize("form", ["nested", "flat"])
def test_a_folder_gives_the_recipe_that_it_was_trained_with(form, german, toy):
    path = german / "config.json"
    if form == "flat":  # as earlier versions wrote it
        path.write_text(json.dumps(run_folder.flat(json.loads(path.read_text()))))
    found = as_dict(run_folder.get_config(str(german)))
    assert resolve_recipe(found) == resolve_recipe(toy.config)
    assert run_folder.evaluation_folder(german, found) == german
    more = found | {"evals": ("retrieval",)}
    place = run_folder.evaluation_folder(german, more)
    assert place.parent == german / "evaluations"
    assert place == run_folder.evaluation_folder(german, more)


def test_export_takes_the_folders_recipe_too(german, toy, other):
    command = [sys.executable, "-m", "mmjax.main", "--mode", "export", "--workdir", str(german)]
    done = subprocess.run(
        command, cwd=toy.folder, env=toy.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    weights = german / "export" / "seed_0" / "language" / "adapter.safetensors"
    assert weights.stat().st_mode & 0o777 == 0o644
    done = toy.run(german, "--mode", "export", "--config.pairs.source=others.jsonl")
    assert done.returncode == 1
    assert "holds a run of another recipe" in done.stderr.splitlines()[-1]


def test_a_folder_of_no_run(tmp_path, toy):
    command = [sys.executable, "-m", "mmjax.main", "--mode", "evaluate", "--workdir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=toy.folder, env=toy.environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"{tmp_path} holds no run (config.json is missing)" in line
    assert not list(tmp_path.iterdir())
