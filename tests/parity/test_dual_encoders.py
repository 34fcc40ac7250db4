"""CLIP, Chinese-CLIP, AltCLIP and towers that stand alone, beside Hugging Face's torch classes."""

import json
from typing import Any

import numpy as np
import pytest

from mmjax.encoders import load_encoder
from tests.parity.small import (
    PIXELS,
    TEXT,
    TOLERANCE,
    VISION,
    differences,
    padded_ids,
    randomize,
    save,
    torch_outputs,
)

pytestmark = pytest.mark.parity


def clip(eos: int = 49, act: str = "quick_gelu", eps: float = 1e-5, kind: str = "CLIPModel") -> Any:
    """A tiny random CLIP or one of its towers."""
    import transformers

    text = TEXT | {"eos_token_id": eos, "hidden_act": act, "layer_norm_eps": eps}
    vision = VISION | {"hidden_act": act, "layer_norm_eps": eps}
    if kind == "CLIPModel":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    elif "Text" in kind:
        config = transformers.CLIPTextConfig(**text, projection_dim=24)
    else:
        config = transformers.CLIPVisionConfig(**vision, projection_dim=24)
    return randomize(getattr(transformers, kind)(config))


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos", [2, 49], ids=["legacy", "first"])
def test_clip(eos, act, tmp_path, write_tokenizer):
    model = clip(eos, act)
    save(model, tmp_path, write_tokenizer)
    # Legacy models pool at the largest id, wherever their config says that the end is.
    ids, mask = padded_ids(49, pad=49 if eos == 49 else 0)
    inputs = {"input_ids": ids, "attention_mask": mask}
    text = load_encoder(tmp_path, tower="text")
    hidden, pooled = torch_outputs(model, "get_text_features", **inputs)
    assert max(differences(text, hidden, pooled, inputs)) <= TOLERANCE
    image = load_encoder(tmp_path, tower="image")
    hidden, pooled = torch_outputs(model, "get_image_features", pixel_values=PIXELS)
    assert max(differences(image, hidden, pooled, {"pixel_values": PIXELS})) <= TOLERANCE
    assert text.embed_dim == image.embed_dim == 24
    assert text.logit_scale == image.logit_scale == pytest.approx(2.6592)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_clip_reads_its_epsilon(eps, tmp_path, write_tokenizer):
    model = clip(eps=eps)
    save(model, tmp_path, write_tokenizer)
    ids, mask = padded_ids(49, 0)
    inputs = {"input_ids": ids, "attention_mask": mask}
    expected = torch_outputs(model, "get_text_features", **inputs)
    text = load_encoder(tmp_path, tower="text")
    assert max(differences(text, *expected, inputs)) <= TOLERANCE
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["layer_norm_eps"] = 1e-6
    (tmp_path / "config.json").write_text(json.dumps(config))
    other = load_encoder(tmp_path, tower="text")
    assert max(differences(other, *expected, inputs)) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("kind", "prefixed"),
    [
        ("CLIPTextModel", False),
        ("CLIPTextModel", True),  # as transformers 4 writes it
        ("CLIPTextModelWithProjection", False),
        ("CLIPVisionModel", False),
        ("CLIPVisionModel", True),
        ("CLIPVisionModelWithProjection", False),
    ],
)
def test_clip_towers_that_stand_alone(kind, prefixed, tmp_path, write_tokenizer):
    from safetensors.numpy import load_file, save_file

    model = clip(kind=kind)
    save(model, tmp_path, write_tokenizer)
    prefix = "text_model." if "Text" in kind else "vision_model."
    path = tmp_path / "model.safetensors"
    if prefixed:
        save_file({f"{prefix}{k}": v for k, v in load_file(path).items()}, path)
    ids, mask = padded_ids(49, 0)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if "Vision" in kind:
        inputs = {"pixel_values": PIXELS}
    expected = torch_outputs(model, None, **inputs)
    encoder = load_encoder(tmp_path)
    assert max(differences(encoder, *expected, inputs)) <= TOLERANCE
    assert encoder.logit_scale is None


def test_clip_at_another_picture_size_only_when_asked(tmp_path, write_tokenizer):
    import torch

    from mmjax import MmjaxError

    model = clip()
    save(model, tmp_path, write_tokenizer, side=32)
    with pytest.raises(MmjaxError, match="cut to 32 pixels, but the model was trained for 20"):
        load_encoder(tmp_path, tower="image")
    image = load_encoder(tmp_path, tower="image", image_size=32)
    pixels = np.random.default_rng(2).standard_normal((2, 32, 32, 3), np.float32)
    nchw = torch.tensor(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        output = model.get_image_features(nchw, interpolate_pos_encoding=True)
    hidden, pooled = output.last_hidden_state.numpy(), output.pooler_output.numpy()
    assert max(differences(image, hidden, pooled, {"pixel_values": pixels})) <= TOLERANCE


@pytest.mark.parametrize("kind", ["ChineseCLIP", "AltCLIP"])
def test_other_dual_encoders(kind, tmp_path, write_tokenizer):
    import transformers

    text = TEXT | ({"project_dim": 40, "type_vocab_size": 1} if kind == "AltCLIP" else {})
    make = getattr(transformers, f"{kind}Config")
    config = make(text_config=text, vision_config=VISION, projection_dim=24)
    model = randomize(getattr(transformers, f"{kind}Model")(config))
    save(model, tmp_path, write_tokenizer)
    pad = 1 if kind == "AltCLIP" else 0
    ids, mask = padded_ids(49, pad)
    inputs = {"input_ids": ids, "attention_mask": mask}
    encoder = load_encoder(tmp_path, tower="text")
    expected = torch_outputs(model, "get_text_features", **inputs)
    assert max(differences(encoder, *expected, inputs)) <= TOLERANCE
    encoder = load_encoder(tmp_path, tower="image")
    expected = torch_outputs(model, "get_image_features", pixel_values=PIXELS)
    assert max(differences(encoder, *expected, {"pixel_values": PIXELS})) <= TOLERANCE


def test_embeddings_of_texts_and_pictures_are_those_of_get_features(tmp_path, write_tokenizer):
    model = clip()
    save(model, tmp_path, write_tokenizer)
    text, image = (load_encoder(tmp_path, tower=tower) for tower in ("text", "image"))
    texts = ["w5 w6", "w7 w8 w9 w10", "w49"]
    batch = text.preprocess(texts)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    _, pooled = torch_outputs(model, "get_text_features", **inputs)
    np.testing.assert_allclose(text.embed_texts(texts), pooled, atol=TOLERANCE)
    pictures = list(np.random.default_rng(0).integers(0, 255, (3, 30, 25, 3), np.uint8))
    pixels = image.preprocess(pictures)
    _, pooled = torch_outputs(model, "get_image_features", pixel_values=pixels)
    np.testing.assert_allclose(image.embed_images(pictures), pooled, atol=TOLERANCE)
