import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import optim
from mmjax.errors import MmjaxError
from mmjax.spec import OptimSpec

TREE = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "logit_scale": jnp.ones(())}


def test_only_kernels_decay():
    spec = OptimSpec(lr=0.1, weight_decay=0.5, schedule="constant")
    tx, _ = optim.make_optimizer(spec, TREE, 10)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, TREE), tx.init(TREE), TREE)
    np.testing.assert_allclose(updates["layer"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["layer"]["bias"], 0)
    np.testing.assert_array_equal(updates["logit_scale"], 0)


@pytest.mark.parametrize(("kind", "end"), [("cosine", 0.01), ("linear", 0.01), ("constant", 0.1)])
def test_schedules_warm_up_and_end_where_they_say(kind, end):
    spec = OptimSpec(lr=0.1, schedule=kind, warmup_steps=10, final_fraction=0.1)
    schedule = optim.make_schedule(spec, 100)
    assert float(schedule(0)) == 0
    assert float(schedule(5)) == pytest.approx(0.05)
    assert float(schedule(10)) == pytest.approx(0.1)
    assert float(schedule(100)) == pytest.approx(end)


def test_clipping_bounds_the_gradient():
    tx, _ = optim.make_optimizer(
        OptimSpec(name="sgd", lr=1.0, b1=0.0, schedule="constant", clip_norm=1.0), TREE, 10
    )
    gradient = jax.tree.map(lambda x: jnp.full_like(x, 100.0), TREE)
    updates, _ = tx.update(gradient, tx.init(TREE), TREE)
    assert float(jnp.sqrt(sum(jnp.sum(u**2) for u in jax.tree.leaves(updates)))) <= 1.0001


def test_nothing_to_train_is_an_error():
    with pytest.raises(MmjaxError, match="no trainable parameters"):
        optim.make_optimizer(OptimSpec(), {}, 10)
