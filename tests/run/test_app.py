"""The page's logic with real adapters of tiny encoders: who gets which, and what it answers."""

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest

import mmjax
from mmjax import study
from mmjax.app.classify import Classify, Lesson
from mmjax.app.command import main
from mmjax.app.kinds import page_of
from mmjax.app.limits import Limits
from mmjax.app.search import Search
from mmjax.app.talk import PictureTalk
from mmjax.errors import MmjaxError
from mmjax.specs.recipe import resolve_recipe
from tests.app.chromium import browsing, faults_in_both, needs
from tests.app.conftest import Visitor, start, stop, url_of
from tests.run.test_instruct import write_side

LIMITS = Limits()


@pytest.fixture(autouse=True)
def _one_device(monkeypatch, on_one_device):
    on_one_device(monkeypatch)


def trained(recipe: Any, folder: Path) -> Path:
    study.run(resolve_recipe(recipe), recipe, folder, "test")
    return folder


def test_a_language_adapter_searches_beside_the_frozen_model(finished, toy, cached):
    adapted = mmjax.load_adapter(finished, kind=mmjax.Adapted)
    page = page_of(adapted, LIMITS)
    assert isinstance(page, Search)
    assert "frozen model" in page.about
    page.warm()
    paths = [toy.folder / f"{i:02d}.png" for i in range(12)]
    gallery = page.of_uploads([str(path) for path in paths])
    found = page.find("w24 w34", gallery, k=12)
    (wanted,) = adapted.search(["w24 w34"], paths, k=12)
    assert [hit.name for hit in found.adapted] == [paths[i].name for i, _ in wanted]
    assert [hit.cosine for hit in found.adapted] == pytest.approx([c for _, c in wanted], abs=1e-5)
    # The frozen model reads the same words through its own text tower.
    assert found.frozen is not None
    base = adapted.embed_base_texts(["w24 w34"]) @ adapted.embed_images(paths).T
    assert found.frozen[0].cosine == pytest.approx(float(base.max()), abs=1e-5)
    # A base that was not trained on one has nothing beside it.
    alone = page_of(mmjax.load_adapter(finished / "seed_0" / "base"), LIMITS)
    assert isinstance(alone, Search)
    assert alone.find("w4", alone.of_uploads([str(paths[0])])).frozen is None


@pytest.mark.slow
def test_a_few_shot_adapter_classifies_and_is_taught(toy, cached, tmp_path):
    rows = [{**row, "label": f"w{14 + i % 4}"} for i, row in enumerate(toy.rows())]
    config = toy.change({"base.train.steps": 2, "base.train.save_every": 2})
    pairs = {**config["pairs"], "stratify": True}
    pairs["source"] = str(toy.write_jsonl(toy.folder / "app_shapes.jsonl", rows))
    config["base"] |= {"pairs": pairs}
    for name in ("parallel", "adapter", "variants"):
        del config[name]
    recipe = config | {
        "name": "toy_prompts",
        "task": "prompts",
        "languages": ("en", "en"),
        "evals": ("fewshot",),
        "encoders": config["base"]["encoders"],
        "pairs": pairs,
        "prompts": {"method": "task_residual", "template": "w9 {}"},
        "fewshot": {"shots": 2},
        "loss": {"kind": "contrastive"},
        "train": {"steps": 2, "batch_size": 8, "save_every": 2, "select": "none"},
    }
    adapted = mmjax.load_adapter(trained(recipe, tmp_path / "run"), kind=mmjax.Classifier)
    page = page_of(adapted, LIMITS)
    assert isinstance(page, Classify)
    page.warm()
    upload = str(toy.folder / "05.png")
    answer = page.ask(upload)
    assert answer.adapted == adapted.classify([upload], 5)[0]
    assert {name for name, _ in answer.frozen} == {"w14", "w15", "w16", "w17"}
    lesson = page.add(page.add(Lesson(), "w20", [upload]), "w21", [str(toy.folder / "30.png")])
    taught = page.learn(lesson)
    # Two steps made a base that tells little apart: each picture moves towards its own class.
    for own, picture in (("w20", upload), ("w21", str(toy.folder / "30.png"))):
        named = dict(adapted.taught(["w20", "w21"]).classify([picture], 2)[0])
        assert dict(page.ask(picture, taught).adapted)[own] > named[own]


@pytest.mark.slow
def test_an_instruct_adapter_talks(write_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    for role, name in (("language", "llama_tiny"), ("image", "dinov2_tiny")):
        write_folder(tmp_path / role, name)
    for side in ("train", "test"):
        write_side(tmp_path / "vqa", side, 4)
    recipe = {
        "name": "toy_instruct",
        "task": "instruct",
        "seeds": (0,),
        "evals": ("vqa",),
        "encoders": {role: {"source": str(tmp_path / role)} for role in ("image", "language")},
        "questions": {"source": f"easy_vqa:{tmp_path / 'vqa'}", "val_pictures": 1},
        "instruct": {"rank": 4, "taps": 2, "hidden": 8},
        "train": {"steps": 1, "batch_size": 4, "select": "none", "cache_features": False},
    }
    adapted = mmjax.load_adapter(trained(recipe, tmp_path / "run"), kind=mmjax.Answering)
    page = page_of(adapted, LIMITS, max_new_tokens=6)
    assert isinstance(page, PictureTalk)
    assert page.sees
    page.warm()
    picture = (tmp_path / "vqa/test/images/0.png").read_bytes()
    said = list(page.ask("w5 w6", picture, []))
    (wanted,) = adapted.answer(["w5 w6"], [picture], 6)
    assert said[-1] == wanted.text.strip()
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(said))
    with pytest.raises(MmjaxError, match="Type a question"):
        next(page.ask("", None, []))


def test_what_does_not_fit_is_refused_by_the_command(finished, toy, cached, capsys, monkeypatch):
    monkeypatch.setattr("mmjax.processes.starting.set_up", lambda *_: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for arguments, said in (
        (("--adapter", str(toy.folder / "nothing")), "nothing"),
        (("--adapter", str(finished), "--images", str(toy.folder / "no")), "is no folder"),
        (("--adapter", str(finished), "--images", str(toy.folder), "--most-images", "3"), "raise"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error


@pytest.mark.browser
@needs("axe_playwright_python", "playwright")
def test_a_finished_runs_report_keeps_nobody_out(finished):
    with browsing() as browser:
        assert faults_in_both(browser, (finished / "report.html").as_uri()) == []


@pytest.mark.app
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra app")
def test_the_command_serves_and_ends(finished, toy, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes((toy.folder / f"{i:02d}.png").read_bytes())
    command = ["-m", "mmjax.app", "--adapter", str(finished), "--images", str(folder)]
    errors = tmp_path / "err"
    child = start([*command, "--port", "0", "--example", "w24"], errors, **toy.environment())
    visitor = Visitor(url_of(child, errors))
    shown, alert = visitor.answer("search", "w24 w34")
    assert (shown.count("<img"), alert) == (6, "")
    status, _, page = visitor.request("GET", "/")
    assert status == 200
    for private in (toy.folder, finished, folder):
        assert str(private) not in page.decode() + shown
    assert stop(child) == 0
    assert "stopped" in errors.read_text()
