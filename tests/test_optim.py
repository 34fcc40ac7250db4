from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import optim
from mmjax.errors import MmjaxError
from mmjax.spec import OptimSpec

TREE = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "logit_scale": jnp.ones(())}


def first_updates(spec, gradient) -> Any:
    tx, _ = optim.make_optimizer(spec, TREE, 10)
    return tx.update(gradient, tx.init(TREE), TREE)[0]


def test_only_kernels_decay():
    spec = OptimSpec(lr=0.1, weight_decay=0.5, schedule="constant")
    updates = first_updates(spec, jax.tree.map(jnp.zeros_like, TREE))
    np.testing.assert_allclose(updates["layer"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["layer"]["bias"], 0)
    np.testing.assert_array_equal(updates["logit_scale"], 0)


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
