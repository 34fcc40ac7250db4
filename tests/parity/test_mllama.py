"""Llama 3.2 Vision (Mllama) beside Hugging Face's torch class: pictures beside the words."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax import MmjaxError
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import embed, extend, logits, see
from mmjax.encoders.llama import KeyValues
from mmjax.encoders.mllama import Mllama
from mmjax.encoders.mllama_images import MllamaImages
from mmjax.encoders.pictures import open_image
from mmjax.errors import WeightsError
from mmjax.generation import generate, score
from mmjax.generation.prompts import prepare
from tests.parity.small import randomize, word_tokenizer

pytestmark = pytest.mark.parity

VOCABULARY, IMAGE = 60, 60  # the picture's token is none that can be said
TEXT: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": VOCABULARY}
TEXT |= {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 512}
TEXT |= {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 4, "rms_norm_eps": 1e-5}
ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
ROPE |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
VISION: dict[str, Any] = {"hidden_size": 16, "attention_heads": 2, "intermediate_size": 24}
VISION |= {"num_hidden_layers": 3, "num_global_layers": 2, "image_size": 8, "patch_size": 4}
VISION |= {"intermediate_layers_indices": [2, 0], "vision_output_dim": 48, "max_num_tiles": 4}
# Layers that repeat in blocks, as the published models' do, and others.
KINDS = {"even": (6, [1, 4]), "uneven": (5, [0, 3])}
SIZES = [(30, 21), (9, 60), (8, 8), (5, 4)]  # height, width
ROWS = [[1, IMAGE, 6, 7, IMAGE, 8], [1, 5, IMAGE, 9], [1, 10, 11, 12], [IMAGE, IMAGE, 13]]
OWNED = [[0, 3], [1], [], [2, 0]]


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)) for size in SIZES]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Returns `models(kind)`: (torch model, ours, transformers' picture processor), made once."""
    return functools.cache(lambda kind: make(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(params=KINDS)
def pair(request, models) -> tuple[Any, LanguageModel, Any]:
    return models(request.param)


def make(kind, folder):
    import torch
    import transformers
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    layers, cross = KINDS[kind]
    text = TEXT | {"num_hidden_layers": layers, "cross_attention_layers": cross}
    config = transformers.MllamaConfig(
        text_config=text | {"rope_parameters": ROPE},
        vision_config=VISION,
        image_token_index=IMAGE,
    )
    model = randomize(transformers.MllamaForConditionalGeneration(config))
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.named_parameters():  # whose defaults, zeros, would show nothing
        if "gate" in name and tensor.numel() == 1 or "embedding" in name and "vision" in name:
            tensor.data = torch.randn(tensor.shape, generator=generator) * 0.7
    model.save_pretrained(folder)
    processor = MllamaImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.4, 0.5, 0.6])
    processor.save_pretrained(folder)
    word_tokenizer(folder, VOCABULARY + 8)
    ours = load_encoder(folder)
    assert isinstance(ours, LanguageModel)
    model.folder = folder
    return model, ours, processor


def torch_inputs(model, processor, pictures, ids) -> dict[str, Any]:
    """Of one text, as the processor would make them of a text's tokens."""
    import torch
    from transformers.models.mllama import processing_mllama as theirs

    ids = [int(i) for i in ids]
    inputs = {"input_ids": torch.tensor([ids])}
    if pictures:
        found = dict(processor([pictures], return_tensors="pt"))
        counts = found.pop("num_tiles")
        mask = theirs.convert_sparse_cross_attention_mask_to_dense(
            [theirs.get_cross_attention_token_mask(ids, IMAGE)], counts, 4, len(ids)
        )
        inputs |= found | {"cross_attention_mask": torch.tensor(mask)}
    return inputs


def torch_logits(model, processor, pictures, ids) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(**torch_inputs(model, processor, pictures, ids)).logits[0].numpy()


def test_logits(pair, pictures):
    model, ours, processor = pair
    owned = [[pictures[i] for i in row] for row in OWNED]
    prepared, rows = prepare(ours, ROWS, 4, owned)
    assert rows == 4

    full = np.asarray(whole(ours.module, ours.params, prepared))
    for row, ids in enumerate(ROWS):
        theirs = torch_logits(model, processor, owned[row], ids)
        assert np.abs(full[row, -len(ids) :] - theirs).max() <= 1e-5, row


@functools.partial(jax.jit, static_argnums=0)
def whole(module, params, prepared):
    hidden, _ = extend(
        module, params, None, prepared.embeddings, prepared.mask, pictures=prepared.pictures
    )
    return logits(module, params, hidden)
