"""PEFT's folders without PEFT: names in every encoder, kinds there and back, wrong files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax import optim
from mmjax.adapters.dora import DoRA
from mmjax.adapters.hooks import start
from mmjax.adapters.houlsby import Houlsby
from mmjax.adapters.ia3 import IA3
from mmjax.adapters.layer_norm import LayerNormTuning
from mmjax.adapters.lora import Lora
from mmjax.adapters.prefix_tuning import PrefixTuning
from mmjax.adapters.prompt_tuning import PromptTuning
from mmjax.adapters.rslora import RsLora
from mmjax.adapters.vera import VeRA
from mmjax.encoders import Encoder, load_encoder
from mmjax.errors import MmjaxError
from mmjax.interop.peft_folder import export_adapter, import_adapter
from mmjax.interop.peft_names import names_of

# golden, tower -> modules as their Hugging Face classes name them, newer and older.
MODULES = {
    ("bert_tiny", None): {
        "encoder.layer.1.attention.self.query": ("query", 1),
        "bert.encoder.layer.0.attention.output.dense": ("out", 0),
        "encoder.layer.0.output.dense": ("output", 0),
        "encoder.layer.0.output.LayerNorm": ("output_norm", 0),
        "embeddings.LayerNorm": ("embeddings_norm", None),
    },
    ("vit_tiny", None): {
        "layers.0.attention.q_proj": ("query", 0),
        "vit.encoder.layer.1.attention.attention.query": ("query", 1),
        "encoder.layer.1.attention.output.dense": ("out", 1),
        "encoder.layer.1.intermediate.dense": ("fc1", 1),
        "layers.1.layernorm_before": ("norm1", 1),
        "layernorm": ("norm", None),
    },
    ("dinov2_tiny", None): {
        "encoder.layer.0.attention.v_proj": ("value", 0),
        "encoder.layer.0.mlp.fc2": ("fc2", 0),
        "encoder.layer.1.norm2": ("norm2", 1),
    },
    ("clip_tiny", "text"): {
        "text_model.encoder.layers.1.self_attn.out_proj": ("out", 1),
        "text_model.final_layer_norm": ("norm", None),
        "vision_model.encoder.layers.1.self_attn.out_proj": None,
    },
    ("clip_tiny", "image"): {
        "vision_model.encoder.layers.0.mlp.fc1": ("fc1", 0),
        "vision_model.pre_layrnorm": ("pre_norm", None),
        "text_model.encoder.layers.0.mlp.fc1": None,
    },
    ("llama_tiny", None): {
        "model.layers.1.mlp.gate_proj": ("gate", 1),
        "model.layers.0.input_layernorm": ("attention_norm", 0),
        "model.norm": ("norm", None),
    },
    ("llava_tiny", "text"): {
        "model.language_model.layers.0.self_attn.q_proj": ("query", 0),
        "language_model.model.layers.0.self_attn.q_proj": ("query", 0),
        "model.vision_tower.encoder.layers.0.self_attn.q_proj": None,
    },
    ("llava_tiny", "image"): {
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj": ("query", 0),
        "model.language_model.layers.0.self_attn.q_proj": None,
    },
}
KINDS = {
    "lora": Lora(2, targets=("query", "value")),
    "rslora": RsLora(2),
    "dora": DoRA(2),
    "ia3": IA3(),
    "vera": VeRA(3),
    "norms": LayerNormTuning(),
    "prefix": PrefixTuning(2),
    "prompt": PromptTuning(2),
}
CELLS = [(kind, ("bert_tiny", None)) for kind in KINDS]
CELLS += [("lora", key) for key in list(MODULES)[1:]]
CELLS += [("ia3", ("vit_tiny", None)), ("norms", ("clip_tiny", "image"))]
CELLS += [("norms", ("llama_tiny", None)), ("prefix", ("llama_tiny", None))]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, write_folder) -> Callable[..., Encoder]:
    """Returns `loaded(golden, tower)`."""
    made: dict[Any, Encoder] = {}

    def load(golden: str, tower: str | None) -> Encoder:
        if (golden, tower) not in made:
            folder = write_folder(tmp_path_factory.mktemp(golden), golden)
            one = "text" if golden == "llava_tiny" else tower
            made[golden, tower] = load_encoder(folder, tower=one)
        return made[golden, tower]

    return load


@pytest.mark.parametrize("key", MODULES)
def test_modules_are_found_by_their_names(key, loaded):
    names = names_of(loaded(*key), key[1])
    for module, place in MODULES[key].items():
        assert names.find(module) == place, module
    for place, module in names.layer.items():
        assert names.find(names.module(place, 1)) == (place, 1), module
    with pytest.raises(MmjaxError, match=r"there is no 'layers\.0\.nowhere' in this model"):
        names.find("layers.0.nowhere")


def moved(adapters: Any) -> Any:
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x, on: np.asarray(x + on * random.normal(0, 0.1, x.shape), np.float32),
        adapters,
        optim.trained(adapters),
    )


@pytest.mark.parametrize(("kind", "key"), CELLS)
def test_there_and_back(kind, key, loaded, tmp_path):
    encoder, adapter, tower = loaded(*key), KINDS[kind], key[1]
    adapters = moved(start(adapter, jax.random.key(0), encoder, tower))
    export_adapter(tmp_path, adapter, adapters, encoder, tower, base="here")
    found = import_adapter(tmp_path, encoder, tower)
    assert type(found.adapter) is type(adapter)
    again = tmp_path / "again"
    export_adapter(again, found.adapter, found.adapters, encoder, tower, base="here")
    first, second = (load_file(f / "adapter_model.safetensors") for f in (tmp_path, again))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor, second[name], atol=1e-6, err_msg=name)
    if kind not in ("vera", "norms"):  # whose files hold more than what is trained
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), adapters, found.adapters
        )


@pytest.fixture
def folder(loaded, tmp_path) -> Path:
    """A good LoRA of a BERT."""
    encoder, adapter = loaded("bert_tiny", None), KINDS["lora"]
    adapters = moved(start(adapter, jax.random.key(0), encoder))
    export_adapter(tmp_path / "lora", adapter, adapters, encoder)
    return tmp_path / "lora"


def change(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def tensors(folder: Path, edit: Callable[[dict[str, np.ndarray]], Any]) -> None:
    path = folder / "adapter_model.safetensors"
    found = load_file(path)
    edit(found)
    save_file(found, path)


KEY = "base_model.model.encoder.layer.1.attention.self.query.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change(f, peft_type="LOHA"), "peft_type 'LOHA' is not supported; LORA, IA3"),
        (lambda f: change(f, rank_pattern={"q": 3}), "rank_pattern .* is not supported"),
        (lambda f: change(f, brand_new=True), "brand_new True is not supported"),
        (lambda f: change(f, init_lora_weights="pissa"), "has changed the frozen weights too"),
        (lambda f: change(f, r=3), r"shape \[2, 32\], this model with these settings needs \[3"),
        (lambda f: change(f, r=True), "r"),
        (lambda f: change(f, modules_to_save="head"), "modules_to_save 'head' is no list"),
        (lambda f: tensors(f, lambda t: t.pop(KEY)), "has no lora_A.weight of query in layer 1"),
        (
            lambda f: tensors(f, lambda t: t.update({KEY.replace("query", "qwery"): t[KEY]})),
            "there is no 'encoder.layer.1.attention.self.qwery'",
        ),
        (
            lambda f: tensors(f, lambda t: t.update({KEY.replace("r.1", "r.9"): t[KEY]})),
            "adapts layer 9; this model has 2 layers",
        ),
        (lambda f: tensors(f, lambda t: t.update(x=t[KEY])), "belong to no adapter"),
        (lambda f: tensors(f, lambda t: t.update({KEY: t[KEY] * np.nan})), "NaN"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "is missing"),
    ],
)
def test_folders_that_are_refused(damage, message, folder, loaded):
    damage(folder)
    with pytest.raises(MmjaxError, match=message):
        import_adapter(folder, loaded("bert_tiny", None))


def test_an_adapter_of_another_model_is_refused(folder, loaded, tmp_path):
    with pytest.raises(MmjaxError, match="in this model; its layers have"):
        import_adapter(folder, loaded("llama_tiny", None))
    encoder, adapter = loaded("bert_tiny", None), Houlsby(2)
    adapters = start(adapter, jax.random.key(0), encoder)
    with pytest.raises(MmjaxError, match="PEFT has no kind of adapter that is Houlsby"):
        export_adapter(tmp_path / "h", adapter, adapters, encoder)


def test_of_a_file_for_two_towers_one_is_read(loaded, tmp_path):
    text, image = loaded("clip_tiny", "text"), loaded("clip_tiny", "image")
    lora = KINDS["lora"]
    own = moved(start(lora, jax.random.key(0), text))
    export_adapter(tmp_path, lora, own, text, "text")
    with pytest.raises(MmjaxError, match=r"adapts nothing of .* are of the other tower"):
        import_adapter(tmp_path, image, "image")
    export_adapter(tmp_path / "i", lora, moved(start(lora, jax.random.key(1), image)), image)
    other = load_file(tmp_path / "i" / "adapter_model.safetensors")
    tensors(tmp_path, lambda t: t.update(other))
    found = import_adapter(tmp_path, text, "text")
    chex.assert_trees_all_equal(own, found.adapters)
