"""What every kind of adapter must do: a new kind gets all of this by adding a row."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mmjax import trees
from mmjax.adapters.dora import DoRA
from mmjax.adapters.hooks import DROPOUT
from mmjax.adapters.ia3 import IA3
from mmjax.adapters.lora import Lora
from mmjax.adapters.merging import merge
from mmjax.adapters.rep_adapter import BLOCK, RepAdapter, bind, routing_table
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import IMAGE, TEXT, embed, extend, logits
from mmjax.encoders.vision import class_tokens
from mmjax.errors import MmjaxError
from mmjax.generation import generate
from mmjax.runs import adapter_files
from tests.adapters.numpy_mma import PLAIN_ROPE
from tests.adapters.programs import dots

ALL = ("query", "key", "value", "out", "gate", "up", "down")
FIRST = jnp.asarray(np.random.default_rng(9).standard_normal((2, 32)), jnp.float32)
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [4, 5], [30, 31, 32, 33]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A row of the table.

    Attributes:
      hook: the adapter.
      leaves: arrays among its parameters.
      bound: (adapted model, parameters) -> parameters that need no modality token.
    """

    hook: Any
    leaves: int
    bound: Callable[[LanguageModel, Any], Any] = lambda model, adapters: adapters


def of_images(model: LanguageModel, adapters: Any) -> Any:
    return bind(adapters, routing_table(model, adapters, FIRST), IMAGE)


KINDS = {
    "routed": Kind(RepAdapter(rank=4, temperature=2.0, dropout=0.2), 6, of_images),
    "routed block": Kind(
        RepAdapter(rank=4, temperature=2.0, dropout=0.2, feed_forward=True), 12, of_images
    ),
    "single": Kind(RepAdapter(rank=4, experts=1), 4),
    "single block": Kind(RepAdapter(rank=4, experts=1, feed_forward=True), 8),
    "lora": Kind(Lora(rank=3, alpha=6.0, dropout=0.2), 8),
    "dora": Kind(DoRA(rank=3, alpha=6.0, dropout=0.2), 12),
    "ia3": Kind(IA3(), 3),
    "lora of everything": Kind(Lora(rank=2, alpha=1.0, targets=ALL), 14),
}


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


@functools.partial(jax.jit, static_argnums=0)
def compiled(module, params, adapters, x, mask):
    hidden, _ = extend(module, params, adapters, x, mask)
    return logits(module, params, hidden)


def run(model, adapters, ids=PROMPTS[2]):
    """Logits [l, v] of one text without padding."""
    words = embed(model.module, model.params, jnp.asarray([ids]))
    mask = jnp.ones((1, len(ids)), int)
    return np.asarray(compiled(model.module, model.params, adapters, words, mask))[0]


def start(kind: Kind, model: LanguageModel) -> Any:
    return kind.hook.init(jax.random.key(0), model.params["layers"])


def test_nothing_changes_before_training(kind, language):
    model = language.with_hook(kind.hook)
    adapters = start(kind, model)
    assert len(jax.tree.leaves(adapters)) == kind.leaves
    assert {leaf.shape[0] for leaf in jax.tree.leaves(adapters)} == {2}  # every layer has its own
    assert_array_equal(run(model, adapters), run(language, None))


def test_vision_towers_take_it_too(kind, vision, trained):
    targets = {"targets": ("query", "fc1")} if isinstance(kind.hook, Lora) else {}
    hook = dataclasses.replace(kind.hook, **targets)
    module = dataclasses.replace(vision.module, hook=hook, parent=None)
    pixels = np.random.default_rng(2).standard_normal((2, 20, 20, 3)).astype(np.float32)
    compiled = jax.jit(class_tokens, static_argnums=0)
    plain = compiled(vision.module, vision.params, pixels)
    adapters = hook.init(jax.random.key(0), vision.params["layers"])
    assert_allclose(compiled(module, vision.params, pixels, adapters), plain, atol=1e-6)
    moved = compiled(module, vision.params, pixels, trained(adapters))
    assert (np.abs(moved - plain).max(axis=(1, 2)) > 1e-3).all()  # from the first layer on


def test_only_the_adapter_changes_and_all_of_it(kind, language):
    model = language.with_hook(kind.hook)
    adapters = start(kind, model)
    before = trees.fingerprint(model.params)
    tx = optax.sgd(0.5)
    inputs = {"input_ids": np.array(PROMPTS[2:3]), "attention_mask": np.ones((1, 6), np.int32)}

    @jax.jit
    def step(adapters, state, params, key):
        def loss(adapters):
            given = {**adapters, DROPOUT: jax.random.split(key, 2)}
            return jax.nn.logsumexp(model.logits(params, inputs, given)).sum()

        updates, state = tx.update(jax.grad(loss)(adapters), state)
        return optax.apply_updates(adapters, updates), state

    moved, state = adapters, tx.init(adapters)
    for i in range(3):  # where one factor starts at zero the other one moves a step later
        moved, state = step(moved, state, model.params, jax.random.key(i))
    for (path, a), (_, b) in zip(
        trees.named_leaves(adapters), trees.named_leaves(moved), strict=True
    ):
        assert (np.abs(a - b).reshape(2, -1).max(axis=1) > 0).all(), path  # in both layers
    assert trees.fingerprint(model.params) == before


def test_no_frozen_kernel_gets_a_gradient(kind, language):
    """The frozen maps are passed through going back, but no gradient of theirs is computed."""
    model = language.with_hook(kind.hook)
    adapters = start(kind, model)
    inputs = {"input_ids": np.zeros((5, 7), np.int32), "attention_mask": np.ones((5, 7), np.int32)}

    def loss(adapters, params):
        return model.logits(params, inputs, adapters).sum()

    kernels = {
        leaf.shape[-2:] for path, leaf in trees.named_leaves(model.params) if "kernel" in path
    }
    both = kernels | {shape[::-1] for shape in kernels}
    adapter_only = dots(jax.make_jaxpr(jax.grad(loss, 0))(adapters, model.params).jaxpr)
    everything = dots(jax.make_jaxpr(jax.grad(loss, (0, 1)))(adapters, model.params).jaxpr)
    assert not adapter_only & both
    assert everything & both  # so that the test could fail


def test_saved_and_loaded_on_another_mesh_it_says_the_same(
    kind, language, trained, folder, mesh, tmp_path, whole_card
):
    model = language.with_hook(kind.hook)
    adapters = trained(start(kind, model))
    adapter_files.save_adapter(tmp_path / "adapter", adapters, whole_card("instruct"))
    loaded, _ = adapter_files.load_adapter_params(tmp_path / "adapter")
    assert trees.fingerprint(loaded) == trees.fingerprint(jax.device_get(adapters))
    split = load_encoder(folder("llama_tiny", config=PLAIN_ROPE), mesh=mesh(4, 2))
    assert isinstance(split, LanguageModel)
    assert_allclose(run(split.with_hook(kind.hook), loaded), run(model, adapters), atol=1e-5)


def test_merged_it_says_the_same(kind, language, trained):
    model = language.with_hook(kind.hook)
    adapters = trained(start(kind, model), std=0.1)
    bound = kind.bound(model, adapters)
    before = trees.fingerprint(language.params)
    plain = merge(model, bound)
    assert plain.module.hook is None
    assert_allclose(run(plain, None), run(model, bound), atol=2e-5)
    assert np.abs(run(plain, None) - run(language, None)).max() > 1e-2
    assert trees.fingerprint(language.params) == before
    assert plain.fingerprint != language.fingerprint
    # Nothing is multiplied that the bare model does not multiply.
    ids = np.ones((1, 4), np.int32)

    def products(model: LanguageModel, adapters: Any) -> int:
        inputs = {"input_ids": ids, "attention_mask": ids}
        return str(jax.make_jaxpr(model.logits)(model.params, inputs, adapters)).count("dot_gen")

    assert products(plain, None) == products(language, None) < products(model, bound)


@pytest.mark.parametrize("name", ["routed", "routed block"])
def test_a_routed_adapter_is_merged_for_each_modality(name, language, trained):
    kind = KINDS[name]
    model = language.with_hook(kind.hook)
    adapters = trained(start(kind, model), std=0.1)
    table = routing_table(model, adapters, FIRST)
    words = embed(model.module, model.params, jnp.asarray([PROMPTS[2]] * 2))
    both = jnp.concatenate([FIRST[:, None], words], axis=1)
    mask = jnp.ones((2, 7), int).at[:, 0].set(0)
    whole = compiled(model.module, model.params, adapters, both, mask)
    for modality in (TEXT, IMAGE):
        merged = merge(model, bind(adapters, table, modality))
        assert_allclose(run(merged, None), whole[modality, 1:], atol=2e-5)
    with pytest.raises(MmjaxError, match="bind it first"):
        merge(model, adapters)
    if name == "routed block":  # bound before attention alone, a router still decides
        half = bind({n: x for n, x in adapters.items() if n != BLOCK}, table[:, 0], TEXT)
        with pytest.raises(MmjaxError, match="bind it first"):
            merge(model, {**half, BLOCK: adapters[BLOCK]})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, (1, 1)) for name in KINDS),
        *(("routed", shape) for shape in ((2, 1), (1, 2), (4, 2))),
        ("lora of everything", (4, 2)),
    ],
)
def test_cached_decoding_equals_the_full_forward(name, shape, language, trained, folder, mesh):
    """At every position, the prompts' padding and the modality token included."""
    kind = KINDS[name]
    model = language.with_hook(kind.hook)
    adapters = trained(start(kind, model))
    split = load_encoder(folder("llama_tiny", config=PLAIN_ROPE), mesh=mesh(*shape))
    assert isinstance(split, LanguageModel)
    split = split.with_hook(kind.hook)
    found = generate(split, PROMPTS, 8, adapters=kind.bound(split, adapters))
    rows = [[*p, *one.token_ids.tolist()] for p, one in zip(PROMPTS, found, strict=True)]
    length = max(map(len, rows))
    ids = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), 1 + length), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, 1 : 1 + len(row)] = row, 1
    words = embed(model.module, model.params, jnp.asarray(ids))
    x = jnp.concatenate([jnp.broadcast_to(FIRST[IMAGE], (len(rows), 1, 32)), words], axis=1)

    scores = compiled(model.module, model.params, adapters, x, jnp.asarray(mask))
    full = np.asarray(jax.nn.log_softmax(scores))[:, 1:]
    for i, (prompt, one) in enumerate(zip(PROMPTS, found, strict=True)):
        at = len(prompt) - 1 + np.arange(len(one.token_ids))
        assert one.token_ids.tolist() == full[i, at].argmax(-1).tolist()
        assert_allclose(one.log_probs, full[i, at].max(-1), atol=1e-4)


def test_int8_models_take_it_but_are_not_merged(kind, folder, trained):
    plain = load_encoder(folder("llama_tiny", config=PLAIN_ROPE), quantize="int8")
    assert isinstance(plain, LanguageModel)
    model = plain.with_hook(kind.hook)
    adapters = start(kind, model)
    assert_allclose(run(model, adapters), run(plain, None), atol=1e-6)
    with pytest.raises(MmjaxError, match="without it"):
        merge(model, kind.bound(model, adapters))
    with pytest.raises(MmjaxError, match="no adapter to merge"):
        merge(plain, adapters)


def test_remat_changes_memory_only(language, trained):
    kind = KINDS["routed"]
    adapters = trained(start(kind, language))
    words = embed(language.module, language.params, jnp.zeros((16, 32), int))

    def compile_with(remat):
        model = language.with_hook(kind.hook, remat=remat)

        def loss(adapters, params):
            hidden, _ = extend(model.module, params, adapters, words, jnp.ones((16, 32), int))
            return jnp.square(hidden).sum() / hidden.size

        return jax.jit(jax.grad(loss)).lower(adapters, model.params).compile()

    programs = [compile_with(remat) for remat in (False, True)]
    plain, again = (program(adapters, language.params) for program in programs)
    for a, b in zip(*map(jax.tree.leaves, (plain, again)), strict=True):
        assert_allclose(a, b, atol=1e-5)
    sizes: list[Any] = [program.memory_analysis() for program in programs]
    kept, freed = (size.temp_size_in_bytes for size in sizes)
    assert freed < kept
