"""Every transformer offers adapters the same places, and takes the same adapters there."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mmjax.adapters.hooks import widths
from mmjax.adapters.lora import Lora
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.encoders import Encoder, LanguageModel, load_encoder
from mmjax.encoders.language_model import mix
from mmjax.errors import MmjaxError

INPUTS = {"layer_input", "attention_input", "feed_forward_input"}
OUTPUTS = {"attention_output", "feed_forward_output"}  # of branches
ATTENTION = {"query", "key", "value", "out"}
BERT, VIT, LLAMA = {"intermediate", "output"}, {"fc1", "fc2"}, {"gate", "up", "down"}
IDS = np.array([[5, 40, 30, 45, 49], [7, 8, 49, 1, 1]], np.int32)  # 49: CLIP sees an end
MASK = np.array([[1] * 5, [1, 1, 1, 0, 0]], np.int32)


@dataclasses.dataclass(frozen=True)
class Row:
    """A transformer: where it comes from, what it offers, where its layers lie among all."""

    golden: str
    feed_forward: set[str]
    tower: str | None = None
    path: tuple[str, ...] = ()

    @property
    def maps(self) -> set[str]:
        return ATTENTION | self.feed_forward


ROWS = {
    "bert": Row("bert_tiny", BERT),
    "bert with a head": Row("chinese_clip_tiny", BERT, "text", ("bert",)),
    "clip's texts": Row("clip_tiny", VIT, "text"),
    "clip's pictures": Row("clip_tiny", VIT, "image"),
    "dinov2": Row("dinov2_tiny", VIT),
    "vit": Row("vit_tiny", VIT),
    "llama": Row("llama_tiny", LLAMA),
    "llava's texts": Row("llava_tiny", LLAMA, "text", ("language_model",)),
    "llava's pictures": Row("llava_tiny", VIT, "image", ("vision",)),
}


def says(encoder: Encoder, params: Any, adapters: Any) -> jax.Array:
    """What an encoder makes of two texts or pictures, a LLaVA of a text with a picture in it."""
    random = np.random.default_rng(2)
    config = getattr(encoder.config, "vision", encoder.config)
    side = getattr(config, "image_size", 1)
    pixels = jnp.asarray(random.standard_normal((2, side, side, 3)), jnp.float32)
    if encoder.modality == "image":
        return encoder.apply(params, {"pixel_values": pixels}, adapters).tokens
    inputs: dict[str, Any] = {"input_ids": IDS, "attention_mask": MASK}
    if encoder.family != "llava":
        return encoder.apply(params, inputs, adapters).tokens
    assert isinstance(encoder, LanguageModel)
    places = jnp.asarray([[-1, 1, 2, -1, -1]] * 2)  # two of the picture's tokens between words
    own = encoder.checked_adapters(adapters, "image")
    words = mix(encoder.module, params, jnp.asarray(IDS), pixels, places, own)
    return encoder.logits(params, {"embeddings": words, "attention_mask": MASK}, adapters)


def with_layers(params: Any, path: tuple[str, ...], layers: Any) -> Any:
    if not path:
        return {**params, "layers": layers}
    return {**params, path[0]: with_layers(params[path[0]], path[1:], layers)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A loaded row, and what it says without an adapter: `plain(params)`, compiled."""

    row: Row
    encoder: Encoder
    plain: Callable[[Any], jax.Array]

    @property
    def layers(self) -> Any:
        return self.encoder.frozen_layers(self.row.tower)

    def adapted(self, hook: Any) -> Callable[[Any, Any], jax.Array]:
        """`run(params, adapters)` with a hook in its place."""
        model = self.encoder.with_hook(hook, tower=self.row.tower)
        by_tower = self.row.path == ("vision",)
        return lambda params, own: says(model, params, {"image": own} if by_tower else own)


@pytest.fixture(scope="module", params=ROWS)
def case(request, tmp_path_factory, write_folder) -> Case:
    row = ROWS[request.param]
    folder = write_folder(tmp_path_factory.mktemp("encoder"), row.golden)
    encoder = load_encoder(folder, tower="text" if row.golden == "llava_tiny" else row.tower)
    return Case(row, encoder, jax.jit(lambda params: says(encoder, params, None)))


def moved(adapters: Any) -> Any:
    """The same tree away from zero."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(random.standard_normal(x.shape) * 0.1, x.dtype), adapters
    )


def test_the_places_are_the_documented_ones(case):
    seen = set()

    def noted(adapter, place, x, y, kernel):
        seen.add((place, None if kernel is None else kernel.shape))
        return y

    jax.eval_shape(case.adapted(noted), case.encoder.params, {})
    sizes = {place: shape[1:] for place, shape in widths(case.layers).items()}
    assert set(sizes) == case.row.maps
    assert seen == {*sizes.items(), *((place, None) for place in INPUTS | OUTPUTS)}


def test_lora_starts_as_the_frozen_encoder_and_is_what_its_merge_says(case):
    # Where a norm follows at once, XLA sums y + 0 in another order: equal but for the last bit.
    targets = case.row.maps - ({"out"} if case.row.feed_forward == BERT else set())
    lora, params = Lora(rank=2, alpha=4.0, targets=tuple(sorted(targets))), case.encoder.params
    run = jax.jit(case.adapted(lora))
    adapters = lora.init(jax.random.key(0), case.layers)
    before = case.plain(params)
    assert_array_equal(run(params, adapters), before)
    adapters = moved(adapters)
    after = run(params, adapters)
    assert np.abs(after - before).max() > 1e-2
    merged = with_layers(params, case.row.path, lora.merge(case.layers, adapters))
    assert_allclose(after, case.plain(merged), atol=1e-5)


def test_every_place_reaches_the_output_and_learns(case):
    sizes = widths(case.layers)
    n, d, _ = sizes["query"]
    nothing = {place: jnp.zeros((n, d)) for place in sorted(INPUTS | OUTPUTS)}
    nothing |= {place: jnp.zeros((n, out)) for place, (_, _, out) in sizes.items()}

    def added(adapter, place, x, y, kernel):
        # More to later tokens: what is added to all keys alike, no softmax sees.
        return y + jnp.arange(y.shape[1], dtype=y.dtype)[None, :, None] * adapter[place][None, None]

    def loss(adapters, params):
        output = case.adapted(added)(params, adapters)
        return jnp.sin(output).sum(), output

    run = jax.jit(jax.grad(loss, has_aux=True))
    random = np.random.default_rng(3)
    gradients, same = run(nothing, case.encoder.params)
    for place, zero in nothing.items():
        assert (np.abs(gradients[place]).max(axis=1) > 1e-6).all(), place  # in every layer
        vectors = jnp.asarray(random.standard_normal(zero.shape), jnp.float32)
        _, other = run({**nothing, place: vectors}, case.encoder.params)
        assert np.abs(other - same).max() > 1e-4, place


@pytest.mark.parametrize("case", ["bert", "clip's texts"], indirect=True)
def test_what_a_branch_reads_is_changed_and_what_it_is_added_to_is_not(case):
    """A linear map before a branch can be folded into it, so the rest must be as it was."""
    hook, params = RepAdapter(rank=4, experts=1, feed_forward=True), case.encoder.params
    adapters = hook.init(jax.random.key(0), case.layers)
    run = jax.jit(case.adapted(hook))
    assert_allclose(run(params, adapters), case.plain(params), atol=1e-6)
    adapters = moved(adapters)
    merged = with_layers(params, case.row.path, hook.merge(case.layers, adapters))
    assert_allclose(run(params, adapters), case.plain(merged), atol=1e-5)
    assert np.abs(run(params, adapters) - case.plain(params)).max() > 1e-2


@pytest.mark.parametrize("case", ["bert", "dinov2"], indirect=True)
def test_items_are_embedded_with_the_adapter(case):
    lora = Lora(rank=2)
    adapters = moved(lora.init(jax.random.key(0), case.layers))
    model = case.encoder.with_hook(lora)
    merged = dataclasses.replace(
        case.encoder,
        params=with_layers(model.params, (), lora.merge(case.layers, adapters)),
    )
    if model.modality == "text":
        items: list[Any] = ["w4 w5 w6", "w9"]
        embed, expected = model.embed_texts, merged.embed_texts(items)
    else:
        items = list(np.random.default_rng(0).integers(0, 255, (2, 40, 40, 3), np.uint8))
        embed, expected = model.embed_images, merged.embed_images(items)
    assert_allclose(embed(items, adapters=adapters), expected, atol=1e-5)
    with pytest.raises(MmjaxError, match=r"\(Lora\) whose parameters are not given"):
        embed(items)
    with pytest.raises(MmjaxError, match="which has none; put one into it with `with_hook`"):
        next(case.encoder.outputs(items, adapters=adapters))
    with pytest.raises(MmjaxError, match=r"has no 'video' tower, only (text|image)"):
        model.with_hook(lora, tower="video")


@pytest.mark.parametrize("case", ["llava's pictures"], indirect=True)
def test_a_model_with_two_towers_takes_parameters_by_tower(case):
    lora, model = Lora(rank=2), case.encoder
    both = model.with_hook(lora).with_hook(lora, tower="image")
    trees = {tower: {tower: 1} for tower in ("text", "image")}
    assert [both.checked_adapters(trees, tower) for tower in trees] == list(trees.values())
    assert both.checked_adapters(trees) == trees["text"]
    for given in (trees["image"], {"image": trees["image"]}, None):
        with pytest.raises(MmjaxError, match=r"its text and its image tower; pass adapters=\{'te"):
            both.checked_adapters(given)
    alone = both.with_hook(None)
    assert alone.checked_adapters({"image": 1}) is None
    assert alone.checked_adapters({"image": 1}, "image") == 1
    assert alone.with_hook(None, tower="image").checked_adapters(None) is None
    with pytest.raises(MmjaxError, match="remat is for the decoder's layers"):
        model.with_hook(lora, remat=True, tower="image")
