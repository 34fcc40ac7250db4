"""SmolLM2's and DINOv2's real weights: committed outputs of torch, and what int8 costs."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.generation import generate, score

TEXT = """The harbour was quiet in the early morning. Fishermen mended their nets along the stone
wall, and gulls waited on the roofs for the first boats to come home. A girl carried two baskets of
bread from the bakery to the market, where farmers were already putting out apples, onions and
cheese. By noon the square would be full of people, but for now only the church bell and the sea
could be heard. She counted the boats on the horizon and wondered which of them was her father's."""


def language_model(asset, **options) -> LanguageModel:
    asset("smollm2-135m-instruct")
    model = load_encoder("asset:smollm2-135m-instruct", **options)
    assert isinstance(model, LanguageModel)
    return model


@pytest.mark.slow
def test_smollm2_equals_torch_and_answers(asset, golden):
    arrays = golden("real_smollm2-135m-instruct")
    model = language_model(asset)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert model.encode_prompt(question) == arrays["prompt"].tolist()
    inputs = {
        "input_ids": arrays["prompt"][None],
        "attention_mask": np.ones((1, len(arrays["prompt"])), int),
    }
    logits = np.asarray(jax.jit(model.logits)(model.params, inputs))[0, -4:, ::16]
    assert_allclose(logits, arrays["logits"], atol=2e-3)
    (answer,) = generate(model, [question], 24)
    assert answer.token_ids.tolist() == arrays["answer"].tolist()
    assert answer.text == "The capital of France is Paris."


@pytest.mark.slow
def test_rounded_kernels_cost_smollm2_little_perplexity(asset):
    """Measured: 30.16 in float32, 30.38 in int8, 0.7 % more, 34.60 in nf4, 15 % more."""
    found = {}
    for kind in (None, "int8", "nf4"):
        model = language_model(asset, quantize=kind)
        ids = model.encode_prompt(TEXT)
        ((scored,),) = score(model, [ids[:1]], [[ids[1:]]])
        found[kind] = float(np.exp(-scored.token_log_probs.mean()))
    print({kind: round(value, 3) for kind, value in found.items()})
    assert found["int8"] < found[None] * 1.02
    assert found["nf4"] < found[None] * 1.25


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "least"), [("int8", 0.999), ("nf4", 0.96)])
def test_rounded_kernels_keep_dinov2s_directions(kind, least, asset, golden):
    """Measured: cosines of 0.9996 and 0.9999 with torch in float32; in nf4 0.976 and 0.985."""
    asset("dinov2-small")
    arrays = golden("real_dinov2-small")
    images = [arrays["image_0"], arrays["image_1"]]
    exact = arrays["cls_224"]
    vectors = load_encoder("asset:dinov2-small", quantize=kind).embed_images(images)
    cosines = (vectors * exact).sum(1)
    cosines /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(exact, axis=1)
    print(f"cosines {cosines}")
    assert cosines.min() > least
