from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import optim, trees
from mmjax.errors import MmjaxError
from mmjax.losses.contrastive import info_nce
from mmjax.losses.pairs import MAX_LOGIT_SCALE
from mmjax.specs.spec import OptimSpec, RateSpec

TREE = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "logit_scale": jnp.ones(())}


def first_updates(spec, gradient) -> Any:
    tx, _ = optim.make_optimizer(spec, TREE, 10)
    return tx.update(gradient, tx.init(TREE), TREE)[0]


# What the tasks train beside kernels: matrices that decay, and what must stay free.
MATRICES = {
    "general": jnp.ones((4, 8)),  # CoOp's context
    "residual": jnp.ones((3, 8)),  # TaskRes
    "prototypes": jnp.ones((3, 8)),  # CLAP
    "keys": jnp.ones((6, 8)),  # Tip-Adapter-F
    "modality": {"embedding": jnp.ones((2, 8))},
    "down": {"kernel": jnp.ones((2, 8, 2))},
}
FREE = {
    "up": {"bias": jnp.ones((2, 3, 8))},  # of stacked layers
    "norm": {"scale": jnp.ones(8), "bias": jnp.ones(8)},
    "standardize": {"scale": jnp.ones(8), "shift": jnp.ones(8)},
    "attention": {"gate": jnp.ones(())},
    "shares": jnp.ones(6),
    "logit_scale": jnp.ones(()),
}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_matrices_decay_and_nothing_else(name):
    tree = {"matrices": MATRICES, "free": FREE}
    spec = OptimSpec(name=name, lr=0.1, weight_decay=0.5, schedule="constant", b1=0.0)
    tx, _ = optim.make_optimizer(spec, tree, 10)
    updates: Any = tx.update(jax.tree.map(jnp.zeros_like, tree), tx.init(tree), tree)[0]
    for path, update in trees.named_leaves(updates["matrices"]):
        np.testing.assert_allclose(update, -0.05, rtol=1e-6, err_msg=path)
    for path, update in trees.named_leaves(updates["free"]):
        np.testing.assert_array_equal(update, 0, err_msg=path)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_some_parameters_learn_at_rates_of_their_own(name):
    """As if each group had an optimizer of its own, whose learning rate is another."""
    tree = {"vision": {"kernel": jnp.ones((2, 2))}, "text": {"kernel": jnp.full((2, 2), 2.0)}}
    gradient = jax.tree.map(lambda x: 0.3 * x + jnp.arange(4.0).reshape(2, 2), tree)
    settings = {"name": name, "weight_decay": 0.5, "schedule": "constant"}
    slow = RateSpec("vision/.*", 0.1), RateSpec(".*/kernel", 1.0)

    def after(spec: OptimSpec) -> Any:
        tx, _ = optim.make_optimizer(spec, tree, 10)
        params, state = tree, tx.init(tree)
        for _ in range(3):
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    own, whole, tenth = (
        after(OptimSpec(lr=lr, rates=rates, **settings))
        for lr, rates in ((1e-2, slow), (1e-2, ()), (1e-3, ()))
    )
    np.testing.assert_allclose(own["vision"]["kernel"], tenth["vision"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(own["text"]["kernel"], whole["text"]["kernel"])
    notes = trees.overview(tree, optim.treatment(OptimSpec(rates=slow, weight_decay=0.5), tree))
    assert notes.splitlines()[1].endswith("decayed, learning rate x 0.1")


def test_a_rate_of_nothing_that_is_trained_is_refused():
    spec = OptimSpec(rates=(RateSpec("vision/.*", 0.1),))
    with pytest.raises(
        MmjaxError, match=r"optim.rates names .*'vision/.*' *\]; trained are layer/bias"
    ):
        optim.make_optimizer(spec, TREE, 10)
    with pytest.raises(MmjaxError, match=r"optim.rates.parameters is '\('; expected a regular"):
        RateSpec("(", 0.1)


def test_kernels_alone_decay_where_the_recipe_says_so():
    spec = OptimSpec(weight_decay=0.5, decay="kernels")
    found = dict(trees.named_leaves(optim.decayed(spec, {**MATRICES, **FREE})))
    assert [path for path, is_decayed in found.items() if is_decayed] == ["down/kernel"]


def test_params_txt_says_what_is_decayed_and_what_is_kept_in_a_range():
    spec = OptimSpec(weight_decay=0.5)
    page = trees.overview(TREE, optim.treatment(spec, TREE)).splitlines()
    assert [line.split("4  ")[-1] for line in page if "kernel" in line] == ["decayed"]
    assert page[-2].endswith("kept from 0 to 4.605")
    assert not page[0].endswith("decayed")  # the bias
    free = trees.overview(TREE, optim.treatment(OptimSpec(), TREE))
    assert "decayed" not in free


def test_decay_that_moves_nothing_is_told(caplog):
    optim.make_optimizer(OptimSpec(weight_decay=0.5), {"shares": jnp.ones(6)}, 10)
    assert "weight_decay is 0.5, but by config.optim.decay='matrices' nothing" in caplog.text


def hot_then_hard(tx, start, steps=(40, 60)):
    """logit_scale of a run: pairs that are solved, then pairs that want a high temperature."""
    rng = np.random.default_rng(0)
    image, other = rng.normal(size=(2, 16, 5))
    image, hard = (
        jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)
        for x in (image, 0.3 * image + other)
    )

    def step(carry, text):
        params, state = carry
        grads = jax.grad(lambda p: info_nce(image, text, p["heads"]["logit_scale"])[0])(params)
        updates, state = tx.update(grads, state, params)
        params: Any = optax.apply_updates(params, updates)
        return (params, state), params["heads"]["logit_scale"]

    params: Any = {"heads": {"logit_scale": jnp.float32(start)}}
    texts = jnp.stack([image] * steps[0] + [hard] * steps[1])
    run = jax.jit(lambda params, state: jax.lax.scan(step, (params, state), texts)[1])
    return np.asarray(run(params, tx.init(params)))


def test_a_learnt_temperature_comes_back_from_its_limit():
    # The trap of a clamp in the loss: at 100 for ever, whatever the later pairs want.
    spec = OptimSpec(lr=1e-2, schedule="constant")
    start = {"heads": {"logit_scale": jnp.float32(4.55)}}
    scales = hot_then_hard(optim.make_optimizer(spec, start, 100)[0], 4.55)
    limit = np.float32(MAX_LOGIT_SCALE)
    assert scales.max() == limit  # never above, and held there exactly
    assert scales[39] == limit
    assert scales[-1] < 4.2
    # As CLIP's trainers do it: the step, then the clamp.
    plain = optax.adamw(1e-2, weight_decay=0.0)

    def then_clamp(updates, state, params=None):
        updates, state = plain.update(updates, state, params)
        clip = lambda u, p: jnp.clip(p + u, 0, limit) - p  # noqa: E731
        return jax.tree.map(clip, updates, params), state

    reference = optax.GradientTransformation(plain.init, then_clamp)
    np.testing.assert_array_equal(scales, hot_then_hard(reference, 4.55))


def test_a_temperature_outside_its_range_is_brought_back_by_the_first_step():
    # A checkpoint of a run that was trained without the clamp.
    for start, expected in ((6.0, MAX_LOGIT_SCALE), (-1.0, 0.0)):
        tree = {"logit_scale": jnp.float32(start), "free": jnp.float32(start)}
        tx, _ = optim.make_optimizer(OptimSpec(), tree, 10)
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, tree), tx.init(tree), tree)
        moved: Any = optax.apply_updates(tree, updates)
        assert moved["logit_scale"] == np.float32(expected)
        assert moved["free"] == start


def test_the_range_is_kept_alike_on_any_mesh(mesh):
    tree = {"logit_scale": jnp.float32(4.6), "kernel": jnp.ones((8, 8))}
    tx, _ = optim.make_optimizer(OptimSpec(lr=1.0, schedule="constant"), tree, 10)
    grads = jax.tree.map(lambda x: -jnp.ones_like(x), tree)

    def step(tree, state):
        updates, state = tx.update(grads, state, tree)
        return optax.apply_updates(tree, updates), state

    wanted = jax.jit(step)(tree, tx.init(tree))[0]
    shardings = {
        "logit_scale": NamedSharding(mesh(4, 2), PartitionSpec()),
        "kernel": NamedSharding(mesh(4, 2), PartitionSpec(None, "model")),
    }
    placed: Any = jax.device_put(tree, shardings)
    found = jax.jit(step)(placed, tx.init(placed))[0]
    chex.assert_trees_all_equal(found, wanted)
    assert found["kernel"].sharding.is_equivalent_to(shardings["kernel"], 2)


@pytest.mark.parametrize(("kind", "end"), [("cosine", 0.01), ("linear", 0.01), ("constant", 0.1)])
def test_schedules_warm_up_and_end_where_they_say(kind, end):
    spec = OptimSpec(lr=0.1, schedule=kind, warmup_steps=10, final_fraction=0.1)
    schedule = optim.make_schedule(spec, 100)
    found = [np.asarray(schedule(step)) for step in (0, 5, 10, 100)]
    np.testing.assert_allclose(found, [0, 0.05, 0.1, end], rtol=1e-6)


def test_clipping_bounds_the_gradient():
    spec = OptimSpec(name="sgd", lr=1.0, b1=0.0, schedule="constant", clip_norm=1.0)
    gradient = jax.tree.map(lambda x: jnp.full_like(x, 100.0), TREE)
    updates = first_updates(spec, gradient)
    assert float(jnp.sqrt(sum(jnp.sum(u**2) for u in jax.tree.leaves(updates)))) <= 1.0001


def test_nothing_to_train_is_an_error():
    with pytest.raises(MmjaxError, match="no trainable parameters"):
        optim.make_optimizer(OptimSpec(), {}, 10)
