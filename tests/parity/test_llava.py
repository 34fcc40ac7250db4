"""LLaVAs beside live torch: variants of features and layouts, tiles, greedy texts."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import extend, logits
from mmjax.encoders.llava import LlavaConfig
from mmjax.encoders.llava_images import best_size, load_llava_images, unpad
from mmjax.generation import generate
from mmjax.generation.prompts import prepare
from mmjax.tasks.instruct.assembly import assemble_instruct
from tests.parity import small
from tests.tasks.instruct import llava_world

pytestmark = pytest.mark.parity

PINPOINTS = [[20, 40], [40, 20], [40, 40], [60, 20], [20, 60]]
# (height, width): wide, tall, near a square, one tile, tiny, far from any proportion.
SIZES = [(31, 83), (90, 41), (37, 39), (20, 20), (5, 7), (11, 97), (64, 30)]
PROMPTS = [
    ([5, 50, 6, 50, 7, 50], [0, 1, 5]),
    ([50, 8, 9], [2]),
    ([10, 11], []),
    ([50, 50], [3, 4]),
]
TEXT: dict[str, Any] = {"model_type": "llama", **small.TEXT, "vocab_size": 52}
TEXT |= {"num_key_value_heads": 2, "max_position_embeddings": 1024}
VISION: dict[str, Any] = {"model_type": "clip_vision_model", **small.VISION, "num_hidden_layers": 3}
CONSTANTS: dict[str, Any] = {
    "size": {"shortest_edge": 20},
    "crop_size": {"height": 20, "width": 20},
}
CONSTANTS |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.25, 0.3, 0.2]}


def picture(i: int) -> Image.Image:
    height, width = SIZES[i]
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8))


def torch_pixels(tiled: bool, images: list[Image.Image], **options: Any) -> Any:
    from transformers.models.llava import image_processing_pil_llava as plain
    from transformers.models.llava_next import image_processing_pil_llava_next as tiles

    if tiled:
        processor: Any = tiles.LlavaNextImageProcessorPil(
            **CONSTANTS, image_grid_pinpoints=PINPOINTS
        )
    else:
        processor = plain.LlavaImageProcessorPil(**CONSTANTS, **options)
    return processor(images, return_tensors="pt")


def made(tiled: bool, folder, write_tokenizer, **changes: Any) -> tuple[Any, LanguageModel]:
    """(torch's model, ours from the folder that it saved)."""
    import transformers

    kind = "LlavaNext" if tiled else "Llava"
    config: dict[str, Any] = {"text_config": TEXT, "vision_config": VISION}
    config |= {"image_token_index": 50, "image_seq_length": 25}
    config |= {"image_grid_pinpoints": PINPOINTS} if tiled else {}
    theirs = getattr(transformers, f"{kind}Config")(**config | changes)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(theirs)
    small.randomize(model)
    small.save(model, folder, lambda path: write_tokenizer(path, 50))
    (folder / "preprocessor_config.json").write_text(json.dumps(CONSTANTS))
    ours = load_encoder(folder)
    assert isinstance(ours, LanguageModel)
    return model, ours


@pytest.mark.parametrize(
    ("tiled", "changes"),
    [
        (False, {}),
        (False, {"vision_feature_select_strategy": "full", "multimodal_projector_bias": False}),
        (False, {"vision_feature_layer": [-1, 1, -2], "projector_hidden_act": "gelu_pytorch_tanh"}),
        (True, {}),
        (True, {"vision_feature_layer": [1, -2], "text_config": TEXT | {"rms_norm_eps": 1e-5}}),
        (True, {"tie_word_embeddings": True, "vision_feature_layer": -1}),
    ],
)
def test_random_models(tiled, changes, tmp_path, write_tokenizer):
    """With padding; three pictures in a prompt, two in a row, one, none."""
    import torch

    theirs, ours = made(tiled, tmp_path, write_tokenizer, **changes)
    assert ours.images is not None
    pictures = [[picture(i) for i in owned] for _, owned in PROMPTS]
    ids = [ids for ids, _ in PROMPTS]
    mixed = ours.images.mix(ids, pictures)
    length = max(map(len, mixed.ids))
    padded, mask = np.zeros((len(ids), length), np.int64), np.zeros((len(ids), length), np.int64)
    for row, expanded in enumerate(mixed.ids):
        padded[row, : len(expanded)], mask[row, : len(expanded)] = expanded, 1
    pixels = torch_pixels(tiled, [p for row in pictures for p in row])
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
    with torch.no_grad():
        hidden = theirs.model(**inputs, **pixels).last_hidden_state
        expected = hidden.numpy(), theirs.lm_head(hidden).numpy()
    prepared, _ = prepare(ours, ids, 1, pictures)
    assert prepared.positions is None
    found = forward(ours.module, ours.params, prepared.embeddings, prepared.mask)
    for a, b in zip(found, expected, strict=True):
        for row, n in enumerate(mask.sum(1)):
            assert np.abs(np.asarray(a)[row, -n:] - b[row, :n]).max() <= 1e-5


@functools.partial(jax.jit, static_argnums=0)
def forward(module, params, embeddings, mask):
    hidden, _ = extend(module, params, None, embeddings, mask)
    return hidden, logits(module, params, hidden)


@pytest.mark.parametrize("tiled", [False, True])
def test_greedy_texts(tiled, tmp_path, write_tokenizer):
    import torch

    theirs, ours = made(tiled, tmp_path, write_tokenizer)
    pictures = [[picture(i) for i in owned] for _, owned in PROMPTS]
    found = generate(ours, [ids for ids, _ in PROMPTS], 8, images=pictures, stop_token_ids=())
    assert ours.images is not None
    for (ids, _), images, one in zip(PROMPTS, pictures, found, strict=True):
        expanded = torch.tensor(np.array(ours.images.mix([ids], [images]).ids))
        pixels = torch_pixels(tiled, images) if images else {}
        out = theirs.generate(
            expanded, attention_mask=torch.ones_like(expanded), **pixels,
            max_new_tokens=8, min_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0,
        )[0, -8:]  # fmt: skip
        assert one.token_ids.tolist() == out.tolist()


@pytest.mark.parametrize("options", [{}, {"do_pad": True}, None])
@pytest.mark.parametrize("i", range(len(SIZES)))
def test_prepared_pictures(i, options, tmp_path):
    """LLaVA-1.5's cut, its padding to squares, LLaVA-NeXT's tiles."""
    content = CONSTANTS | (options or {})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    kind = {"model_type": "llava_next" if options is None else "llava"}
    parts = {"text_config": TEXT, "vision_config": VISION, "image_grid_pinpoints": PINPOINTS}
    parts["image_token_index"] = 50
    images = load_llava_images(tmp_path, LlavaConfig.from_hf(kind | parts))
    theirs = torch_pixels(options is None, [picture(i)], **(options or {}))["pixel_values"].numpy()
    theirs = (theirs[0] if options is None else theirs).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(images.tiles(picture(i)), theirs, atol=1e-6)


def test_sizes_and_padding_of_many_pictures():
    import torch
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    random = np.random.default_rng(0)
    sizes = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
    for height, width in random.integers(1, 3000, (300, 2)).tolist():
        best = best_size(height, width, sizes)
        assert best == select_best_resolution((height, width), sizes)
        tokens = np.arange(best[0] * best[1] // 14**2).reshape(best[0] // 14, -1)
        theirs = unpad_image(torch.tensor(tokens)[None], (height, width))[0].numpy()
        np.testing.assert_array_equal(unpad(tokens, height, width), theirs)


@pytest.mark.parametrize("tiled", [False, True])
def test_a_training_batch_has_torchs_loss_and_gradients(
    tiled, tmp_path, write_folder, write_tokenizer, mesh
):
    import torch

    world = llava_world.write_world(tmp_path / "world", write_folder)
    theirs, _ = made(tiled, world / "model", write_tokenizer)
    llava_world.add_image_token(world / "model" / "tokenizer.json")
    recipe = llava_world.config(world, "model", adapter="none", train="full")
    (run,) = llava_world.runs_of(recipe, tmp_path / "run")
    assembly = assemble_instruct(run, llava_world.library_of(mesh(1)))
    task, data = assembly.task, assembly.data
    assert assembly.initial is not None
    trainable = assembly.initial(jax.random.key(0))
    groups = data.train.plan(4, None)[0]
    batch = data.train.batch(groups, 4)
    placed = jax.tree.map(jnp.asarray, batch)
    ours, grads = jax.jit(jax.value_and_grad(functools.partial(loss_of, task)))(
        trainable, assembly.frozen, placed
    )

    text = batch["text"]
    labels = np.full(text["input_ids"].shape, -100)
    for row, (columns, said, weights) in enumerate(
        zip(text["columns"], text["labels"], text["weights"], strict=True)
    ):
        labels[row, columns[weights > 0] + 1] = said[weights > 0]
    images = [llava_world.pictures_of(data.train)[group[0]] for group in groups]
    given = {"input_ids": text["input_ids"], "attention_mask": text["attention_mask"]}
    tensors = {name: torch.tensor(x).long() for name, x in {**given, "labels": labels}.items()}
    said = theirs(**tensors, **torch_pixels(tiled, images))
    assert (text["weights"].sum(), len(images)) == ((labels >= 0).sum(), 4)
    loss = float(said.loss.detach())
    assert abs(float(ours) - loss) <= 1e-4 * loss
    said.loss.backward()
    learned = grads["weights"]
    parts = {
        "model.multi_modal_projector.linear_1.weight": learned["image"]["linear_1"]["kernel"].T,
        "model.language_model.embed_tokens.weight": learned["language"]["embed_tokens"][
            "embedding"
        ],
        "model.language_model.norm.weight": learned["language"]["norm"]["scale"],
    }
    parts |= {"model.image_newline": learned["image"]["image_newline"]} if tiled else {}
    for name, leaf in parts.items():
        wanted = theirs.get_parameter(name).grad.numpy()
        assert np.abs(np.asarray(leaf) - wanted).max() <= 1e-4 * np.abs(wanted).max(), name


def loss_of(task: Any, trainable: Any, frozen: Any, batch: Any) -> jax.Array:
    return task.loss(trainable, frozen, batch, jax.random.key(0))[0]
