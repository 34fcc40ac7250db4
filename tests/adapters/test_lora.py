"""LoRA against its equation in NumPy, and against what torch PEFT says (a committed golden)."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import load_file, save_file

from mmjax import trees
from mmjax.adapters.lora import Lora
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.errors import MmjaxError
from mmjax.interop.peft import export_lora, import_lora

ALL = ("query", "key", "value", "out", "gate", "up", "down")


def test_one_map_is_its_equation(language, trained):
    lora = Lora(rank=3, alpha=6.0, targets=("gate",))
    adapters = trained(lora.init(jax.random.key(0), language.params["layers"]))
    one = jax.tree.map(lambda leaf: leaf[1], adapters)
    x = np.random.default_rng(0).standard_normal((2, 4, 32)).astype(np.float32)
    kernel = np.asarray(language.params["layers"]["gate"]["kernel"][1], np.float64)
    a, b = (np.asarray(one["gate"][n]["kernel"], np.float64) for n in ("down", "up"))
    ours = lora(one, "gate", jnp.asarray(x), jnp.asarray(x @ kernel, jnp.float32), None)
    assert_allclose(ours, x @ (kernel + 2.0 * a @ b), atol=2e-5)
    assert lora(one, "up", jnp.asarray(x), ours, None) is ours


def test_every_target_is_adapted_in_every_layer(language):
    """No map is skipped silently: 7 maps x 2 layers, 2 factors each."""
    adapters = Lora(rank=2, targets=ALL).init(jax.random.key(0), language.params["layers"])
    shapes = {path: leaf.shape for path, leaf in trees.named_leaves(adapters)}
    assert len(shapes) == 14
    assert sum(shape[0] for shape in shapes.values()) == 28
    assert shapes["key/up/kernel"] == (2, 2, 16)  # two key heads for four query heads
    with pytest.raises(MmjaxError, match="choose from"):
        Lora(targets=("query", "q_proj")).init(jax.random.key(0), language.params["layers"])


@pytest.fixture
def theirs(golden, tmp_path) -> Path:
    """The golden's adapter as PEFT saved it."""
    arrays = golden("lora_tiny")
    (tmp_path / "adapter_config.json").write_text(str(arrays["adapter_config"]))
    tensors = {k.removeprefix("lora:"): v for k, v in arrays.items() if k.startswith("lora:")}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    return tmp_path


@pytest.fixture
def model(folder) -> LanguageModel:
    loaded = load_encoder(folder("llama_tiny"))
    assert isinstance(loaded, LanguageModel)
    return loaded


def test_an_adapter_of_peft_says_what_peft_says(theirs, model, golden):
    arrays = golden("lora_tiny")
    lora, adapters = import_lora(theirs, model.params["layers"])
    assert lora == Lora(rank=4, alpha=12.0, dropout=0.05, targets=ALL)
    inputs = {n: arrays[n] for n in ("input_ids", "attention_mask")}
    ours = np.asarray(jax.jit(model.with_hook(lora).logits)(model.params, inputs, adapters))
    real = arrays["attention_mask"] == 1
    assert np.abs(ours - arrays["logits"])[real].max() < 1e-5
    plain = np.asarray(jax.jit(model.logits)(model.params, inputs))
    assert np.abs(ours - plain)[real].max() > 1e-2


def test_exported_again_it_is_the_same_files(theirs, model, tmp_path):
    lora, adapters = import_lora(theirs, model.params["layers"])
    export_lora(tmp_path / "again", lora, adapters, "llama_tiny")
    first, second = (
        load_file(f / "adapter_model.safetensors") for f in (theirs, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name])
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(
        f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")
    )
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 12.0, "LORA")


def test_targets_by_pattern_are_the_files_of_targets_by_name(theirs, model, tmp_path):
    lora, adapters = import_lora(theirs, model.params["layers"])
    patterns = dataclasses.replace(lora, targets=("query|key", ".*"))
    export_lora(tmp_path / "again", patterns, adapters, "llama_tiny")
    again, found = import_lora(tmp_path / "again", model.params["layers"])
    assert again == lora
    chex.assert_trees_all_equal(found, adapters)


def change_config(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


KEY = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (
            lambda f: (f / "adapter_config.json").write_text("{"),
            "adapter_config.json is not readable JSON",
        ),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "lacks 'peft_type'"),
        (lambda f: change_config(f, peft_type="IA3"), "peft_type 'IA3'"),
        (lambda f: change_config(f, use_rslora=True), "use_rslora True is not supported"),
        (lambda f: change_config(f, bias="all"), "bias 'all' is not supported"),
        (lambda f: change_config(f, rank_pattern={"q_proj": 2}), "rank_pattern"),
        (lambda f: change_config(f, target_modules="all-linear"), "target_modules 'all-linear'"),
        (lambda f: change_config(f, r=5), r"with rank 5 needs \[5, 32\]"),
        (lambda f: change_config(f, target_modules=["q_proj"]), "belong to no target"),
        (lambda f: change_tensors(f, lambda t: t.pop(KEY)), f"has no {KEY}"),
        (
            lambda f: change_tensors(f, lambda t: t.update({KEY.replace("1", "2"): t[KEY]})),
            "belong to no target",
        ),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "safetensors is missing"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 9), "damaged"),
    ],
)
def test_adapters_that_are_refused(damage, message, theirs, model):
    damage(theirs)
    with pytest.raises(MmjaxError, match=message):
        import_lora(theirs, model.params["layers"])
