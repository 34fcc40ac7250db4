"""Adapters in the towers of tasks: they start at nothing, learn, and stay out of what is frozen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.adapters.towers import within
from mmjax.encoders.output import Tower
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

B, D, L = 6, 5, 3
HEAD = HeadSpec(out_dim=4)


def tower(role: str, adapted: bool, tokens: bool = False) -> Tower:
    """An encoder that is one map, with an adapter that is added to it."""

    def says(params: Any, inputs: Any, own: Any = 0.0) -> Any:
        found = {"features": inputs["pixel_values"] @ (params + own)}
        return found | ({"mask": jnp.ones(found["features"].shape[:2], bool)} if tokens else {})

    if not adapted:
        return Tower(role, D, says)
    return Tower(role, D, says, begin=lambda key, params: jnp.zeros_like(params), adapted=says)


def batch_of() -> dict[str, Any]:
    random = np.random.default_rng(0)
    rows = jnp.arange(B, dtype=jnp.int32)
    found = {
        role: {
            "pixel_values": jnp.asarray(random.standard_normal((B, D)), jnp.float32),
            "row": rows,
        }
        for role in ("image", "text")
    }
    foreign = jnp.asarray(random.standard_normal((B, L, D)), jnp.float32)
    return found | {"foreign": {"pixel_values": foreign, "row": rows}}


FROZEN = {role: jnp.eye(D) for role in ("image", "text", "foreign")}


def tasks(adapted: bool) -> dict[str, tuple[Any, Any, tuple[str, ...]]]:
    """(task, frozen tree, roles with an adapter)."""
    plain = ContrastiveTask(tower("image", False), tower("text", False), HEAD, HEAD, LossSpec())
    base = {**FROZEN, "base": jax.jit(plain.init)(jax.random.key(1), FROZEN, batch_of())}
    own = {role: tower(role, adapted) for role in ("image", "text")}
    joined = ContrastiveTask(own["image"], own["text"], HEAD, HEAD, LossSpec())
    language = LanguageTask(
        tower("foreign", adapted, tokens=True),
        plain,
        AdapterSpec(width=8, num_heads=2, dropout=0.0),
        LossSpec("contrastive"),
    )
    standing = ContrastiveTask(own["image"], own["text"], HEAD, HEAD, LossSpec())
    rest = WeightingSpec(), ContinualSpec("distill"), LossSpec(), None, own
    domain = DomainTask(standing, ResidualSpec(tune="none"), *rest)
    return {
        "contrastive": (joined, FROZEN, ("image", "text")),
        "language": (language, base, ("foreign",)),
        "domain": (domain, base, ("image", "text")),
    }


@pytest.mark.parametrize("name", ["contrastive", "language", "domain"])
def test_they_start_at_nothing_and_learn(name):
    task, frozen, roles = tasks(adapted=True)[name]
    bare = tasks(adapted=False)[name][0]
    batch = batch_of()
    if name == "language":
        del batch["text"]
    if name == "domain":
        batch |= {f"general_{role}": batch[role] for role in ("image", "text")}
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch)
    assert set(trainable["adapters"]) == set(roles)
    key, without = jax.random.key(2), {k: v for k, v in trainable.items() if k != "adapters"}
    run = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    (loss, _), gradient = run(trainable, frozen, batch, key)
    expected, _ = jax.jit(bare.loss)(without, frozen, batch, key)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert all(np.abs(gradient["adapters"][role]).max() > 1e-5 for role in roles)

    # What the base itself says stays what it was; what the task says does not.
    moved = {**trainable, "adapters": jax.tree.map(lambda x: x + 0.3, trainable["adapters"])}
    functions = {name: jax.jit(function) for name, function in task.functions().items()}
    for role, function in (("image", "embed_base_images"), ("text", "embed_base_texts")):
        if function in functions:
            said = [functions[function](t, frozen, batch_of()[role]) for t in (trainable, moved)]
            np.testing.assert_array_equal(*said)
    inputs = batch_of()[task.text_role]
    said = [functions["embed_texts"](t, frozen, inputs) for t in (trainable, moved)]
    assert np.abs(said[0] - said[1]).max() > 1e-3
    if name == "domain":  # and so what it holds on to
        held = run(moved, frozen, batch, key)[0][1]["forgotten"]
        assert float(held.total) > 1e-3


def test_without_adapters_the_frozen_tree_is_itself():
    assert within(FROZEN, {"heads": 1}, {}) is FROZEN
