"""DINOv3 and DINOv2 with registers beside Hugging Face's torch classes."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax.adapters.lora import Lora
from mmjax.encoders import load_encoder
from tests.parity.small import PIXELS, TOLERANCE, VISION, differences, randomize, torch_outputs

pytestmark = pytest.mark.parity

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov3": ("DINOv3ViT", {"num_register_tokens": 2}),
    "dinov3-gated": (
        "DINOv3ViT",
        {"use_gated_mlp": True, "hidden_act": "silu", "key_bias": True, "proj_bias": False},
    ),
    "dinov2": ("Dinov2WithRegisters", {"num_register_tokens": 3, "mlp_ratio": 2}),
}


def make(kind, folder) -> Any:
    import transformers

    name, change = KINDS[kind]
    model = getattr(transformers, f"{name}Model")(
        getattr(transformers, f"{name}Config")(**VISION | change)
    )
    randomize(model)
    model.embeddings.register_tokens.data *= 20  # which is no embedding by its name
    for parameter, tensor in model.named_parameters():
        if "lambda1" in parameter:
            tensor.data = tensor.data * 0 + 0.7
    model.save_pretrained(folder)
    constants = {"size": {"height": 20, "width": 20}, "image_mean": [0.5] * 3}
    constants |= {"image_std": [0.25] * 3, "image_processor_type": f"{name}ImageProcessorFast"}
    constants["do_center_crop"] = False
    (folder / "preprocessor_config.json").write_text(json.dumps(constants))
    return model


@pytest.mark.parametrize(
    ("kind", "side"), [("dinov3", 28), ("dinov3-gated", 20), ("dinov2", 28), ("dinov2", 12)]
)
def test_pictures_of_any_size(kind, side, tmp_path):
    model = make(kind, tmp_path)
    encoder = load_encoder(tmp_path, image_size=side)
    pixels = np.random.default_rng(2).standard_normal((2, side, side, 3), np.float32)
    hidden, pooled = torch_outputs(model, None, pixel_values=pixels)
    registers = KINDS[kind][1].get("num_register_tokens", 0)
    hidden = np.concatenate([hidden[:, :1], hidden[:, 1 + registers :]], axis=1)
    assert max(differences(encoder, hidden, pooled, {"pixel_values": pixels})) <= TOLERANCE


def test_gradients_and_adapters(tmp_path):
    import torch

    model = make("dinov3", tmp_path)
    encoder = load_encoder(tmp_path)
    nchw = torch.tensor(PIXELS.transpose(0, 3, 1, 2), requires_grad=True)
    model(nchw).pooler_output.square().mean().backward()
    adapted = encoder.with_hook(Lora(rank=2))
    adapters = Lora(rank=2).init(jax.random.key(0), encoder.frozen_layers())

    @jax.jit
    @jax.grad
    def gradient(x, adapters):
        return jnp.square(
            adapted.apply(encoder.params, {"pixel_values": x}, adapters).pooled
        ).mean()

    assert nchw.grad is not None
    theirs = nchw.grad.numpy().transpose(0, 2, 3, 1)
    assert np.abs(theirs).max() > 1e-4
    assert np.abs(gradient(PIXELS, adapters) - theirs).max() <= TOLERANCE  # equal at step 0
    moved = jax.tree.map(lambda x: x + 0.1, adapters)
    assert np.abs(gradient(PIXELS, moved) - theirs).max() > 1e-4


def test_pictures_are_not_rounded_between(tmp_path):
    """DINOv3's processor resizes floats; torch's antialiased interpolation is its definition."""
    import torch

    make("dinov3", tmp_path)
    encoder = load_encoder(tmp_path)
    for size in ((41, 33), (7, 90), (1, 1)):
        picture = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
        x = torch.tensor(picture).permute(2, 0, 1)[None].float() / 255
        x = torch.nn.functional.interpolate(x, (20, 20), mode="bilinear", antialias=True)
        theirs = (x[0].permute(1, 2, 0).numpy() - 0.5) / 0.25
        np.testing.assert_allclose(encoder.preprocess([picture])[0], theirs, atol=2e-5)
    grey = encoder.preprocess([Image.new("L", (9, 30), 51)])
    np.testing.assert_allclose(grey, (0.2 - 0.5) / 0.25, atol=1e-6)
