"""Prompts and classifiers against small float64 references, and what they cost."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.adapters.classifiers import (
    Clap,
    LinearProbe,
    LinearProbePlus,
    TaskResidual,
    TipAdapter,
    zero_shot,
)
from mmjax.adapters.prompts import (
    FactorisedPrompts,
    InTowerPrompts,
    VisualGuidedAttention,
    over_chunks,
    put_in,
)
from mmjax.losses.distill import unit

C, K, E, B, SHOTS = 3, 2, 8, 5, 4
KEY = jax.random.key(0)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


KNOWN = {
    "text": unit(normal(0, C, E)),
    "prompts": unit(normal(1, C, K, E)),
    "support": unit(normal(2, C * SHOTS, E)),
    "logit_scale": jnp.float32(2.0),
}
IMAGE = unit(normal(3, B, E))
INPUTS = {
    "features": IMAGE,
    "patches": normal(4, B, 6, 7),
    "patch_mask": jnp.arange(6)[None] < jnp.asarray([[6], [5], [4], [3], [2]]),
}
WIDE = {name: np.asarray(x, np.float64) for name, x in {**KNOWN, "image": IMAGE}.items()}


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_tip_adapter_is_its_closed_form():
    tip = TipAdapter(alpha=1.17, beta=5.5)
    trainable = tip.init(KEY, KNOWN, INPUTS)
    np.testing.assert_array_equal(trainable["keys"], KNOWN["support"])
    values = np.repeat(np.eye(C), SHOTS, axis=0)  # one-hot labels of the shots
    affinity = np.exp(-5.5 * (1 - WIDE["image"] @ WIDE["support"].T))
    expected = np.exp(2.0) * WIDE["image"] @ WIDE["text"].T + 1.17 * affinity @ values
    found, penalty = tip.score(trainable, {"known": KNOWN}, INPUTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert penalty == 0


def test_clap_holds_classes_by_how_sure_the_names_are_of_them():
    clap = Clap(weight=3.0)
    trainable = clap.init(KEY, KNOWN, INPUTS)
    logits, penalty = clap.score(trainable, {"known": KNOWN}, INPUTS)
    zero_shot = np.exp(2.0) * WIDE["image"] @ WIDE["text"].T
    np.testing.assert_allclose(logits, zero_shot, rtol=1e-5)
    assert penalty == 0
    moved = {"prototypes": trainable["prototypes"] + 0.1}
    sure = softmax(np.exp(2.0) * WIDE["support"] @ WIDE["text"].T)
    labels = np.repeat(np.arange(C), SHOTS)
    own = [sure[labels == c, c].mean() for c in range(C)]
    expected = 3.0 * np.mean(np.asarray(own) * 0.1**2 * E)
    np.testing.assert_allclose(clap.score(moved, {"known": KNOWN}, INPUTS)[1], expected, rtol=1e-4)
    outside = {k: v for k, v in KNOWN.items() if k != "support"}  # a loaded adapter has no shots
    assert clap.score(moved, {"known": outside}, INPUTS)[1] == 0


def test_task_residual_and_linear_probe():
    residual, scale = np.asarray(normal(5, C, E), np.float64), np.exp(2.0)
    text = WIDE["text"] + 0.5 * residual
    expected = scale * WIDE["image"] @ (text / np.linalg.norm(text, axis=1, keepdims=True)).T
    trainable = {"residual": jnp.asarray(residual, jnp.float32)}
    found = TaskResidual(0.5).score(trainable, {"known": KNOWN}, INPUTS)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    probe = LinearProbe()
    start = probe.init(KEY, KNOWN, INPUTS)
    assert all(not np.any(x) for x in jax.tree.leaves(start))
    trained = {"kernel": normal(6, E, C), "bias": normal(7, C)}
    expected = scale * WIDE["image"] @ np.asarray(trained["kernel"]) + np.asarray(trained["bias"])
    found = probe.score(trained, {"known": KNOWN}, INPUTS)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_lp_plus_plus_blends_learnt_vectors_with_names():
    method, frozen = LinearProbePlus(), {"known": KNOWN}
    start = method.init(KEY, KNOWN, INPUTS)
    named = zero_shot(KNOWN, INPUTS["features"])
    np.testing.assert_array_equal(method.score(start, frozen, INPUTS)[0], named)
    trained = {"vectors": normal(9, C, E), "shares": normal(10, C, 1)}
    vectors, shares = (np.asarray(trained[name], np.float64) for name in ("vectors", "shares"))
    expected = np.exp(2.0) * WIDE["image"] @ (vectors + shares * WIDE["text"]).T
    found = method.score(trained, frozen, INPUTS)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_visual_guided_attention_reads_patches_alone():
    module, queries = VisualGuidedAttention(5), normal(8, 2, E)
    mask = INPUTS["patch_mask"]
    params = module.init(KEY, queries, INPUTS["patches"], mask)["params"]

    def attended(params) -> Any:
        return module.apply({"params": params}, queries, INPUTS["patches"], mask)

    assert not np.any(attended(params))
    params = {**params, "gate": jnp.float32(0.5)}
    found = attended(params)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x):
        x = np.asarray(x, np.float64)
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    x = norm(INPUTS["patches"])
    q = norm(queries) @ wide["query"]["kernel"]
    scores = np.einsum("nw,blw->bnl", q, x @ wide["key"]["kernel"]) / 5**0.5
    scores = np.where(np.asarray(mask)[:, None], scores, -np.inf)
    mixed = softmax(scores) @ (x @ wide["value"]["kernel"])
    np.testing.assert_allclose(found, 0.5 * mixed @ wide["out"]["kernel"], rtol=1e-4, atol=1e-5)


def test_factorised_prompts_mix_what_the_picture_points_at():
    whole = FactorisedPrompts(True, True, instance=2, width=5, alpha=0.5)
    without = FactorisedPrompts(True, True, instance=0, width=5, alpha=0.5)
    frozen, trainable = {"known": KNOWN}, whole.init(KEY, KNOWN, INPUTS)
    score = jax.jit(whole.score)
    plain = jax.jit(without.score)(without.init(KEY, KNOWN, INPUTS), frozen, INPUTS)[0]
    # Before training the picture has no say, bit for bit.
    np.testing.assert_array_equal(score(trainable, frozen, INPUTS)[0], plain)
    moved = jax.tree.map(lambda x: x + 0.3, trainable)
    other = {**INPUTS, "patches": INPUTS["patches"][::-1]}
    found = score(moved, frozen, INPUTS)[0]
    assert not np.allclose(found, score(moved, frozen, other)[0], atol=1e-4)
    # Other classes have no residual.
    new = {"known": {**KNOWN, "untrained": jnp.zeros(())}}
    bare = {**moved, "residual": jnp.zeros((C, E))}
    np.testing.assert_allclose(score(moved, new, INPUTS)[0], score(bare, frozen, INPUTS)[0])


def test_learnt_vectors_take_their_places():
    slots = jnp.asarray([[-1, 0, -1], [-1, 1, 0]])
    known = {"slots": slots, "embeddings": jnp.zeros((2, 3, 1))}
    learnt = jnp.asarray([[[5.0], [7.0]], [[50.0], [70.0]]])
    found = put_in(known, jnp.asarray([0, 1]), learnt)[..., 0]
    np.testing.assert_array_equal(found, [[0, 5, 0], [0, 70, 50]])


def test_chunks_change_neither_values_nor_gradients():
    weights = normal(9, 6, 6)

    def total(weights, chunk):
        def read(rows):
            return jnp.tanh(normal(10, 11, 6)[rows] @ weights)

        found = over_chunks(read, 11, chunk)
        assert found.shape == (11, 6)
        return jnp.sum(found**2), found

    (_, whole), gradient = jax.value_and_grad(total, has_aux=True)(weights, 0)
    for chunk in (1, 4, 11, 20):
        (_, found), other = jax.value_and_grad(total, has_aux=True)(weights, chunk)
        np.testing.assert_allclose(found, whole, rtol=1e-5)
        np.testing.assert_allclose(other, gradient, rtol=1e-4, atol=1e-6)


D, L, LAYERS = 32, 8, 6


def tower(frozen, embeddings, ids, mask):
    """A stand-in whose layers keep what the backward pass needs, as a text tower's do."""
    x = embeddings
    for w in frozen["text"]:
        x = x + jnp.tanh(x @ w)
    return unit(x.mean(axis=1)[:, :E])


def shape(*sizes: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def temporary_bytes(pictures: int, classes: int, chunk: int) -> int:
    """Of a compiled gradient, shapes alone."""
    prompts = InTowerPrompts(tower, general=2, instance=2, anchor=1.0, chunk=chunk)
    integers = {name: shape(classes, L, dtype=jnp.int32) for name in ("slots", "ids", "mask")}
    known = {
        **integers,
        "text": shape(classes, E),
        "logit_scale": shape(),
        "embeddings": shape(classes, L, D),
        "context": shape(2, D),
    }
    inputs = {"features": shape(pictures, E), "patches": shape(pictures, 4, 7)}
    inputs["patch_mask"] = shape(pictures, 4, dtype=jnp.bool_)
    frozen = {"known": known, "text": [shape(D, D)] * LAYERS}
    trainable = jax.eval_shape(prompts.init, KEY, known, inputs)

    def loss(trainable, frozen, inputs):
        logits, penalty = prompts.score(trainable, frozen, inputs)
        return jax.nn.logsumexp(logits, axis=-1).mean() + penalty

    compiled = jax.jit(jax.grad(loss)).lower(trainable, frozen, inputs).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def test_memory_of_the_exact_form_grows_with_the_chunk_and_not_with_pictures_times_classes():
    one = LAYERS * L * D * 4  # bytes that one prompt's layers keep
    few, many = temporary_bytes(4, 16, 16), temporary_bytes(16, 64, 16)
    # 16 times as many texts in chunks of the same size: only what is one number or one row more.
    assert many - few < 0.1 * (1024 - 64) * one
    # As many chunks as before: memory grows no faster than pictures x classes / chunks.
    assert temporary_bytes(16, 64, 256) <= 16 * few
    assert temporary_bytes(16, 64, 0) > 4 * many  # what chunks save


@pytest.mark.parametrize("conditional", [True, False])
def test_passes_are_one_a_class_where_nothing_of_the_picture_is_in_the_prompt(conditional):
    """The text tower sees c prompts, or one for every picture and class."""
    seen = []

    def count(frozen, embeddings, ids, mask):
        seen.append(len(embeddings))
        return tower(frozen, embeddings, ids, mask)

    prompts = InTowerPrompts(count, general=1, conditional=conditional)
    slots = jnp.tile(jnp.asarray([-1, 0, -1]), (C, 1))
    known = {**KNOWN, "slots": slots, "ids": slots, "mask": slots, "context": normal(2, 1, D)}
    known["embeddings"] = normal(1, C, 3, D)
    frozen = {"known": known, "text": []}
    trainable = prompts.init(KEY, known, INPUTS)
    logits = prompts.score(trainable, frozen, INPUTS)[0]
    assert logits.shape == (B, C)
    assert seen == [B * C if conditional else C]
