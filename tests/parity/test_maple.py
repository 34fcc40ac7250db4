"""MaPLe beside Hugging Face's CLIP, whose layers are stepped by hand as the authors' code does."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import sharding
from mmjax.data.library import Library
from mmjax.specs.data import PairsSpec
from mmjax.specs.prompts import PromptSpec
from mmjax.specs.spec import EncoderSpec, Stage, TrainSpec
from mmjax.tasks.prompts.data import frozen_of, know, task_of
from mmjax.tasks.prompts.joint import joint_on
from tests.parity.small import PIXELS, TEXT, TOLERANCE, VISION, randomize, save
from tests.run.test_language_clip import write_clip_tokenizer

pytestmark = pytest.mark.parity
NAMES = ["w9", "w8 w7", "w5 w6 w4"]
LABELS = np.asarray([0, 2, 1])
CONTEXT = [20, 21, 22]  # of these two learn


@pytest.fixture(scope="module")
def model(tmp_path_factory, write_tokenizer):
    """(a CLIP whose towers are 4 and 3 layers deep, its folder)."""
    import transformers

    text = TEXT | {"eos_token_id": 49, "num_hidden_layers": 4}
    vision = VISION | {"num_hidden_layers": 3}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    config._attn_implementation = "eager"
    clip = randomize(transformers.CLIPModel(config))
    folder = save(clip, tmp_path_factory.mktemp("maple"), write_tokenizer)
    write_clip_tokenizer(folder / "tokenizer.json")
    assert json.loads((folder / "config.json").read_text())["text_config"]["eos_token_id"] == 49
    return clip, folder


def unit(x: Any) -> Any:
    return x / x.norm(dim=-1, keepdim=True)


def layered(layers: Any, x: Any, deep: Any, replace: Any, mask: Any) -> Any:
    """A tower's layers; before the second and later ones their own tokens are put in."""
    for i, layer in enumerate(layers):
        if 0 < i <= len(deep):
            x = replace(x, deep[i - 1].expand(len(x), -1, -1))
        x = layer(x, mask)
        x = x[0] if isinstance(x, tuple) else x
    return x


def text_features(clip: Any, general: Any, deep: Any) -> Any:
    """ "X X w22 {class}." of each class, whose first tokens are replaced in deeper layers."""
    import torch

    tower, rows = clip.text_model, []
    count = len(general)
    for name in NAMES:
        words = [int(word.removeprefix("w")) for word in name.split()]
        ids = torch.tensor([[48, *CONTEXT, *words, 30, 49]])
        x = tower.embeddings.token_embedding(ids)
        x = torch.cat([x[:, :1], general[None], x[:, 1 + count :]], dim=1)
        x = x + tower.embeddings.position_embedding.weight[: ids.shape[1]]
        length = ids.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)[None, None]

        def replace(x: Any, own: Any) -> Any:
            return torch.cat([x[:, :1], own, x[:, 1 + count :]], dim=1)

        x = layered(tower.encoder.layers, x, deep, replace, mask)
        rows.append(clip.text_projection(tower.final_layer_norm(x)[:, -1]))
    return unit(torch.cat(rows))


def image_features(clip: Any, pixels: Any, first: Any, deep: Any) -> Any:
    """Pictures with tokens behind their patches, before the first norm; others in deeper layers."""
    import torch

    tower, count = clip.vision_model, len(first)
    x = tower.embeddings(pixels)
    x = torch.cat([x, first.expand(len(x), -1, -1)], dim=1)
    x = tower.pre_layrnorm(x)

    def replace(x: Any, own: Any) -> Any:
        return torch.cat([x[:, : x.shape[1] - count], own], dim=1)

    x = layered(tower.encoder.layers, x, deep, replace, None)
    return unit(clip.visual_projection(tower.post_layernorm(x[:, 0])))


@pytest.mark.parametrize("depth", [1, 2, 3, 9])
def test_scores_and_gradients_are_those_of_the_authors_forward_pass(depth, model):
    import torch

    clip, folder = model
    settings = {"general": 2, "context": "w20 w21 w22", "ending": "w30", "depth": depth}
    stage = Stage(
        "prompts",
        "prompts",
        {role: EncoderSpec(str(folder), tower=role) for role in ("image", "text")},
        PairsSpec("none"),
        prompts=PromptSpec("maple", **settings),
        train=TrainSpec(batch_size=3, select="none"),
    )
    library = Library(sharding.make_mesh(devices=jax.devices()[:1]), ("en", "en"))
    joint = joint_on(stage, None, {}, None, library)
    known = know(stage, joint, NAMES, library, 0, training=True)
    frozen, task = frozen_of(stage, joint, known, library), task_of(stage, joint, library)
    batch = {
        "image": {"pixel_values": jnp.asarray(PIXELS)[:, None]},
        "label": {"label": jnp.asarray(LABELS, jnp.int32)},
    }
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch)
    # Tokens as large as words, so that each has a say.
    trainable = jax.tree.map(lambda x: 3 * x, trainable)
    gradient = jax.jit(jax.grad(task.loss, has_aux=True))
    (gradients, _), logits = (
        gradient(trainable, frozen, batch, jax.random.key(0)),
        jax.jit(task.functions()["score"])(trainable, frozen, batch["image"]),
    )

    leaves = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), trainable)
    general, maps = leaves["general"], leaves["coupling"]
    texts = [general, *leaves.get("deep", ())]
    shown = [
        tokens @ kernel + bias
        for tokens, kernel, bias in zip(texts, maps["kernel"], maps["bias"], strict=True)
    ]
    assert len(texts) == min(depth, 3)  # no deeper than the image tower
    pixels = torch.tensor(PIXELS).permute(0, 3, 1, 2)
    text = text_features(clip, general, texts[1:])
    image = image_features(clip, pixels, shown[0], shown[1:])
    scale = float(clip.logit_scale.detach().exp())
    expected = scale * image @ text.T
    torch.nn.functional.cross_entropy(expected, torch.tensor(LABELS)).backward()
    np.testing.assert_allclose(logits / scale, expected.detach() / scale, atol=TOLERANCE)
    for own, leaf in zip(jax.tree.leaves(gradients), jax.tree.leaves(leaves), strict=True):
        reference = leaf.grad.numpy()
        assert np.abs(reference).max() > 1e-5
        np.testing.assert_allclose(own, reference, atol=2e-4 * np.abs(reference).max())
