"""A stranger's package: a task, an adapter, a corpus, an evaluator, an encoder family."""

import contextlib
import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from mmjax.adapters.catalog import make_adapter
from mmjax.adapters.lora import Lora
from mmjax.data.corpora.catalog import load_corpus
from mmjax.encoders import load_encoder
from mmjax.encoders.language_model import LanguageModel
from mmjax.errors import MmjaxError
from mmjax.plugins import reference_in
from mmjax.report.results import Results
from mmjax.specs.data import PairsSpec
from mmjax.specs.instruct import InstructSpec
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import definition_of
from mmjax.tasks.instruct.build import adapter_of

PACKAGE = Path(__file__).parents[1] / "plugin"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What an installer leaves of the package's entry points."""
    folder = tmp_path_factory.mktemp("site")
    with contextlib.suppress(PackageNotFoundError):
        distribution("mmjax-toy")
        return folder  # installed indeed, as in CI beside the wheel
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    about = folder / "mmjax_toy-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mmjax-toy\nVersion: 0.1.0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the package's encoder family."""
    folder = tmp_path_factory.mktemp("patches")
    kernel = np.random.default_rng(0).normal(size=(48, 8 * 8 * 3)).astype(np.float32) / 14
    bias = np.zeros(48, np.float32)
    save_file({"dense.weight": kernel, "dense.bias": bias}, folder / "model.safetensors")
    sizes = {"hidden_size": 48, "patch_size": 8, "image_size": 32}
    (folder / "config.json").write_text(json.dumps({"model_type": "toy_patches", **sizes}))
    square = {"height": 32, "width": 32}
    constants = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    pictures = {"size": square, "crop_size": square, **constants}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder


def recipe(weights, **changes):
    return {
        "name": "dots",
        "task": "count",
        "evals": (),
        "encoders": {"image": {"source": str(weights), "output": "cls_mean"}},
        "pairs": {"source": "dots:96", "styles": ("drawn",)},
        "settings": {"ridge": 1e-5},
        "optim": {"lr": 0.05},
        "train": {"steps": 150, "batch_size": 32, "select": "right", "eval_every": 50},
        **changes,
    }


def test_the_command_knows_what_is_installed(toy, installed, weights, tmp_path):
    path = tmp_path / "dots.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({recipe(weights)!r})\n"
    )
    places = f"{toy.environment()['PYTHONPATH']}:{PACKAGE}:{installed}"

    def mmjax(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "mmjax.commands.cli", *arguments],
            cwd=tmp_path,
            env=toy.environment(PYTHONPATH=places),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = mmjax("train", str(path), "--workdir", "run")
    assert "Counting dots" in said
    right = Results.load(tmp_path / "run" / "results.json").systems["count"]["right"][0]
    assert right > 0.5  # four numbers: chance is a quarter
    assert f"right: {right:.3f}" in said
    assert f"right: {right:.3f}" in mmjax("evaluate", "run")
    listed = mmjax("list")
    assert "count" in listed
    for part in ("dots", "gate", "spread", "toy_patches"):
        assert part in listed


def test_load_adapter_returns_what_the_task_loads(toy, weights, tmp_path, cached):
    import mmjax

    places = {
        "task": "mmjax_toy.task:COUNT",
        "pairs": {"source": "mmjax_toy.corpus:read:96", "styles": ("drawn",)},
    }
    family = {"family": "mmjax_toy.encoder:PATCHES", "output": "cls_mean"}
    config = recipe(weights, encoders={"image": {"source": str(weights), **family}}, **places)
    study = mmjax.train(config, tmp_path / "run", **{"train.steps": 6})
    assert [table.title for table in study.tables] == ["Counting dots"]
    assert (tmp_path / "run" / "seed_0" / "COUNT" / "adapter" / "adapter_card.json").is_file()
    count = mmjax.load_adapter(tmp_path / "run", kind=object)
    assert callable(count)


def test_its_evaluator_and_corpus_stand_beside_a_task_of_mmjax(toy, weights, tmp_path, start):
    text = toy.config["encoders"]["text"]
    family = {"family": "mmjax_toy.encoder:PATCHES", "output": "cls_mean"}
    base = toy.config["base"]
    config = {
        **{key: base[key] for key in ("image_head", "text_head", "optim")},
        "name": "spread",
        "task": "contrastive",
        "languages": ("en", "en"),
        "encoders": {"image": {"source": str(weights), **family}, "text": text},
        "pairs": {"source": "mmjax_toy.corpus:read:40", "styles": ("drawn",)},
        "train": base["train"],
        "evals": ("retrieval", "mmjax_toy.evaluator:SPREAD"),
    }
    start(type(toy)(toy.folder, config), tmp_path / "run")
    results = Results.load(tmp_path / "run" / "results.json")
    (value,) = results.systems["adapted"]["others/SPREAD/images"]
    assert 0 < value < 2
    table = definition_of("contrastive").tables(results)[-1]
    assert table.title == "What evaluators of other packages measured"
    assert table.columns == ("SPREAD: images",)


def test_its_adapter_sits_in_a_language_model(write_folder, tmp_path):
    spec = InstructSpec(adapter="mmjax_toy.adapter:Gate", adapter_settings={"scale": 2.0})
    gate = adapter_of(spec, "language")
    assert gate is not None
    model = load_encoder(write_folder(tmp_path / "llama", "llama_tiny"))
    assert isinstance(model, LanguageModel)
    opened = {"gate": jnp.linspace(-0.2, 0.3, model.config.num_layers)}
    closed = gate.init(jax.random.key(0), model.params["layers"])
    ids = {"input_ids": np.asarray([[3, 5, 7]]), "attention_mask": np.ones((1, 3), int)}
    adapted = model.with_hook(gate)
    plain = np.asarray(model.logits(model.params, ids))

    def run(adapters):
        return np.asarray(adapted.logits(model.params, ids, adapters))

    np.testing.assert_array_equal(run(closed), plain)
    assert np.abs(run(opened) - plain).max() > 1e-3
    merged = {**model.params, "layers": gate.merge(model.params["layers"], opened)}
    np.testing.assert_allclose(model.logits(merged, ids), run(opened), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "coutn"}, "config.task is 'coutn'; expected one of"),
        ({"task": "languag"}, "did you mean 'language'?"),
        (
            {"task": "no_such_package:TASK"},
            "ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ({"task": "mmjax_toy.task:NOTHING"}, "has no attribute 'NOTHING'"),
        ({"task": "os:path"}, "expected a task"),
        ({"task": "mmjax_toy.task:Count"}, "expected a task"),
        ({"settings": {"rigde": 1}}, "config.settings.rigde is 1; expected one of the keys"),
        ({"settings": {"ridge": -1.0}}, "config.settings.ridge is -1.0; expected"),
        ({"train": {"select": "mR"}}, "config.train.select is 'mR'"),
        ({"task": "contrastive", "settings": {"ridge": 0}}, "config.settings is"),
        ({"evals": ("mmjax_toy.evaluator:SPREAD",)}, "config.evals is"),
    ],
)
def test_a_wrong_part_is_told(weights, changes, message):
    with pytest.raises(MmjaxError) as caught:
        resolve_recipe(recipe(weights, **{"task": "mmjax_toy.task:COUNT", **changes}))
    assert message in str(caught.value)


def test_a_corpus_of_another_package_may_do_without_a_place():
    assert len(load_corpus(PairsSpec("mmjax_toy.corpus:read", ("drawn",)), ("en",)).items) == 48


def test_other_wrong_parts_are_told_too(weights):
    for source in ("dost:96", "mmjax_toy.corpus:NAMES:3", "mmjax_toy.nothing:read"):
        with pytest.raises(MmjaxError, match=r"config\.pairs\.source"):
            load_corpus(PairsSpec(source), ("en",))
    with pytest.raises(MmjaxError, match=r"instruct\.adapter_settings\.width"):
        make_adapter("mmjax_toy.adapter:Gate", {"width": 3}, "instruct.adapter")
    with pytest.raises(MmjaxError, match="lacks init, merge or __call__"):
        make_adapter("mmjax_toy.task:CountSettings", {}, "instruct.adapter")
    with pytest.raises(MmjaxError, match=r"instruct\.adapter is 'ruoted'"):
        InstructSpec(adapter="ruoted")
    with pytest.raises(MmjaxError, match=r"encoders\.family"):
        load_encoder(weights, family="mmjax_toy.encoder:PatchesConfig")


def test_weights_have_no_say_in_what_is_imported(weights, tmp_path):
    for file in weights.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((weights / "config.json").read_text())
    config["model_type"] = "mmjax_toy.encoder:PATCHES"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MmjaxError, match="is not supported; known: bert"):
        load_encoder(tmp_path)


def test_a_family_without_places_takes_no_adapter(weights):
    encoder = load_encoder(weights, family="mmjax_toy.encoder:PATCHES")
    with pytest.raises(MmjaxError, match="has no places for an adapter"):
        encoder.with_hook(Lora(2))
    (row,) = encoder.embed_images([np.zeros((32, 32, 3), np.uint8)])
    assert row.shape == (48,)


def test_references():
    assert reference_in("a.b:C") == "a.b:C"
    assert reference_in("a.b:C:some folder/x") == "a.b:C"
    for text in ("food101", "a.b:C/d", "muge:/data", "a.b:", ":C", "a..b:C", "1a:C"):
        assert reference_in(text) is None
