"""Mixture-of-modality adapters against NumPy in float64, from the router to the gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax import trees
from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter, bind, routing_table
from mmjax.encoders.clip import vision_config
from mmjax.encoders.joined import among
from mmjax.encoders.language_model import IMAGE, TEXT, WORD, embed, extend, logits
from mmjax.encoders.llama import Llama
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.encoders.vision import VisionTransformer, class_tokens
from mmjax.errors import MmjaxError
from mmjax.interop.lavin import from_original, to_original
from mmjax.losses.language_modeling import answer_hidden, next_token
from tests.adapters import numpy_mma as reference

ROUTED = RepAdapter(rank=4, temperature=2.0, scale=0.7)
PARTS = Multimodal(ROUTED, dataclasses.replace(ROUTED, routing="per_image"), taps=2, hidden=6)
# LaVIN's `block` in LLaMA and `router_block` in CLIP: adapters before feed-forward parts too.
BLOCK = dataclasses.replace(ROUTED, feed_forward=True)
BLOCKS = dataclasses.replace(
    PARTS, language=BLOCK, vision=dataclasses.replace(BLOCK, routing="per_image")
)
TOLERANCE = 2e-5
BOS = 1
# (words before the picture, then prompt and answer; which columns of the latter are the answer)
IMAGE_ROW = ([7, 8], [9, 10, 11, 12, 2])
TEXT_ROW = ([7, 8, 13], [14, 15, 16, 2])


def adapter_of(params):
    """One adapter's parameters, layer by layer, for the reference."""
    return reference.float64(params)


@pytest.mark.parametrize("half", [False, True])
def test_router_and_block_equal_numpy(language, trained, half):
    hook = dataclasses.replace(ROUTED, router_weight_dtype="float16" if half else "float32")
    stacked = trained(hook.init(jax.random.key(0), language.params["layers"]))
    x = np.random.default_rng(1).standard_normal((3, 5, 32)).astype(np.float32)
    for i in range(2):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        p, x64 = adapter_of(one), x.astype(np.float64)
        w = reference.router_weights(p, x64[:, 0], 2.0, half)
        assert_allclose(hook.weights(one, jnp.asarray(x))[:, 0], w, atol=TOLERANCE)
        ours = hook(one, "attention_input", jnp.asarray(x), jnp.asarray(x), None)
        assert_allclose(ours, reference.rep_adapter(p, x64, w, 0.7), atol=TOLERANCE)
        assert hook(one, "query", jnp.asarray(x), ours, None) is ours  # nothing else is touched


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("routing", ["per_image", "first_in_batch"])
def test_clip_blocks_equal_numpy_in_both_routing_modes(vision, trained, routing, block):
    hook = dataclasses.replace(ROUTED, routing=routing, feed_forward=block)
    adapters = trained(hook.init(jax.random.key(0), vision.params["layers"]))
    module = dataclasses.replace(vision.module, hook=hook, parent=None)
    pixels = np.random.default_rng(2).standard_normal((3, 20, 20, 3)).astype(np.float32)
    ours = jax.jit(class_tokens, static_argnums=0)(module, vision.params, pixels, adapters)
    theirs = [
        reference.clip_class_tokens(
            reference.float64(vision.params),
            vision.config,
            adapter_of(adapters),
            pixels.astype(np.float64),
            2.0,
            together,
            0.7,
        )
        for together in (False, True)
    ]
    assert_allclose(ours, theirs[routing == "first_in_batch"], atol=TOLERANCE)
    assert_allclose(theirs[0][:, 0], theirs[1][:, 0], atol=1e-9)  # the first picture is the same
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-2


def test_without_a_hook_the_class_tokens_are_what_the_encoder_sows(vision):
    pixels = np.random.default_rng(2).standard_normal((2, 20, 20, 3)).astype(np.float32)
    ours = jax.jit(class_tokens, static_argnums=0)(vision.module, vision.params, pixels)
    sown = jax.jit(vision.apply)(vision.params, {"pixel_values": pixels}).class_tokens
    assert_allclose(ours, sown, atol=1e-6)


@pytest.mark.parametrize("normed", [False, True])
def test_class_tokens_become_words(normed, whole):
    parts, projection = dataclasses.replace(PARTS, norm_taps=normed), whole[0]["projection"]
    shape = 2, 3, len(projection["down"]["kernel"])
    given = 5 + 3 * np.random.default_rng(4).standard_normal(shape)
    ours = parts.image_tokens(whole[0], jnp.asarray(given, jnp.float32))
    if normed:
        given = (given - given.mean(-1, keepdims=True)) / given.std(-1, keepdims=True)
    assert_allclose(ours, reference.project(reference.float64(projection), given), atol=TOLERANCE)


def test_layers_that_are_tapped():
    assert Multimodal().tapped(24) == (3, 7, 11, 15, 19, 23)  # LaVIN's: after blocks 4, 8, ..., 24
    assert Multimodal(taps=4, tap_layers="last").tapped(12) == (8, 9, 10, 11)
    for layers in ("spread", "last"):
        with pytest.raises(MmjaxError, match="7 taps"):
            Multimodal(taps=7, tap_layers=layers).tapped(6)


def batch():
    """Two rows, one with a picture: ids, image slots, modality, mask."""
    rows = [
        [0, BOS, *IMAGE_ROW[0], -1, -1, *IMAGE_ROW[1]],
        [0, BOS, *TEXT_ROW[0], *TEXT_ROW[1]],
    ]
    length = max(map(len, rows)) + 1  # a column of padding for all
    ids, slot = np.zeros((2, length), np.int32), np.full((2, length), WORD, np.int32)
    mask = np.zeros((2, length), np.int32)
    for i, row in enumerate(rows):
        kept = np.array(row)
        slot[i, : len(row)] = np.where(kept == -1, np.cumsum(kept == -1) - 1, WORD)
        ids[i, : len(row)] = np.maximum(kept, 0)
        mask[i, 1 : len(row)] = 1  # column 0 is seen by itself only
    return ids, slot, np.array([IMAGE, TEXT]), mask


# Columns of the answers: the last three tokens of the picture's row, two of the text's.
ANSWERS = [(0, 8), (0, 9), (0, 10), (1, 7), (1, 8)]


@pytest.fixture(scope="module", params=[PARTS, BLOCKS], ids=["attention", "block"])
def parts(request) -> Multimodal:
    return request.param


@pytest.fixture(scope="module")
def whole(language, vision, trained, parts):
    trainable = trained(parts.init(jax.random.key(0), language.params, vision.params))
    return trainable, np.random.default_rng(3).standard_normal((2, 20, 20, 3)).astype(np.float32)


def ours_of(language, vision, parts, trainable, pixels):
    """Embeddings, logits at all positions, and the loss, by mmjax."""
    ids, slot, modality, mask = batch()
    module = dataclasses.replace(vision.module, hook=parts.vision, parent=None)
    model = language.with_hook(parts.language)
    taps = class_tokens(module, vision.params, pixels, trainable["vision"])
    pictures = parts.image_tokens(trainable, taps[np.array(parts.tapped(2))])
    words = embed(model.module, model.params, jnp.asarray(ids))
    x = among(words, pictures, jnp.asarray(slot))
    x = x.at[:, 0].set(trainable["modality"]["embedding"][modality])
    hidden, _ = extend(model.module, model.params, trainable["language"], x, jnp.asarray(mask))
    columns, labels, counts = (np.zeros((2, 3), np.int32) for _ in range(3))
    for row in range(2):
        mine = [column for r, column in ANSWERS if r == row]
        columns[row, : len(mine)] = np.array(mine) - 1
        labels[row, : len(mine)] = ids[row, mine]
        counts[row, : len(mine)] = 1
    picked = logits(model.module, model.params, answer_hidden(hidden, jnp.asarray(columns)))
    total, _ = next_token(picked, jnp.asarray(labels), jnp.asarray(counts, np.float32))
    return x, logits(model.module, model.params, hidden), total.total / total.examples


def theirs_of(language, vision, trainable, pixels):
    """The same by the reference, row by row."""
    ids, _, _, _ = batch()
    params, clip = reference.float64(language.params), reference.float64(vision.params)
    taps = reference.clip_class_tokens(
        clip, vision.config, trainable["vision"], pixels, 2.0, False, 0.7
    )
    pictures = reference.project(trainable["projection"], taps)
    table, first = params["embed_tokens"]["embedding"], trainable["modality"]["embedding"]
    rows = [
        reference.sequence(table, first[1], pictures[0], BOS, *IMAGE_ROW),
        reference.sequence(table, first[0], None, BOS, *TEXT_ROW),
    ]
    found = []
    for row in rows:
        hidden, _ = reference.llama(
            params, language.config, trainable["language"], row[None], 2.0, 0.7
        )
        found.append((hidden @ params["lm_head"]["kernel"])[0])
    return rows, found, reference.loss(found_padded(found), ids, ANSWERS)


def found_padded(rows):
    length = max(map(len, rows))
    return np.stack([np.pad(row, [(0, length - len(row)), (0, 0)]) for row in rows])


def test_sequence_logits_and_loss_equal_numpy(language, vision, parts, whole):
    trainable, pixels = whole
    run = jax.jit(lambda t, p: ours_of(language, vision, parts, t, p))
    embeddings, scores, loss = run(trainable, pixels)
    rows, found, expected = theirs_of(
        language, vision, reference.float64(trainable), pixels.astype(np.float64)
    )
    for i, (row, score) in enumerate(zip(rows, found, strict=True)):
        assert_allclose(embeddings[i, : len(row)], row, atol=TOLERANCE)
        assert_allclose(scores[i, : len(row)], score, atol=TOLERANCE)
    assert_allclose(loss, expected, atol=TOLERANCE)


def test_gradients_of_every_leaf_equal_numpy(language, vision, parts, whole):
    """Directional derivatives of the reference in float64, two directions a leaf."""
    trainable, pixels = whole
    given = jnp.asarray(pixels)
    ours = jax.jit(jax.grad(lambda t: ours_of(language, vision, parts, t, given)[2]))(trainable)
    start, pixels = reference.float64(trainable), pixels.astype(np.float64)
    random, h = np.random.default_rng(4), 1e-5
    leaves, treedef = jax.tree.flatten(start)
    for i, (path, gradient) in enumerate(trees.named_leaves(ours)):
        for _ in range(2):
            direction = random.standard_normal(gradient.shape)
            direction /= np.linalg.norm(direction)
            ends = []
            for sign in (1, -1):
                moved = [x + sign * h * direction if j == i else x for j, x in enumerate(leaves)]
                tree = jax.tree.unflatten(treedef, moved)
                ends.append(theirs_of(language, vision, tree, pixels)[2])
            slope = (ends[0] - ends[1]) / (2 * h)
            found = float(np.sum(np.asarray(gradient, np.float64) * direction))
            assert found == pytest.approx(slope, abs=TOLERANCE), path
        assert np.abs(gradient).max() > 1e-7, path  # every leaf is used


@pytest.mark.parametrize("hook", [ROUTED, BLOCK], ids=["attention", "block"])
def test_the_router_is_a_table_of_layer_and_modality(hook, language, trained):
    model = language.with_hook(hook)
    adapters = trained(hook.init(jax.random.key(0), language.params["layers"]))
    first = np.random.default_rng(5).standard_normal((2, 32)).astype(np.float32)
    table = routing_table(model, adapters, jnp.asarray(first))
    rows = np.random.default_rng(6).standard_normal((2, 4, 32))
    rows[:, 0] = first
    _, theirs = reference.llama(
        reference.float64(language.params), language.config, adapter_of(adapters), rows, 2.0, 0.7
    )
    assert_allclose(table, theirs, atol=TOLERANCE)  # whatever follows the modality token
    assert_allclose(np.asarray(table).sum(-1), 1, atol=1e-6)
    with pytest.raises(MmjaxError, match="routed adapter"):
        routing_table(language, adapters, jnp.asarray(first))


@pytest.mark.parametrize("hook", [ROUTED, BLOCK], ids=["attention", "block"])
def test_bound_to_a_modality_the_first_token_is_not_needed(hook, language, trained):
    model = language.with_hook(hook)
    adapters = trained(hook.init(jax.random.key(0), language.params["layers"]))
    first = jnp.asarray(np.random.default_rng(5).standard_normal((2, 32)), jnp.float32)
    table = routing_table(model, adapters, first)
    words = np.random.default_rng(7).standard_normal((2, 5, 32)).astype(np.float32)
    run = jax.jit(lambda a, x, mask: extend(model.module, model.params, a, x, mask)[0])
    both = jnp.concatenate([first[:, None], words], axis=1)
    whole = run(adapters, both, jnp.array([[0, 1, 1, 1, 1, 1]] * 2))
    for modality in (TEXT, IMAGE):
        bound = run(bind(adapters, table, modality), words, jnp.ones((2, 5), int))
        assert_allclose(bound[modality], whole[modality, 1:], atol=1e-5)
        assert np.abs(bound[1 - modality] - whole[1 - modality, 1:]).max() > 1e-3


def shapes_of(width, layers, heads, intermediate, parts=Multimodal()):  # noqa: B008
    config = LlamaConfig.from_hf(
        {
            **{"vocab_size": 32000, "hidden_size": width, "num_hidden_layers": layers},
            **{"num_attention_heads": heads, "intermediate_size": intermediate},
        }
    )
    clip = vision_config(
        {
            **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
            **{"intermediate_size": 4096, "image_size": 224, "patch_size": 14},
        }
    )
    key, ids = jax.random.key(0), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    language = jax.eval_shape(Llama(config).init, key, ids, ids)["params"]
    pixels = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    vision = jax.eval_shape(VisionTransformer(clip).init, key, pixels)["params"]
    return jax.eval_shape(parts.init, key, language, vision)


@pytest.mark.parametrize(
    ("sizes", "count", "tensors", "megabytes"),
    [
        ((4096, 32, 32, 11008), 3_781_296, 453, 15.1),
        ((5120, 40, 40, 13824), 5_390_080, 517, 21.6),
    ],
)
def test_published_sizes(sizes, count, tensors, megabytes):
    """Of LLaMA 7B and 13B beside CLIP ViT-L/14, without making a parameter."""
    trainable = shapes_of(*sizes)
    assert trees.count(trainable) == count
    original = jax.eval_shape(to_original, trainable)
    assert len(original) == tensors
    assert trees.count(original) == count
    assert trees.nbytes(trainable) / 1e6 == pytest.approx(megabytes, abs=0.05)
    shapes = {name: x.shape for name, x in original.items()}
    d = sizes[0]
    assert shapes["layers.0.adapter_attn.conv_A.weight"] == (8, d, 1)
    assert shapes["layers.0.adapter_attn.conv_D.weight"] == (d, 4, 1)
    assert shapes["layers.0.adapter_attn.expert_weights.weight"] == (2, d)
    resblock = "backbone.visual.transformer.resblocks.23.adapter_attn"
    assert shapes[f"{resblock}.conv_B.weight"] == (1024, 4, 1)
    assert shapes["adapter_proj.conv_B.weight"] == (d, 128)
    assert shapes["adapter_modality_embedding.weight"] == (2, d)


@pytest.mark.parametrize(
    ("language", "vision", "more"),
    [
        (False, True, 24 * 20_490),
        (True, False, 32 * 81_930),
        (True, True, 24 * 20_490 + 32 * 81_930),
    ],
)
def test_sizes_with_adapters_before_feed_forward_parts(language, vision, more):
    """Of 7B: as much again as what stands before attention, tower by tower."""
    words, images = (RepAdapter(feed_forward=block) for block in (language, vision))
    trainable = shapes_of(4096, 32, 32, 11008, Multimodal(words, images))
    assert trees.count(trainable) == 3_781_296 + more
    original = jax.eval_shape(to_original, trainable)
    assert trees.count(original) == 3_781_296 + more
    assert len(original) == 453 + 8 * (32 * language + 24 * vision)
    name = "layers.31.adapter_mlp.conv_B.weight"
    assert (name in original) == language
    assert not language or original[name].shape == (4096, 4, 1)
    resblock = "backbone.visual.transformer.resblocks.0.adapter_mlp.expert_weights.weight"
    assert (resblock in original) == vision
    assert not vision or original[resblock].shape == (2, 1024)


def test_original_tensors_go_there_and_back(language, vision, whole):
    trainable, _ = whole
    tensors = {f"module.{k}": np.asarray(x) for k, x in to_original(trainable).items()}
    back = from_original(tensors, jax.eval_shape(lambda: trainable))
    assert trees.fingerprint(back) == trees.fingerprint(jax.device_get(trainable))


def test_original_tensors_mean_what_the_convolutions_do(trained, language):
    """conv_B of output channel c reads the bottleneck's group c // (d / 2)."""
    own = trained(ROUTED.init(jax.random.key(0), language.params["layers"]))
    tree = {"language": own, "vision": own}
    tree |= {
        "projection": {n: {"kernel": np.ones((2, 2)), "bias": np.ones(2)} for n in ("down", "up")}
    }
    tree |= {"modality": {"embedding": np.ones((2, 32))}}
    at = "layers.1.adapter_attn."
    t = {k: np.asarray(x, np.float64) for k, x in to_original(tree).items()}
    x = np.random.default_rng(0).standard_normal((1, 3, 32))
    h = np.einsum("rdk,bld->blr", t[at + "conv_A.weight"], x) + t[at + "conv_A.bias"]
    w = reference.softmax(
        (x[:, 0] @ t[at + "expert_weights.weight"].T + t[at + "expert_weights.bias"]) / 2.0
    )
    out = x.copy()
    for e, name in enumerate(("conv_B", "conv_D")):
        for c in range(32):
            group = h[..., 2 * (c // 16) : 2 * (c // 16) + 2]
            up = group @ t[f"{at}{name}.weight"][c, :, 0] + t[f"{at}{name}.bias"][c]
            out[..., c] += 0.7 * w[0, e] * up
    one = jax.tree.map(lambda leaf: leaf[1], own)
    assert_allclose(ROUTED.adapt(one, jnp.asarray(x, jnp.float32)), out, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layers.1.adapter_attn.conv_D.bias"), "lacks 1 of (37|69) tensors"),
        (lambda t: t.update({"layers.2.adapter_attn.conv_A.bias": np.ones(4)}), "no place for"),
        (lambda t: t.update({"adapter_proj.conv_A.bias": np.ones(7)}), r"shape \[7\].* need \[6\]"),
    ],
)
def test_original_tensors_that_do_not_fit(change, message, whole):
    tensors = {k: np.asarray(x) for k, x in to_original(whole[0]).items()}
    change(tensors)
    with pytest.raises(MmjaxError, match=message):
        from_original(tensors, whole[0])


def test_sizes_that_do_not_fit(language):
    with pytest.raises(MmjaxError, match="groups do not divide"):
        RepAdapter(rank=3).init(jax.random.key(0), language.params["layers"])


def test_dropout_is_of_training_only_and_differs_between_layers(language, trained):
    hook = dataclasses.replace(ROUTED, dropout=0.5)
    model = language.with_hook(hook)
    adapters = trained(hook.init(jax.random.key(0), language.params["layers"]))
    parts = Multimodal(hook, None)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 32)), jnp.float32)
    run = jax.jit(lambda a: extend(model.module, model.params, a, x, jnp.ones((1, 4), int))[0])
    given = [
        parts.training({"language": adapters}, key, (2, 2))[0]
        for key in (None, jax.random.key(1), jax.random.key(1), jax.random.key(2))
    ]
    plain, one, again, other = (np.asarray(run(a)) for a in given)
    assert_allclose(one, again)
    assert min(np.abs(one - plain).max(), np.abs(one - other).max()) > 1e-3
    keys = jax.random.key_data(given[1]["dropout_key"])
    assert len(np.unique(keys, axis=0)) == 2
