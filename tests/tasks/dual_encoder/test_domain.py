"""The domain task: it starts at its base, weighs pairs as it is told, and holds what it should."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.encoders.output import Tower
from mmjax.losses import consolidation
from mmjax.losses.distill import unit
from mmjax.specs.dual_encoder import (
    AdapterSpec,
    ContinualSpec,
    HeadSpec,
    LossSpec,
    ResidualSpec,
    WeightingSpec,
)
from mmjax.tasks.dual_encoder.contrastive import ContrastiveTask
from mmjax.tasks.dual_encoder.domain import DomainTask
from mmjax.tasks.dual_encoder.language import LanguageTask

B, D, L = 12, 10, 3
HEAD = HeadSpec(hidden=(8,), out_dim=6, members=2)
JOINED = ContrastiveTask(Tower("image", D), Tower("text", D), HEAD, HEAD, LossSpec())
LANGUAGE = LanguageTask(
    Tower("foreign", D), JOINED, AdapterSpec(width=8, num_heads=2), LossSpec("distill_mse")
)


def features(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def batch_of(seed: int = 0) -> dict[str, Any]:
    rows = jnp.arange(B, dtype=jnp.int32)
    return {
        "image": {"features": features(seed, B, D), "row": rows},
        "text": {"features": features(seed + 1, B, D), "row": rows},
        "foreign": {
            "features": features(seed + 2, B, L, D),
            "mask": jnp.ones((B, L), bool),
            "row": rows,
        },
    }


def make(base: Any = JOINED, continual: Any = "none", weighting: Any = None, **residual: Any):
    weighting = WeightingSpec() if weighting is None else weighting
    spec = ResidualSpec(bottleneck=8, **residual)
    return DomainTask(base, spec, weighting, ContinualSpec(continual), LossSpec())


def frozen_of(base: Any) -> dict[str, Any]:
    joined = JOINED.init(jax.random.key(1), {}, batch_of(10))
    if base is JOINED:
        return {"base": joined}
    adapter = LANGUAGE.init(jax.random.key(2), {"base": joined}, batch_of(10))
    return {"base": adapter, "below": {"base": joined}}


@pytest.mark.parametrize(
    ("base", "tune", "towers"),
    [
        (JOINED, "adapter", ("image", "text")),
        (JOINED, "heads", ("image", "text")),
        (LANGUAGE, "adapter", ("text",)),
        (LANGUAGE, "heads", ("image", "text")),
    ],
)
def test_before_the_first_step_it_is_its_base_bit_by_bit(base, tune, towers):
    task, frozen, batch = make(base, tune=tune, towers=towers), frozen_of(base), batch_of()
    trainable = task.init(jax.random.key(0), frozen, batch)
    functions = task.functions()
    for kind, role in (("images", "image"), ("texts", base.text_role)):
        found = functions[f"embed_{kind}"](trainable, frozen, batch[role])
        alone = functions[f"embed_base_{kind}"](trainable, frozen, batch[role])
        np.testing.assert_array_equal(found, alone)
        # The base itself, asked without the domain task.
        below = {**frozen, **frozen.get("below", {})}
        own = base.functions()[f"embed_{kind}"](frozen["base"], below, batch[role])
        np.testing.assert_array_equal(alone, own)
    if tune == "adapter":
        assert set(trainable) == {*towers, "logit_scale"}


def test_a_frozen_tower_stays_where_it_was():
    task, frozen, batch = make(towers=("text",)), frozen_of(JOINED), batch_of()
    trainable = task.init(jax.random.key(0), frozen, batch)
    moved = jax.tree.map(lambda x: x + 0.1, trainable)
    functions = task.functions()
    for kind, role, same in (("images", "image", True), ("texts", "text", False)):
        found = functions[f"embed_{kind}"](moved, frozen, batch[role])
        alone = functions[f"embed_base_{kind}"](moved, frozen, batch[role])
        assert np.array_equal(found, alone) == same


def reference(image, text, scale, weights=None):
    """InfoNCE of every pair and its probability, float64."""
    logits = np.exp(scale) * np.asarray(image, np.float64) @ np.asarray(text, np.float64).T
    p = [np.exp(x - x.max(1, keepdims=True)) for x in (logits, logits.T)]
    p = [np.diag(x / x.sum(1, keepdims=True)) for x in p]
    return -(np.log(p[0]) + np.log(p[1])) / 2, (p[0] + p[1]) / 2


@pytest.mark.parametrize(
    ("spec", "weigh"),
    [
        (WeightingSpec(), lambda loss, p: np.ones_like(p)),
        (WeightingSpec("focal", gamma=2.0), lambda loss, p: (1 - p) ** 2),
        (WeightingSpec("loss_softmax", temperature=0.5), lambda loss, p: np.exp(loss / 0.5)),
    ],
)
def test_pairs_weigh_what_the_setting_says(spec, weigh):
    task = make(weighting=spec)
    image, text = unit(features(0, B, D)), unit(features(1, B, D))
    scale = jnp.float32(2.0)
    loss, pairs = task.pair_loss(image, text, scale, jnp.arange(B, dtype=jnp.int32))
    each, p = reference(image, text, 2.0)
    weights = weigh(each, p)
    weights /= weights.mean()
    np.testing.assert_allclose(pairs.weight, weights, rtol=1e-4)
    np.testing.assert_allclose(loss, (weights * each).mean(), rtol=1e-5)


def test_hard_negatives_change_the_loss_and_equal_captions_are_no_negatives():
    image, text = unit(features(0, B, D)), unit(features(1, B, D))
    rows, scale = jnp.arange(B, dtype=jnp.int32), jnp.float32(2.0)
    plain, hard = make(), make(weighting=WeightingSpec(beta=1.0))
    alone = plain.pair_loss(image, text, scale, rows)[0]
    assert hard.pair_loss(image, text, scale, rows)[0] > alone
    twice = text.at[1].set(text[0])
    known = plain.pair_loss(image, twice, scale, rows.at[1].set(0))[1].probability
    unknown = plain.pair_loss(image, twice, scale, rows)[1].probability
    assert np.all(known[:2] > 1.2 * unknown[:2])
    np.testing.assert_allclose(known[2:], unknown[2:], rtol=1e-5)


def test_ewc_adds_its_weighted_penalty():
    frozen, batch = frozen_of(JOINED), batch_of()
    task = make(continual="ewc", tune="heads")
    trainable = task.init(jax.random.key(0), frozen, batch)
    fisher = consolidation.fisher_diagonal(task.example_losses, trainable, frozen, [batch_of(20)])
    assert all(float(x.max()) > 0 for x in jax.tree.leaves(fisher))
    frozen["prior"] = consolidation.Prior(trainable, fisher)
    moved = jax.tree.map(lambda x: x + 0.1, trainable)
    plain = make(tune="heads").loss(moved, frozen, batch, jax.random.key(3))[0]
    held, metrics = task.loss(moved, frozen, batch, jax.random.key(3))
    expected = sum(0.1**2 * np.asarray(x).sum() for x in jax.tree.leaves(fisher)) / 2
    np.testing.assert_allclose(held - plain, expected, rtol=1e-3)
    np.testing.assert_allclose(metrics["forgotten"].total, expected, rtol=1e-4)
    at_anchor = task.loss(trainable, frozen, batch, jax.random.key(3))[1]
    assert float(at_anchor["forgotten"].total) == 0


def test_distillation_is_the_angle_to_the_base_on_what_the_base_knows():
    frozen, batch, other = frozen_of(JOINED), batch_of(), batch_of(30)
    batch |= {"general_image": other["image"], "general_text": other["text"]}
    task = make(continual="distill")
    trainable = task.init(jax.random.key(0), frozen, batch)
    # Not at the base itself, where the gradient of an angle is zero.
    moved = jax.tree.map(lambda x: x + 0.3, trainable)
    held = task.loss(moved, frozen, batch, jax.random.key(3))[1]["forgotten"].total
    functions = task.functions()
    expected = 0.0
    for kind, role in (("images", "image"), ("texts", "text")):
        after = np.asarray(functions[f"embed_{kind}"](moved, frozen, other[role]))
        before = np.asarray(functions[f"embed_base_{kind}"](moved, frozen, other[role]))
        expected += 1 - (after * before).sum(axis=1).mean()
    np.testing.assert_allclose(held, expected, rtol=1e-4)
    at_base = task.loss(trainable, frozen, batch, jax.random.key(3))[1]["forgotten"].total
    np.testing.assert_allclose(at_base, 0, atol=1e-6)
