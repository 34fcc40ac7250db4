"""Adapter files of other projects: settings and numbers that are none, maps that are not there."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.adapters.lora import Lora
from mmjax.encoders import load_encoder
from mmjax.interop import coop, lavin, peft
from mmjax.tasks.instruct.lavin import load_lavin as load_lavin
from tests.weights.test_meta_llama import shard_bytes

NAN, INF = float("nan"), float("inf")

SHAPES = {
    "query": {"kernel": np.zeros((2, 8, 8), np.float32)},
    "value": {"kernel": np.zeros((2, 8, 8), np.float32)},
}
LAYERS = {"attention": SHAPES}
LORA = Lora(rank=2, targets=("query", "value"))


@pytest.fixture
def adapter(tmp_path):
    """Returns `adapter(config={}, tensors={})`: a good PEFT folder with changes."""

    def make(config=None, tensors=None):
        params = {
            t: {"down": {"kernel": np.ones((2, 8, 2))}, "up": {"kernel": np.ones((2, 2, 8))}}
            for t in LORA.targets
        }
        params = jax.tree.map(lambda x: x.astype(np.float32), params)
        peft.export_lora(tmp_path / "peft", LORA, params, "base")
        path = tmp_path / "peft" / peft.CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
        file = tmp_path / "peft" / peft.WEIGHTS
        save_file(load_file(file) | (tensors or {}), file)
        return tmp_path / "peft"

    return make


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("r", [0, -1, 10**15, 2.0, "2", None, NAN, True]),
        ("lora_alpha", [INF, NAN, 0, -1, "16", None, 10**400, [16]]),
        ("lora_dropout", [1, NAN, -0.1, "0", None]),
        ("target_modules", ["q_proj", [], [3], [["q_proj"]], {"q_proj": 1}, None, ["q" * 10**5]]),
        ("peft_type", ["LOHA", 3, None, "L" * 10**5]),
        ("use_dora", [True, "yes"]),
    ],
)
def test_peft_configs(key, values, adapter, refused):
    for value in values:
        folder = adapter({key: value})
        refused(lambda folder=folder: peft.import_lora(folder, LAYERS), "peft")


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    "tensor",
    [
        np.ones((2, 8), np.int8),
        np.ones((2, 8), np.int64),
        np.full((2, 8), NAN, np.float32),
        np.full((2, 8), INF, np.float16),
        np.full((2, 8), 1e300),
        np.ones((2, 9), np.float32),
        np.ones((2, 8, 1), np.float32),
    ],
    ids=lambda x: f"{x.dtype} {x.shape} {x.flat[0]}",
)
def test_peft_weights(tensor, adapter, refused):
    peft.import_lora(adapter(), LAYERS)
    folder = adapter(tensors={KEY: tensor})
    refused(lambda: peft.import_lora(folder, LAYERS), "adapter_model.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_contexts_and_lavin_with_numbers_that_are_none(value, suffix, tmp_path, refused):
    path, context = tmp_path / f"model{suffix}", np.full((4, 8), value, np.float32)
    if suffix == ".pth":
        path.write_bytes(shard_bytes({"ctx": context}))
    else:
        save_file({"ctx": context}, path)
    refused(lambda: coop.load_context(path), path.name, "NaN")
    refused(lambda: lavin.read_lavin(path), path.name, "NaN")


@pytest.mark.parametrize("context", [np.ones((4, 8), np.int8), np.ones(4, np.float32)], ids=str)
def test_contexts_that_are_none(context, tmp_path, refused):
    save_file({"ctx": context}, tmp_path / "ctx.safetensors")
    refused(lambda: coop.load_context(tmp_path / "ctx.safetensors"), "ctx")


@pytest.fixture(scope="module")
def towers(tmp_path_factory, write_folder):
    place = tmp_path_factory.mktemp("towers")
    language = load_encoder(write_folder(place / "llama", "llama_tied_tiny"))
    return language, load_encoder(write_folder(place / "clip", "clip_tiny"), tower="image")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [0.0, NAN, -1.0, INF, 1e-30]),
        ("scale", [NAN, INF, -INF]),
        ("rank", [0, -1, 10**12]),
        ("taps", [0, 10**9]),
        ("hidden", [0, 10**12]),
    ],
)
def test_lavins_numbers(name, values, towers, tmp_path, refused):
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "lavin.safetensors")
    for value in values:
        options: dict[str, Any] = {"scale": 1.0, "temperature": 10.0} | {name: value}
        refused(lambda o=options: load_lavin(tmp_path / "lavin.safetensors", *towers, **o), name)
