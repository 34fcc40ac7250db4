"""Checkpoint folders made from the goldens, so that tests go through the public loader."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mmjax.encoders import base

GOLDENS = Path(__file__).parents[1] / "goldens"
PREPROCESSOR = {
    "size": {"shortest_edge": 20},
    "crop_size": {"height": 20, "width": 20},
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}

Golden = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Returns `golden(name)`: the arrays of tests/goldens/NAME.npz."""

    def load(name: str) -> Golden:
        with np.load(GOLDENS / f"{name}.npz") as file:
            return dict(file)

    return load


def _write_tokenizer(path: Path, vocab_size: int = 50) -> None:
    """A tokenizer of the words w3 .. wN, with BERT's frame, and padding to 128 switched on."""
    special = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}
    words = {f"w{i}": i for i in range(4, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel({**special, **words}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(path))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(module, pooling, params, inputs):
    return base.apply(module, pooling, params, inputs)


@pytest.fixture(scope="session")
def encode() -> Callable[..., base.EncoderOutput]:
    """Returns `encode(encoder, **inputs)`: `apply`, compiled once for all encoders of a size."""

    def run(encoder: base.Encoder, **inputs: np.ndarray) -> base.EncoderOutput:
        return _apply(encoder.module, encoder.pooling, encoder.params, inputs)

    return run


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, golden: Callable[[str], Golden]) -> Folder:
    """Returns `folder(name, rename=..., config=..., drop=...)`: a golden as a checkpoint folder."""

    def make(
        name: str,
        rename: Callable[[str], str] = lambda key: key,
        config: dict[str, Any] | None = None,
        tensors: dict[str, np.ndarray] | None = None,
        drop: tuple[str, ...] = (),
    ) -> Path:
        arrays = golden(name)
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        full = {**json.loads(str(arrays["config"])), **(config or {})}
        (path / "config.json").write_text(json.dumps(full))
        weights = {
            rename(key.removeprefix("tensor:")): value
            for key, value in arrays.items()
            if key.startswith("tensor:")
        }
        weights = {k: v for k, v in weights.items() if k not in drop} | (tensors or {})
        save_file(weights, path / "model.safetensors")
        _write_tokenizer(path / "tokenizer.json")
        (path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
        return path

    return make


@pytest.fixture
def write_tokenizer() -> Callable[..., None]:
    """Returns `write_tokenizer(path, vocab_size=50)`."""
    return _write_tokenizer


@pytest.fixture(scope="session")
def asset() -> Callable[[str], Path]:
    """Returns `asset(name)`: the folder of an asset; skips where it was not fetched."""
    from mmjax import assets
    from mmjax.errors import MmjaxError

    def find(name: str) -> Path:
        try:
            return assets.path(name, fetch=False)
        except MmjaxError as error:
            pytest.skip(f"run `python -m mmjax.assets fetch {name}` first: {error}")

    return find
