"""LaVIN's own checkpoints: read without running them, put into models, and written back."""

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from safetensors.numpy import load_file

from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.encoders import load_encoder
from mmjax.errors import MmjaxError
from mmjax.interop import lavin
from mmjax.tasks.instruct.lavin import load_lavin as load_lavin
from tests.adapters import numpy_mma as reference

ROUTED = RepAdapter(rank=4, temperature=2.0, scale=0.7)
PARTS = Multimodal(ROUTED, dataclasses.replace(ROUTED, routing="per_image"), taps=2, hidden=6)
OPTIONS = {"rank": 4, "taps": 2, "hidden": 6, "scale": 0.7, "temperature": 2.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory, write_folder):
    place = tmp_path_factory.mktemp("models")
    language = write_folder(place / "llama", "llama_tiny", config=reference.PLAIN_ROPE)
    vision = write_folder(place / "clip", "clip_tiny")
    return load_encoder(language), load_encoder(vision, tower="image")


@pytest.fixture(scope="module")
def trainable(models):
    language, vision = models
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(PARTS.init, jax.random.key(0), language.params, vision.params)
    return jax.tree.map(
        lambda x: (0.3 * random.standard_normal(x.shape)).astype(np.float32), shapes
    )


@pytest.fixture(scope="module", params=["attention", "vision", "both"])
def blocks(request, models) -> Any:
    """A checkpoint's tree with adapters before the feed-forward parts of some towers."""
    language, vision = models
    block = {"attention": (False, False), "vision": (False, True), "both": (True, True)}
    hooks = [
        dataclasses.replace(ROUTED, routing=routing, feed_forward=one)
        for routing, one in zip(("first_token", "per_image"), block[request.param], strict=True)
    ]
    parts = dataclasses.replace(PARTS, language=hooks[0], vision=hooks[1])
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(parts.init, jax.random.key(0), language.params, vision.params)
    return jax.tree.map(
        lambda x: (0.3 * random.standard_normal(x.shape)).astype(np.float32), shapes
    )


def text(word: str) -> bytes:
    return b"X" + len(word).to_bytes(4, "little") + word.encode()


def number(n: int) -> bytes:
    return b"J" + n.to_bytes(4, "little", signed=True)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def pth(tensors: dict[str, np.ndarray], beside: bytes = b"N") -> bytes:
    """What torch.save makes of {"model": tensors, "args": beside}, written by hand."""
    pickled, storages = b"\x80\x02}(" + text("model") + b"}(", {}
    for i, (name, x) in enumerate(tensors.items()):
        storages[f"a/data/{i}"] = np.ascontiguousarray(x).tobytes()
        strides = tuple(s // x.itemsize for s in np.ascontiguousarray(x).strides)
        pickled += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage")
        pickled += b"ctorch\nFloatStorage\n" + text(str(i)) + text("cpu") + number(x.size) + b"tQ"
        pickled += number(0) + numbers(x.shape) + numbers(strides) + b"\x89"
        pickled += b"ccollections\nOrderedDict\n)RtR"
    entries = {"a/data.pkl": pickled + b"u" + text("args") + beside + b"u.", **storages}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def written(trainable: Any, tmp_path: Path) -> bytes:
    """As data-parallel training leaves it, with code where its arguments were."""
    code = b"cposix\nsystem\n(" + text(f"touch {tmp_path / 'ran'}") + b"tR"
    tensors = {f"module.{name}": x for name, x in lavin.to_original(trainable).items()}
    return pth(tensors, code)


@pytest.fixture
def checkpoint(trainable, tmp_path) -> Path:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(written(trainable, tmp_path))
    return path


def original_log_probs(models, trainable, words, pixels):
    """The last position's log-probabilities by the reference: modality token, picture and all."""
    language, vision = models
    params, tree = (reference.float64(x) for x in (language.params, trainable))
    taps = reference.clip_class_tokens(
        reference.float64(vision.params), vision.config, tree["vision"], pixels, 2.0, False, 0.7
    )
    picture = reference.project(tree["projection"], taps)[0]
    first = tree["modality"]["embedding"][1]
    table = params["embed_tokens"]["embedding"]
    row = reference.sequence(table, first, picture, words[0], *words[1:])
    hidden, _ = reference.llama(params, language.config, tree["language"], row[None], 2.0, 0.7)
    scores = (hidden @ params["lm_head"]["kernel"])[0, -1]
    return scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()


def test_a_checkpoint_answers_as_the_original_would(models, blocks, tmp_path):
    """With `router_block` and `block` too, which the names of its tensors tell."""
    language, vision = models
    trainable, checkpoint = blocks, tmp_path / "checkpoint.pth"
    checkpoint.write_bytes(written(blocks, tmp_path))
    answering = load_lavin(checkpoint, language, vision, **OPTIONS)
    assert not (tmp_path / "ran").exists()
    assert answering.card["temperature"] == 2.0
    noise = np.random.default_rng(1).integers(0, 256, (30, 44, 3), np.uint8)
    # Squashed to the model's square, and normalised with ImageNet's numbers.
    small = np.asarray(Image.fromarray(noise).resize((20, 20), Image.Resampling.BICUBIC))
    pixels = (small / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])

    def ids(text: str) -> list[int]:
        return language.preprocess.tokenizer.encode(text, add_special_tokens=False).ids

    prompt = ids("Instruction: w5 w6\nResponse:")
    expected = original_log_probs(models, trainable, (1, ids("Image: "), prompt), pixels[None])
    words = [[f"w{i}" for i in range(4, 50)]]
    (found,) = answering.score(["w5 w6"], words, [noise])
    assert_allclose([one.log_prob for one in found], expected[4:], atol=2e-5)


def test_a_block_goes_there_and_back(blocks, tmp_path):
    lavin.save(tmp_path / "adapter.safetensors", blocks)
    back = lavin.from_original(lavin.read_lavin(tmp_path / "adapter.safetensors"), blocks)
    chex.assert_trees_all_equal(back, blocks)


def test_files_there_and_back(checkpoint, trainable, tmp_path):
    path = tmp_path / "adapter.safetensors"
    lavin.save(path, trainable)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, checkpoint.name]
    expected = {name: np.asarray(x) for name, x in lavin.to_original(trainable).items()}
    for found in (lavin.read_lavin(checkpoint), lavin.read_lavin(path), load_file(path)):
        assert found.keys() == expected.keys()
        for name, x in expected.items():
            assert_array_equal(found[name], x)
    with pytest.raises(MmjaxError, match="cannot write"):
        lavin.save(tmp_path / "lacks" / "adapter.safetensors", trainable)
    with pytest.raises(MmjaxError, match="routed adapters in both towers"):
        lavin.save(path, {name: x for name, x in trainable.items() if name != "vision"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": None}, "the temperature of .*checkpoint.pth is missing: .*10.0"),
        ({"scale": None}, "the scale of .* is missing"),
        ({"rank": 8}, r"conv_A.* has shape \[4.* need \[8"),
        ({"hidden": 7}, r"adapter_proj.* has shape \[6.* need \[7"),
        ({"taps": 3}, "3 taps of a vision transformer of 2 layers"),
    ],
)
def test_settings_that_do_not_fit(changes, message, checkpoint, models):
    with pytest.raises(MmjaxError, match=message):
        load_lavin(checkpoint, *models, **OPTIONS | changes)


def less(tensors):
    return {name: x for name, x in tensors.items() if not name.startswith("layers.1.")}


def more(tensors):
    return tensors | {n.replace("layers.1", "layers.2"): x for n, x in tensors.items()}


def narrower(tensors):
    return tensors | {"adapter_modality_embedding.weight": np.zeros((2, 24), np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (less, "lacks 8 of 37 tensors, such as layers.1.*fewer layers"),
        (more, "has 8 tensors that these models have no place for, such as layers.2"),
        (narrower, r"embedding.weight has shape \[2, 24\], .* need \[2, 32\]"),
    ],
)
def test_checkpoints_of_other_models(change, message, models, trainable, tmp_path):
    tensors = {name: np.asarray(x) for name, x in lavin.to_original(trainable).items()}
    path = tmp_path / "other.pth"
    path.write_bytes(pth(change(tensors)))
    with pytest.raises(MmjaxError, match=message):
        load_lavin(path, *models, **OPTIONS)


def test_files_and_models_that_are_none(checkpoint, models, tmp_path):
    language, _ = models
    with pytest.raises(MmjaxError, match="no LaVIN checkpoint at"):
        lavin.read_lavin(tmp_path / "lacks.pth")
    with pytest.raises(MmjaxError, match="joins a LLaMA and a vision transformer"):
        load_lavin(checkpoint, language, language, **OPTIONS)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-30])
    with pytest.raises(MmjaxError, match=r"damaged|neither a zip"):
        lavin.read_lavin(checkpoint)
    checkpoint.write_bytes(pth({}, text("no tensor")))
    with pytest.raises(MmjaxError, match="holds no tensor"):
        lavin.read_lavin(checkpoint)
